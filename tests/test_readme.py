"""The README's code runs, and what it says about commands is so."""

import re
from pathlib import Path

import optuna
import pytest

import fade_study

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:the supernet has hardly trained")
def test_examples_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 4
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    output = capsys.readouterr().out
    assert "(3, 2, 3)" in output
    assert "625 architectures × 5 seeds" in output
    assert "SpaceDiagnostics(cells=342" in output
    assert fade_study.DagSpace(5).diagnostics().points == 98
    assert "the 342 DAGs of 1 to 5 vertices share 98 points" in README
    assert optuna.load_study(study_name="mine", storage="sqlite:///fade.db").trials[2].state.name == "PRUNED"
    assert namespace["study"].ask().hyper_architecture.shape == (2, 5)


def test_examples_are_short():
    first, scores, sampler, feature = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in first.splitlines() if line]) <= 15
    assert len(scores.splitlines()) <= 10
    assert len(sampler.splitlines()) <= 25
    assert len(feature.splitlines()) <= 10


def test_the_commands_are_there_to_paste():
    for command in (
        "python3 -m venv .venv && . .venv/bin/activate && pip install -e . && mlflow run . -e search",
        "python3 -m venv .venv && . .venv/bin/activate && pip install -e '.[test]' && pytest",
    ):
        assert f"```bash\n{command}\n```" in README


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_every_row_of_what_survives_what_names_a_test():
    section = README.split("## What survives what")[1].split("\n## ")[0]
    rows = [line.split("|")[3] for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 10
    files = {file.name: file.read_text() for file in (ROOT / "tests").rglob("test_*.py")}
    for row in rows:
        names = re.findall(r"`(test_\w+)(\.py|_?…)`", row)
        assert names, row
        for name, ending in names:
            assert f"{name}.py" in files if ending == ".py" else any(f"def {name}" in text for text in files.values())
