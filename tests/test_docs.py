"""The code of the README and of the documentation runs, and what they say about commands, files and tests is so."""

import json
import re
from pathlib import Path

import optuna
import pytest

import fade_study

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]}
LINES = 200
BYTES = 12_000
CHARACTERS = 160


def examples(name):
    return re.findall(r"```python\n(.*?)```", PAGES[name].read_text(), flags=re.DOTALL)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for fade.db
    monkeypatch.setenv("MPLBACKEND", "agg")


WINNER = "use-the-winner.md"
"""Needs a search, so it runs after that of ``test_wheel.py``."""


@pytest.mark.filterwarnings("ignore:the supernet has hardly trained", "ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", [name for name in PAGES if examples(name) and name != WINNER])
def test_examples_run_in_order(name, capsys):
    namespace = {}
    for block in examples(name):
        exec(compile(block, name, "exec"), namespace)
    output = capsys.readouterr().out
    check = {"README.md": check_readme, "results.md": check_results, "extending.md": check_extending}
    check.get(name, lambda *_: None)(namespace, output)


@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs(capsys):
    namespace = {}
    for cell in json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "notebook", "exec"), namespace)
    assert len(namespace["study"].evaluations()) == 3
    accuracy = re.search(r"test accuracy (\S+);", capsys.readouterr().out)
    assert float(accuracy[1]) > 0.5  # of 5 classes


def check_readme(namespace, output):
    assert "(3, 2, 3)" in output
    mine = optuna.load_study(study_name="mine", storage="sqlite:///fade.db")
    assert [trial.state.name for trial in mine.trials] == ["COMPLETE"] * 3
    assert namespace["study"].ask().hyper_architecture.shape == (2, 5)


def check_results(_, output):
    assert "625 architectures × 5 seeds" in output


def check_extending(_, output):
    assert "SpaceDiagnostics(cells=342" in output


def test_examples_of_the_readme_are_short():
    loop, sampler = examples("README.md")
    assert len([line for line in loop.splitlines() if line]) <= 18
    assert len(sampler.splitlines()) <= 25


def test_readme_is_short():
    assert len(README.splitlines()) <= LINES
    assert len(README.encode()) <= BYTES
    assert max(map(len, README.splitlines())) <= CHARACTERS


def test_the_commands_are_there_to_paste():
    for command in (
        "python3 -m venv .venv && . .venv/bin/activate && pip install -e . && mlflow run . -e search",
        "python3 -m venv .venv && . .venv/bin/activate && pip install -e '.[test]' && pytest",
    ):
        assert f"```bash\n{command}\n```" in README


def test_number_of_points_that_the_papers_features_share():
    found = fade_study.DagSpace(5).diagnostics()
    assert (found.cells, found.points) == (342, 98)
    assert "the 342 DAGs of 1 to 5 vertices share 98 points" in PAGES["faithfulness.md"].read_text()


@pytest.mark.parametrize("name", PAGES)
def test_links_and_pictures_exist(name):
    for link in re.findall(
        r"\]\(([^)]+)\)", re.sub(r"```.*?```|`[^`]*`", "", PAGES[name].read_text(), flags=re.DOTALL)
    ):
        target, _, heading = link.partition("#")
        if target.startswith("http"):
            continue
        # On the built site, the first page is the README and the page on contributing is CONTRIBUTING.md.
        page = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}.get(target, target)
        path = PAGES[page] if page in PAGES else PAGES[name].parent / (target or name)
        assert path.exists(), link
        assert not heading or heading in headings(path), link


def headings(path):
    titles = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_in_a_table_of_contents():
    contents = re.findall(r"^[\w-]+$", PAGES["index.md"].read_text(), flags=re.MULTILINE)
    assert sorted(f"{name}.md" for name in contents) == sorted(path.name for path in ROOT.glob("docs/[!i]*.md"))


def test_every_row_of_what_survives_what_names_a_test():
    section = PAGES["reliability.md"].read_text().split("## What survives what")[1].split("\n## ")[0]
    rows = [line.split("|")[3] for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 10
    files = {file.name: file.read_text() for file in (ROOT / "tests").rglob("test_*.py")}
    for row in rows:
        names = re.findall(r"`(test_\w+)(\.py|_?…)`", row)
        assert names, row
        for name, ending in names:
            assert f"{name}.py" in files if ending == ".py" else any(f"def {name}" in text for text in files.values())
