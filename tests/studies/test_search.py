"""The search as a user starts it: real processes, real stores."""

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import optuna
import pytest
import torch

import fade_study
from fade_study import HyperArchitecture
from fade_study.benchmarks import Table, Trainings, load_table
from fade_study.nn import Supernet
from fade_study.studies import answer, search_log, trainings
from fade_study.studies.command import CONFIGS
from fade_study.studies.evaluations import Evaluations
from fade_study.studies.options import parse_config
from fade_study.studies.schemas import SamplerConfig, SearchConfig
from fade_study.studies.search import search as search_study
from fade_study.studies.search_log import BEST_RANKED, SearchLog
from fade_study.training import load_data, recipe

BIN = Path(sys.executable).parent


def environment(**changes):
    """Without pyenv, and with no MLflow run of somebody else's."""
    keep = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")}
    return keep | {"PATH": f"{BIN}:/usr/bin:/bin", "PYTHONUNBUFFERED": "1"} | changes


def mlflow_run(project, *arguments):
    """The verbatim command."""
    return subprocess.run(
        [BIN / "mlflow", "run", ".", *arguments],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def search(project, *arguments, **options):
    # Ctrl-C works as in a terminal, also where these tests run in a shell's background, whose children ignore it.
    python = ["env", "--default-signal=INT", sys.executable]
    command = [*python, "-m", "fade_study", "search", "--preset", "smoke", *arguments]
    return subprocess.Popen(
        command,
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def wait_for(process, text):
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    pytest.fail(f"{text!r} never came:\n{''.join(seen)}")


def runs(kind=None):
    found = mlflow.search_runs(search_all_experiments=True, output_format="list")
    return [run for run in found if kind is None or run.data.tags.get("fade.kind") == kind]


def artifacts(run, folder=None):
    return {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id, folder)}


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_mlflow_run_searches_and_records(project, mlflow_store, processes):
    arguments = ["-P", "preset=smoke", "-P", "study=first", "-P", f"processes={processes}"]
    result = mlflow_run(project, "-e", "search", *arguments)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert "generation 1 (2 of 2): " in output
    assert "one-shot accuracy" in output
    assert "Best of 1 architectures trained from scratch" in output
    assert "mlflow ui --backend-store-uri" in output

    (parent,) = runs("search")
    assert parent.info.status == "FINISHED"
    assert {run.info.status for run in runs()} == {"FINISHED"}
    assert parent.info.run_id in output
    data = parent.data
    assert data.params["config.generations"] == "2"
    features = ("eccentricity_variance", "degree_variance", "vertices")
    expected = {f"anchor/row{i}/{feature}" for i in (0, 1) for feature in features}
    expected |= {f"alpha/row{i}/{which}" for i in (0, 1) for which in ("anchor", "largest")}
    expected |= {"alpha_entropy/row0", "alpha_entropy/row1", "collisions", "movement", "coverage"}
    expected |= {"one_shot_accuracy", "hyper_seconds", "accuracy/test", "accuracy/validation", "best/test_accuracy"}
    assert expected <= set(data.metrics)
    assert not any("column" in name for name in data.metrics)
    assert parent.info.run_name == "first"
    assert data.tags["mlflow.note.content"].startswith("**Winner: test accuracy ")
    assert f"pictures/trajectory.png&run_uuid={parent.info.run_id})" in data.tags["mlflow.note.content"]
    assert "trajectory.png" in {Path(path).name for path in artifacts(parent, "pictures")}
    history = mlflow.MlflowClient().get_metric_history(parent.info.run_id, "anchor/row0/vertices")
    assert [metric.step for metric in history] == [0, 1]
    assert {"config.yaml", "ranks.json", "search.json", "figures"} <= artifacts(parent)
    assert {Path(path).stem for path in artifacts(parent, "figures")} == {
        "alpha_last_generation", "anchor_cells", "best_architecture", "coverage", "generations", "movement",
        "trajectory",
    }  # fmt: skip
    assert parent.inputs.dataset_inputs[0].dataset.name == "digits"

    hyper, scratch = runs("hyper"), runs("scratch")
    assert (len(hyper), len(scratch)) == (2, 2)
    assert {run.data.tags["mlflow.parentRunId"] for run in hyper + scratch} == {parent.info.run_id}
    for run in hyper:
        assert {"loss/weights", "accuracy/validation", "alpha/row1/column6"} <= set(run.data.metrics)
        assert artifacts(run) == {"effects.json", "figures", "pictures", "hyper_architecture.json"}
        assert ("fade.warning" in run.data.tags) == (run.data.metrics["one_shot_accuracy"] < 0.19)
    assert {run.data.params["seed"] for run in scratch} == {"0", "1"}
    assert {run.info.run_name for run in hyper} == {"gen0 hyper", "gen1 hyper"}
    assert {run.info.run_name for run in scratch} == {"gen1 scratch seed0", "gen1 scratch seed1"}
    assert {run.data.params["generation"] for run in scratch} == {"1"}

    study = fade_study.load_study(
        study_name="first", storage=f"sqlite:///{project / 'fade.db'}", space=fade_study.DagSpace(3)
    )
    assert study.trajectory().shape == (2, 2, 3)
    last = np.array([[data.metrics[f"anchor/row{i}/{feature}"] for feature in features] for i in (0, 1)])
    np.testing.assert_array_equal(study.anchors, last)
    assert study.best_architecture.key == data.tags["fade.best_architecture"]


def test_mlflow_run_refuses_bad_parameters(project, mlflow_store):
    result = mlflow_run(project, "-P", "preset=smoke", "-P", "generations=0", "-P", "colour=red")
    assert result.returncode != 0
    output = result.stdout + result.stderr
    assert "generations: Input should be greater than 0, got 0" in output
    assert "colour: unknown name" in output
    assert "Traceback" not in output.split("ConfigError")[1].split("mlflow")[0]
    (run,) = runs()  # the one that `mlflow run` makes before it starts us
    assert run.info.status == "FAILED"
    assert "fade.kind" not in run.data.tags
    assert not (project / "fade.db").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.name", "npz:missing.npz"], "expected an .npz that can be read"),
        (["--bilevel.batch_size", "200"], "expected 16 weight steps or more, from whose losses"),
        (["--storage", "sqlite:////no/such/folder/fade.db"], "a storage that can be opened"),
        (["--depth", "0"], "depth: Input should be greater than 0"),
        (["--preset", "missing"], "expected one of digits, fashion, fashion14, paper, smoke"),
        (["--executor", "processes:0"], "expected an executor 'inline', 'processes:N'"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(mlflow_store, arguments, message, capsys):
    with pytest.raises(fade_study.FadeError, match=message):
        search_study(parse_config(SearchConfig, CONFIGS / "search", ["--preset", "smoke", *arguments]))
    assert "New study" not in capsys.readouterr().out
    assert runs() == []
    assert not Path("fade.db").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network.operation", "missing:pooling"], "separable or package.module:function that can be imported, got"),
        (["--network.operation", "os:getpid"], "network.operation: expected os:getpid(channels=8, kernel_size=3)"),
    ],
)
def test_a_command_that_is_refused_says_so_without_a_traceback(project, mlflow_store, arguments, message):
    process = search(project, *arguments)
    output, _ = process.communicate()
    assert process.returncode != 0
    assert message in output
    assert "Traceback" not in output
    assert "New study" not in output
    assert runs() == []
    assert not (project / "fade.db").exists()


@pytest.mark.slow
def test_a_search_with_separable_convolutions_is_another_study(project, mlflow_store):
    arguments = ["--study", "s", "--executor", "processes:2", "--bilevel.share_weights", "true"]
    found = []
    for more in (["--network.operation", "separable"], []):
        process = search(project, *arguments, *more)
        output, _ = process.communicate()
        found.append((process.returncode, output))
    assert found[0][0] == 0, found[0][1]
    (scratch,) = {run.data.params["recipe"] for run in runs("scratch")}
    smoke = parse_config(SearchConfig, CONFIGS / "search", ["--preset", "smoke", "--network.operation", "separable"])
    assert scratch == recipe(load_data(smoke.data), smoke.scratch, smoke.network)
    assert found[1][0] != 0
    assert "network.operation is 'separable' in the study and 'convolution' here" in found[1][1]


def stored(project):
    study = fade_study.load_study(
        study_name="s", storage=f"sqlite:///{project / 'fade.db'}", space=fade_study.DagSpace(3)
    )
    told = [t for t in study.optuna_study.trials if t.state.name == "PRUNED"]
    kept = ("fade:alpha", "fade:cells", "fade:points", "fade:generation")  # but for owners and seconds
    generations = [(t.params, {name: t.user_attrs[name] for name in kept}, t.intermediate_values) for t in told]
    # Evaluations are told when they are done, which is not always after the same generation.
    return generations, [(e.generation, e.architecture.key, e.value) for e in study.evaluations()]


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(project, mlflow_store, mlflow_template, tmp_path, monkeypatch):
    arguments = ["--study", "s", "--generations", "2"]
    process = search(project, *arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    whole = stored(project)
    assert len(whole[0]) == 2
    assert [generation for generation, _, _ in whole[1]] == [1]

    # Again from nothing, with a tracking store that knows none of the results, and killed.
    (project / "fade.db").unlink()
    other = tmp_path / "other.db"
    shutil.copy(mlflow_template, other)
    with sqlite3.connect(other) as database:
        database.execute("UPDATE experiments SET artifact_location = ?", (str(tmp_path / "other_artifacts"),))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    process = search(project, *arguments)
    wait_for(process, "(1 of 2)")
    process.kill()
    process.communicate()
    process = search(project, *arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "(1 of 2)" not in output
    assert stored(project) == whole

    # And once more: nothing is left to do, and that is no error.
    process = search(project, *arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "Best of" in output
    drawn = {f"figures/{name}.{kind}" for kind in ("png", "svg") for name in ("best_architecture", "generations")}
    assert {*drawn, "figures/alpha_last_generation.png"} <= {*artifacts(runs("search")[0], "figures")}
    assert stored(project) == whole


@pytest.mark.slow
def test_a_study_with_other_settings_is_refused(project, mlflow_store):
    assert search(project, "--study", "s", "--generations", "1").wait() == 0
    before = len(runs())
    changes = ["--sampler.offset", "0.2", "--space.max_vertices", "4", "--scratch.epochs", "1", "--data.limit", "320"]
    process = search(project, "--study", "s", "--generations", "2", *changes)
    output, _ = process.communicate()
    assert process.returncode != 0
    assert "sampler.offset is 0.5 in the study and 0.2 here" in output
    assert "space.cells is 9 in the study and 40 here" in output
    assert "conditions.scratch.epochs is 2 in the study and 1 here" in output
    assert "conditions.data is" in output
    assert len(runs()) == before


def children(pid):
    """Processes that a process has started and that live."""
    folder = Path(f"/proc/{pid}/task")
    return {int(child) for task in folder.iterdir() for child in (task / "children").read_text().split()}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_runs_as_killed_and_workers_with_them(project, mlflow_store, number):
    arguments = ["--generations", "50", "--executor", "processes:2", "--evaluate_every", "1", "--scratch.epochs", "500"]
    process = search(project, *arguments, start_new_session=True)
    while not runs("hyper"):
        assert process.poll() is None
        time.sleep(0.2)
    workers = []
    while len(workers) < 2:  # that have started, and are in the middle of evaluations
        assert process.poll() is None
        time.sleep(0.2)
        workers = [child for child in children(process.pid) if os.getpgid(child) == child]
    # a terminal's Ctrl-C goes to all processes of the group
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output
    (parent,) = runs("search")
    assert parent.info.status == "KILLED"
    assert "RUNNING" not in {run.info.status for run in runs()}
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "workers have outlived the search"
        time.sleep(0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_several_seeds_are_several_searches_that_can_be_evaluated_later(project, mlflow_store):
    arguments = ["--seeds", "2", "--generations", "3", "--evaluate_every", "0", "--study", "s"]
    process = search(project, *arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "All 2 searches" in output
    parent = next(run for run in runs("search") if "mlflow.parentRunId" not in run.data.tags)
    searches = [run for run in runs("search") if run.info.run_id != parent.info.run_id]
    assert {run.data.tags["fade.study"] for run in searches} == {"s-0", "s-1"}
    assert not list((project / "checkpoints").glob("*.pt"))

    result = mlflow_run(project, "-e", "analyze", "-P", f"run_id={parent.info.run_id}")
    assert f"mlflow run . -e evaluate -P run_id={parent.info.run_id} trains them" in result.stdout + result.stderr
    result = mlflow_run(project, "-e", "evaluate", "-P", f"run_id={parent.info.run_id}", "-P", "executor=inline")
    assert result.returncode == 0, result.stdout + result.stderr
    for run in runs("search"):
        if run.info.run_id != parent.info.run_id:
            history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "accuracy/test")
            assert [metric.step for metric in history] == [0, 1, 2]
    result = mlflow_run(project, "-e", "analyze", "-P", f"run_id={parent.info.run_id}")
    assert result.returncode == 0, result.stdout + result.stderr
    (hyper, *_) = runs("hyper")
    result = mlflow_run(project, "-e", "analyze", "-P", f"run_id={hyper.info.run_id}")
    assert "expected a run of kind search, got" in result.stdout + result.stderr


@pytest.mark.parametrize("repetitions", [1, 2])
@pytest.mark.filterwarnings("ignore")
def test_a_training_that_diverges_is_repeated_with_another_seed(
    project, mlflow_store, no_figures, monkeypatch, repetitions
):
    monkeypatch.chdir(project)
    before, made = Supernet.__init__, []

    def broken(self, *arguments, **options):
        before(self, *arguments, **options)
        made.append(self)
        if len(made) == 2 * repetitions:
            with torch.no_grad():
                for weights in self.parameters():
                    weights.fill_(torch.nan)

    monkeypatch.setattr(Supernet, "__init__", broken)
    config = parse_config(
        SearchConfig, CONFIGS / "search", ["--preset", "smoke", "--study", "s", "--executor", "inline"]
    )
    (study,) = search_study(dataclasses.replace(config, repetitions=repetitions))
    states = [trial.state.name for trial in study.optuna_study.trials]
    assert sorted(states) == ["COMPLETE", "FAIL", "PRUNED", "PRUNED"]
    first, second = ([run for run in runs("hyper") if run.data.params["generation"] == g] for g in "01")
    assert [run.info.status for run in first] == ["FINISHED"] * repetitions
    assert sum(run.info.status == "FAILED" for run in second) == 1
    assert sum(run.info.status == "FINISHED" for run in second) >= repetitions
    assert len({run.data.params["seed"] for run in second}) == len(second)
    before, *cells = [{k: v for k, v in run.data.params.items() if k.startswith("cell/")} for run in first[:1] + second]
    assert all(one == cells[0] != before for one in cells)


@pytest.mark.slow
def test_a_search_whose_trainings_all_diverge_gives_up(project, mlflow_store):
    process = search(project, "--bilevel.optimizer.learning_rate", "1e38", "--max_failures", "1")
    output, _ = process.communicate()
    assert process.returncode == 1
    assert re.search(r"generation 0 has failed, and is trained with another seed: .*row \d, epoch 0, step", output), (
        output
    )
    assert "DivergedError: expected finite losses and gradients" in output
    assert [run.info.status for run in runs("hyper")] == ["FAILED", "FAILED"]


@pytest.mark.filterwarnings("ignore")
def test_a_search_says_how_much_better_its_answer_is(mlflow_store, no_figures, tmp_path, monkeypatch, capsys):
    """Against the first anchor, and against random search by a table of the same trainings from scratch."""
    monkeypatch.chdir(tmp_path)
    arguments = ["--preset", "smoke", "--study", "s", "--final_seeds", "3", "--evaluate_every", "1"]
    arguments += ["--register", "digits", "--space.features", "[" + ", ".join(fade_study.SPECTRAL_FEATURES) + "]"]
    config = parse_config(SearchConfig, CONFIGS / "search", arguments)
    data = load_data(config.data)
    cells = tuple(config.space.open())
    paths = np.random.default_rng(0).integers(len(cells), size=(20, 2))
    rng, found = np.random.default_rng(1), recipe(data, config.scratch, config.network)
    trainings = Trainings({}, (0, 1), rng.uniform(0.0, 0.05, (20, 2)), rng.uniform(0.0, 0.05, (20, 2)), 1.0)
    table = Table(HyperArchitecture((cells, cells)), paths, found, {found: trainings}, (1000, 1000), "x", "cpu")
    (tmp_path / "some-random.json").write_text(table.to_json())
    monkeypatch.setattr(answer, "FOLDER", tmp_path)
    monkeypatch.setattr(answer, "load_table", lambda name: load_table(str(tmp_path / f"{name}.json")))

    (study,) = search_study(config)
    output = capsys.readouterr().out
    assert "How well ranks predict accuracy with these settings was not measured" in output
    assert "trained again with 3 seeds that chose nothing" in output
    assert "against the first generation's anchor architecture" in output
    assert "against random searches for the same" in output
    (parent,) = runs("search")
    metrics = parent.data.metrics
    assert metrics["answer/over_random_low"] <= metrics["answer/over_random"] <= metrics["answer/over_random_high"]
    assert "lead over random searches for the same training steps" in parent.data.tags["mlflow.note.content"]
    for change in ("--depth=3", "--space.features=[degree_variance]"):
        other = parse_config(SearchConfig, CONFIGS / "search", [*arguments, change])
        assert answer.random_table(data, other) is None, "that table is of other random architectures"
    steps = data.weight.steps(20) * 3
    assert metrics["steps"] == 2 * steps + 2 * 2 * data.weight.steps(50) * 2
    assert study.evaluate == "best_ranked"
    uri = f"runs:/{parent.info.run_id}/best"
    assert f"Kept as a model: mlflow.pytorch.load_model('{uri}')" in output
    images = (data.test.images * data.deviation + data.mean).float()
    model, registered = (mlflow.pytorch.load_model(where) for where in (uri, "models:/digits/1"))
    assert torch.equal(model(images[:7]), registered(images[:7]))
    assert mlflow.models.get_model_info(uri).metadata["labels"] == list(range(10))
    trained = {run.data.params["architecture"] for run in runs("scratch") if int(run.data.params["seed"]) >= 2000}
    assert trained == {study.best_architecture.key, study.architectures()[0].key}

    # The same, where each of these trainings kills its workers.
    monkeypatch.setattr(search_log, "final_accuracies", lambda *_: ([np.array([])] * 2, None))
    search_study(config)
    output = capsys.readouterr().out
    assert "trained again" not in output
    assert "nan" not in output + runs("search")[0].data.tags["mlflow.note.content"]


class Recorder:
    """A run that keeps what is written to it."""

    def __init__(self):
        self.written = []

    def series(self, steps):
        self.written += [(step, name) for step, metrics in steps for name in metrics]

    def rows(self, rows, file):
        self.written += [(file, {column: [row[column] for row in rows] for column in rows[0]})]


def test_record_of_a_generation_does_not_grow(monkeypatch):
    """Neither what is read for it nor what is written; the table of all ranks comes with the end."""
    reads = []
    for name in ("get_trial", "get_all_trials"):
        function = getattr(optuna.storages.InMemoryStorage, name)

        def counting(*arguments, function=function, **options):
            result = function(*arguments, **options)
            reads.extend(result if isinstance(result, list) else [result])
            return result

        monkeypatch.setattr(optuna.storages.InMemoryStorage, name, counting)
    config = SearchConfig(sampler=SamplerConfig(name="random-anchors"), generations=301, evaluate_every=0)
    study = fade_study.create_study(space=fade_study.DagSpace(3), depth=2, sampler=config.sampler.open(0))
    monkeypatch.setattr(trainings, "combined_alpha", lambda results, *_: results[0].alpha)
    run, counts = Recorder(), {}
    trainer = trainings.Trainer(study, config, None, None, None)
    evaluations = Evaluations(study, config, None, None, run)
    result = SimpleNamespace(alpha=np.full((2, 7), 1 / 7), accuracy=0.5, seconds=1)
    with contextlib.suppress(KeyboardInterrupt), SearchLog(study, config, run) as log:
        reads.clear()
        for batch in study.generations(301):
            trainer.tell(batch, [result])
            study.add_evaluation(batch.number, 0.5)
            evaluations.begin(batch.number)
            log.generations()
            evaluations.collect()
            counts[batch.number] = len(reads), [name for _, name in run.written]
            assert {step for step, _ in run.written} == {batch.number}
            reads.clear()
            run.written.clear()
        raise KeyboardInterrupt
    assert counts[10] == counts[300]
    ((file, table),) = run.written
    assert file == "ranks.json"
    assert list(table) == ["generation", "rank", "fade_rank", "architecture"]
    assert list(table["generation"]) == [number for number in range(301) for _ in range(BEST_RANKED)]
