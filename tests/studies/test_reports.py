"""Situations that users of similar tools have reported as bugs, reproduced here."""

import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import mlflow
import numpy as np
import pytest

import fade_study
from fade_study import HyperArchitecture, enumerate_dags, tracking
from fade_study.exceptions import InvalidInputError
from fade_study.studies.command import CONFIGS, again, further
from fade_study.studies.options import parse_config
from fade_study.studies.schemas import SearchConfig
from fade_study.studies.search import search as search_study
from fade_study.study import ownership
from fade_study.training import BilevelConfig, OptimizerConfig, train_hyper_architecture
from tests.conftest import ROOT
from tests.studies.test_search import environment, runs

pytestmark = pytest.mark.filterwarnings("ignore")


def command(folder, study, *arguments, **changes):
    """Run a study's command in a folder, with the code of this checkout."""
    return subprocess.run(
        [sys.executable, "-m", "fade_study", study, *arguments],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT), **changes),
        capture_output=True,
        text=True,
        check=False,
    )


def search(folder, *arguments, **changes):
    return command(folder, "search", "--preset", "smoke", "--study", "digits", *arguments, **changes)


@pytest.fixture
def folders(tmp_path, mlflow_store):
    """Two folders of two people who share a tracking server."""
    made = [tmp_path / name for name in "ab"]
    for folder in made:
        folder.mkdir()
    return made


@pytest.mark.slow
def test_studies_of_one_name_in_two_folders_keep_their_records(folders):
    one, other = folders
    assert search(one, "--seed", "1").returncode == 0
    for generations in ("1", "3"):  # the second command continues the study of the first
        done = search(other, "--seed", "2", "--depth", "3", "--generations", generations)
        assert done.returncode == 0, done.stdout + done.stderr
    parents = runs("search")
    children = {
        p.info.run_id: [r for r in runs() if r.data.tags.get("mlflow.parentRunId") == p.info.run_id] for p in parents
    }
    first = next(run for run in parents if run.data.params["config.depth"] == "2")
    assert "fade.continued_by" not in first.data.tags
    assert len(children[first.info.run_id]) == 2 + 2
    newest = next(run for run in parents if run.data.params["config.generations"] == "3")
    cells = [set(run.data.params) for run in children[newest.info.run_id] if run.data.tags["fade.kind"] == "hyper"]
    assert len(cells) == 3
    assert all("cell/row2/column0" in params for params in cells)


@pytest.mark.slow
def test_a_file_store_takes_the_record(tmp_path):
    """A file store cannot hold a metric beside a folder of the same name."""
    folder = tmp_path / "here"
    folder.mkdir()
    uri = (tmp_path / "store").as_uri()
    done = search(folder, MLFLOW_TRACKING_URI=uri, MLFLOW_ALLOW_FILE_STORE="true")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "refuses" not in output
    assert "does not answer" not in output
    with sqlite3.connect(folder / "checkpoints" / "outbox.db") as outbox:
        assert outbox.execute("SELECT count(*) FROM records").fetchone() == (0,)


@pytest.mark.slow
def test_a_run_that_was_used_is_not_used_again(folders):
    folder, _ = folders
    for used in ("finished", "running"):
        run = mlflow.MlflowClient().create_run("0")
        if used == "finished":
            mlflow.MlflowClient().set_terminated(run.info.run_id)
        else:
            mlflow.MlflowClient().log_metric(run.info.run_id, "loss", 1.0)
        done = search(folder, MLFLOW_RUN_ID=run.info.run_id)
        assert done.returncode == 1
        assert "expected MLFLOW_RUN_ID to name a run that nothing was recorded in yet" in done.stderr
        assert not (folder / "fade.db").exists()
    fresh = mlflow.MlflowClient().create_run("0")
    assert search(folder, MLFLOW_RUN_ID=fresh.info.run_id).returncode == 0
    assert [run.info.run_id for run in runs("search")] == [fresh.info.run_id]


@pytest.mark.slow
def test_an_old_search_is_not_evaluated_on_other_images(folders):
    folder, _ = folders
    rng = np.random.default_rng(0)
    arrays = {"images": rng.random((60, 8, 8)), "labels": np.arange(60) % 2}
    np.savez(folder / "own.npz", **arrays)
    own = ["--data.name", "npz:own.npz", "--data.limit", "null", "--evaluate_every", "0", "--bilevel.batch_size", "4"]
    own += ["--scratch.batch_size", "4"]
    assert search(folder, *own).returncode == 0
    (run,) = runs("search")
    np.savez(folder / "own.npz", images=arrays["images"][::-1], labels=arrays["labels"])
    done = command(folder, "evaluate", "--run_id", run.info.run_id, "--executor", "inline")
    assert done.returncode == 1
    assert "expected the images that run" in done.stderr
    assert "accuracy/test" not in mlflow.get_run(run.info.run_id).data.metrics
    np.savez(folder / "own.npz", **arrays)
    done = command(folder, "evaluate", "--run_id", run.info.run_id, "--executor", "inline")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_terminal_that_knows_ascii_alone(folders):
    folder, _ = folders
    done = search(folder, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\\xb1" in done.stdout, "the plus-minus sign of an accuracy"
    assert command(folder, "search", "--help", PYTHONIOENCODING="ascii", PYTHONUTF8="0").returncode == 0


@pytest.mark.slow
def test_a_name_with_an_apostrophe(folders):
    folder, _ = folders
    for generations in ("1", "2"):
        done = search(folder, "--study", 'Anna\'s "best"', "--generations", generations)
        assert done.returncode == 0, done.stdout + done.stderr
    newest, oldest = runs("search")
    assert oldest.data.tags["fade.continued_by"] == newest.info.run_id


def test_the_commit_is_not_that_of_a_repository_around_it(tmp_path):
    """The package may be installed in an environment that lies within another project's repository."""
    packages = tmp_path / "project" / "environment" / "site-packages"
    shutil.copytree(ROOT / "fade_study", packages / "fade_study", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(tmp_path / "project"), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "project" / "README").write_text("of another project")
    for arguments in (["init", "-q"], ["add", "README"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    script = "from fade_study import tracking; print(tracking.__file__, tracking.commit())"
    changes = environment(PYTHONPATH=str(packages))
    found = subprocess.run(
        [sys.executable, "-c", script], env=changes, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    file, commit = found.stdout.split()
    assert file.startswith(str(packages))
    assert commit == "unknown"


def test_machines_of_one_name_are_told_apart(monkeypatch):
    """Machines that were made from one image have the same name."""
    mine = ownership._here()
    assert mine["boot"]
    assert ownership._is_here(mine | {"pid": 1})
    assert not ownership._is_here(mine | {"boot": "another"})


def test_trainings_in_threads_are_those_of_each_alone(digits):
    hyper = HyperArchitecture((tuple(enumerate_dags(2)),) * 2)
    config = BilevelConfig(epochs=2, batch_size=32, optimizer=OptimizerConfig(learning_rate=0.01))
    alone = [train_hyper_architecture(hyper, digits, config, seed=seed) for seed in (0, 1)]
    together = {}

    def train(seed):
        together[seed] = train_hyper_architecture(hyper, digits, config, seed=seed)

    threads = [threading.Thread(target=train, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, result in enumerate(alone):
        np.testing.assert_array_equal(together[seed].losses.losses, result.losses.losses)
        np.testing.assert_array_equal(together[seed].alpha, result.alpha)


@pytest.mark.parametrize("surroundings", ["float64", "no_grad", "inference_mode", "autocast"])
def test_what_surrounds_a_training_changes_nothing(digits, surroundings):
    import torch

    hyper = HyperArchitecture((tuple(enumerate_dags(2)),) * 2)
    config = BilevelConfig(epochs=2, batch_size=32, optimizer=OptimizerConfig(learning_rate=0.01), sweep_paths=8)
    plain = train_hyper_architecture(hyper, digits, config, seed=0)
    contexts = {
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "float64": torch.no_grad,
    }
    if surroundings == "float64":
        torch.set_default_dtype(torch.float64)
    try:
        with contexts[surroundings]():
            found = train_hyper_architecture(hyper, digits, config, seed=0)
        assert torch.get_default_dtype() == (torch.float64 if surroundings == "float64" else torch.float32)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found.alpha, plain.alpha)


@pytest.mark.slow
def test_no_metric_is_the_folder_of_another(folders):
    """This covers all metrics of searches, validations and comparisons."""
    folder, _ = folders
    assert search(folder, "--final_seeds", "2").returncode == 0
    assert command(folder, "validate", "--preset", "smoke").returncode == 0
    assert command(folder, "compare", "--preset", "smoke", "--searchers", "[fade]").returncode == 0
    names = {name for run in runs() for name in run.data.metrics}
    assert len(names) > 100
    folders_of_names = {name[:i] for name in names for i, letter in enumerate(name) if letter == "/"}
    assert not names & folders_of_names


def test_data_that_are_not_a_runs_own_are_refused(mlflow_store, digits):
    from fade_study.training import DataConfig, load_data

    with tracking.start_study("search", SearchConfig(), "cpu", digits) as run:
        pass
    tracking.check_conditions(run.id, digits, {})
    with pytest.raises(InvalidInputError, match="got digits with digest"):
        tracking.check_conditions(run.id, load_data(DataConfig(limit=301)), {})
    own = {"fade_study.cells.dag:Dag": "mine:build"}
    with pytest.raises(InvalidInputError, match=r"expected the builders of cells .* none of its own, got .*mine:build"):
        tracking.check_conditions(run.id, digits, own)
    with tracking.start_study("search", SearchConfig(), "cpu", digits, builders=own) as run:
        pass
    tracking.check_conditions(run.id, digits, own)
    with pytest.raises(InvalidInputError, match=r"mine:build.*, got none; .* import their module first"):
        tracking.check_conditions(run.id, digits, {})
    assert os.environ["MLFLOW_TRACKING_URI"] == mlflow_store


@pytest.mark.slow
def test_a_launcher_that_starts_fewer_processes_than_asked_for_is_told_of(folders):
    folder, _ = folders
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    done = subprocess.run(
        [*launcher, "-m", "fade_study", "search", "--preset", "smoke"],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "expected 2 processes, as accelerate launch was asked for, got one" in done.stdout + done.stderr
    assert runs() == []


@pytest.mark.slow
def test_a_run_that_somebody_deletes_does_not_fail_the_search(folders, monkeypatch):
    """The children of the lost run become those of the run that continues it."""
    folder, _ = folders
    monkeypatch.chdir(folder)
    config = parse_config(SearchConfig, CONFIGS / "search", ["--preset", "smoke", "--study", "s", "--generations", "1"])
    finish = tracking.Run.text

    def delete(run, text, file):
        finish(run, text, file)
        if file == tracking.schema.RECORD:
            mlflow.delete_run(run.id)

    monkeypatch.setattr(tracking.Run, "text", delete)
    (study,) = search_study(config)
    assert len(study.trajectory()) == 1
    assert runs("search") == []
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    search_study(dataclasses.replace(config, generations=2))
    (run,) = runs("search")
    children = [child for child in runs() if child.data.tags.get("mlflow.parentRunId") == run.info.run_id]
    assert {child.info.run_id for child in children} == {one.info.run_id for one in runs("hyper") + runs("scratch")}
    assert sorted(hyper.data.params["generation"] for hyper in runs("hyper")) == ["0", "1"]


def test_help_makes_no_file(tmp_path):
    done = command(tmp_path, "deliver", "--help")
    assert done.returncode == 0
    assert "Deliver records to MLflow" in done.stdout
    assert list(tmp_path.iterdir()) == []


WHERE = """
import os, sys
sys.path.insert(0, {root!r})
from fade_study.studies.command import again, go_to_caller
go_to_caller()
print(os.getcwd(), again("mine"), sep="|")
"""


@pytest.mark.parametrize(
    ("caller", "continued"),
    [
        (["python", "-c", "{api}"], None),
        (["python", "pipeline.py", "run", "--fast"], None),
        (["python", "bin/mlflow", "run", ".", "-P", "preset=smoke"], "mlflow run . -P preset=smoke -P study=mine"),
        (["python", "bin/mlflow", "run", ".", "-P", "study=my study"], "mlflow run . -P 'study=my study'"),
        (["python", "bin/mlflow", "run", ".", "-Pstudy=x"], "mlflow run . -Pstudy=x"),
        (["python", "bin/mlflow", "run", ".", "-P", "study=null"], "mlflow run . -P study=mine"),
    ],
)
@pytest.mark.parametrize("shell", ["exec", "wait"])
def test_a_project_runs_where_its_caller_is(tmp_path, caller, continued, shell):
    """A caller may be MLflow's command or a program that uses its API, with or without a shell in between."""
    folder, project = tmp_path / "user", tmp_path / "project"
    (folder / "bin").mkdir(parents=True)
    project.mkdir()
    (project / "where.py").write_text(WHERE.format(root=str(ROOT)))
    last = {"exec": "", "wait": "; true"}[shell]
    command = f"FADE_PROJECT=1 {sys.executable} where.py{last}"
    api = f"import subprocess; subprocess.run(['bash', '-c', {command!r}], cwd={str(project)!r}, check=True)"
    for name in ("pipeline.py", "bin/mlflow"):
        (folder / name).write_text(api)
    words = [word.replace("{api}", api) for word in caller]
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=folder, env=environment(), capture_output=True, text=True, check=True
    )
    where, said = done.stdout.strip().split("|")
    assert where == str(folder)
    assert said == continued if continued else said.startswith("fade search")


def test_a_program_outside_of_projects_stays_where_it_is(tmp_path):
    (tmp_path / "where.py").write_text(WHERE.format(root=str(ROOT)))
    (tmp_path / "MLproject").write_text("name: mine")
    done = subprocess.run(
        [sys.executable, "where.py"], cwd=tmp_path, env=environment(MLFLOW_RUN_ID="x"), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.startswith(f"{tmp_path}|")


def mlflow_run(folder, project, *arguments, **changes):
    return subprocess.run(
        [Path(sys.executable).parent / "mlflow", "run", project, "-e", "search", "-P", "preset=smoke", *arguments],
        cwd=folder,
        env=environment(**changes),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "git URI"])
def test_a_project_elsewhere_keeps_its_state_with_the_user(folders, project, kind, tmp_path):
    """MLflow runs the project of a git URI in a temporary clone, where a study's state would be lost."""
    folder, _ = folders
    address = str(project)
    if kind == "git URI":
        shutil.copytree(ROOT / "fade_study", project / "fade_study", ignore=shutil.ignore_patterns("__pycache__"))
        for arguments in (
            ["init", "-q"],
            ["add", "."],
            ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm1"],
        ):
            subprocess.run(["git", "-C", project, *arguments], check=True)
        address = project.as_uri()
    before = sorted(project.iterdir())
    for generations in ("1", "2"):
        done = mlflow_run(folder, address, "-P", "study=digits", "-P", f"generations={generations}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"Study 'digits' in sqlite:///{folder / 'fade.db'}" in done.stdout
    assert sorted(project.iterdir()) == before
    newest, oldest = runs("search")
    assert oldest.data.tags["fade.continued_by"] == newest.info.run_id
    assert {file.name for file in folder.iterdir()} == {"fade.db", "checkpoints"}
    done = mlflow_run(folder, address, "-P", "processes=2", "-P", "generations=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"goes on with it: mlflow run {address} -e search -P preset=smoke -P processes=2" in done.stdout
    assert " -P study=search-" in done.stdout


@pytest.mark.slow
def test_a_python_in_a_folder_with_a_space(folders, project, tmp_path):
    folder, _ = folders
    python = tmp_path / "my environment" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    done = mlflow_run(folder, project, "-P", "generations=1", FADE_PYTHON=str(python))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_clone_that_is_not_installed(folders):
    """A package that is only on PYTHONPATH has no metadata with its version."""
    folder, _ = folders
    script = (
        "import sys, importlib.metadata as metadata; known = metadata.version\n"
        "def version(name):\n    if name.startswith('fade'): raise metadata.PackageNotFoundError(name)\n"
        "    return known(name)\n"
        "metadata.version = version\n"
        "import runpy; sys.argv = ['fade', 'search', '--preset', 'smoke', '--generations', '1']\n"
        "runpy.run_module('fade_study', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = runs("search")
    assert run.data.params["package.fade-study"] == fade_study.__version__


@pytest.mark.slow
def test_a_deleted_experiment_is_named(folders):
    folder, _ = folders
    experiment = mlflow.create_experiment("mine")
    mlflow.delete_experiment(experiment)
    done = search(folder, MLFLOW_EXPERIMENT_ID=experiment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "run the same command again with MLFLOW_EXPERIMENT_NAME set to another experiment's" in done.stderr


@pytest.mark.slow
def test_a_search_in_a_thread_ends_quietly(folders):
    folder, _ = folders
    script = (
        "import threading\n"
        "from fade_study.studies.options import parse_config\nfrom fade_study.studies.schemas import SearchConfig\n"
        "from fade_study.studies.command import CONFIGS\n"
        "from fade_study.studies.search import search\n"
        "config = parse_config(SearchConfig, CONFIGS / 'search', ['--preset', 'smoke', '--generations', '1'])\n"
        "thread = threading.Thread(target=search, args=(config,)); thread.start(); thread.join()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=folder, env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    assert [run.info.status for run in runs("search")] == ["FINISHED"]


@pytest.mark.parametrize(
    ("words", "continued"),
    [
        ([], "fade search --study mine"),
        (["--study", "null"], "fade search --study mine"),
        (["--study=~", "--seed", "1"], "fade search --study=mine --seed 1"),
        (["--study", "other"], "fade search --study other"),
    ],
)
def test_a_study_without_a_name_is_continued_by_the_one_it_got(monkeypatch, words, continued):
    monkeypatch.setattr(sys, "argv", ["fade", *words])
    assert again("mine") == continued


def test_further_commands_are_typed_as_this_one_was(monkeypatch):
    assert further("train", run_id="abc", epochs=4) == "fade train --run_id abc --epochs 4"
    monkeypatch.setenv("FADE_TYPED", json.dumps(["mlflow", "run", ".", "-e", "search"]))
    assert further("train", run_id="abc", epochs=4) == "mlflow run . -e train -P run_id=abc -P epochs=4"
