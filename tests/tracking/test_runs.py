import contextlib
import dataclasses
import json
import math
import runpy
import shutil
import subprocess
from xml.etree import ElementTree

import mlflow
import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image

from fade_study import Architecture, Dag, HyperArchitecture, tracking
from fade_study.analysis.style import new_figure
from fade_study.config import BilevelConfig
from fade_study.exceptions import WorkerDiedError
from fade_study.studies.schemas import SearchConfig
from fade_study.training import ScratchResult

EPOCHS = ({"loss/weights": 2.0, "accuracy/validation": 0.5}, {"loss/weights": 1.0, "accuracy/validation": 0.9})
RESULT = ScratchResult(0.8, 0.9, EPOCHS, parameters=10, flops=20, seconds=0.1)
CONFIG = SearchConfig(
    storage="postgresql://me:secret@host/db", bilevel=BilevelConfig(regularization=(1.0, 2.0, 3.0, 4.0))
)


@pytest.fixture
def study(mlflow_store, digits):
    with tracking.start_study("search", CONFIG, "cpu", digits, tags={"fade.study": "name"}) as run:
        yield run


def get(run_id):
    return mlflow.MlflowClient().get_run(run_id)


def test_a_study_says_what_made_it(study, digits):
    run = get(study.id)
    assert run.data.tags["fade.kind"] == "search"
    assert run.data.tags["fade.schema"] == tracking.schema.SCHEMA
    assert run.data.tags["fade.study"] == "name"
    assert len(run.data.tags["fade.commit"]) >= 7
    assert run.data.params["config.bilevel.optimizer.learning_rate"] == "0.001"
    assert run.data.params["device"] == "cpu"
    assert run.data.params["package.torch"]
    assert [d.dataset.digest for d in run.inputs.dataset_inputs] == [digits.digest]
    settings = yaml.safe_load(mlflow.artifacts.load_text(f"runs:/{study.id}/config.yaml"))
    settings["storage"] = CONFIG.storage
    assert SearchConfig(**settings) == CONFIG


def test_passwords_are_not_recorded(study):
    run = get(study.id)
    assert run.data.params["config.storage"] == "postgresql://me:***@host/db"
    assert "secret" not in mlflow.artifacts.load_text(f"runs:/{study.id}/config.yaml")


def test_metrics_are_written_with_their_step_and_bad_ones_counted(study):
    study.metrics({"a/b": 1.5, "c": math.nan}, step=3)
    study.metrics({"a/b": math.inf, "c": 2}, step=4)
    client = mlflow.MlflowClient()
    assert [(m.step, m.value) for m in client.get_metric_history(study.id, "a/b")] == [(3, 1.5)]
    assert [(m.step, m.value) for m in client.get_metric_history(study.id, "c")] == [(4, 2)]
    assert [(m.step, m.value) for m in client.get_metric_history(study.id, "non_finite_values")] == [(3, 1), (4, 2)]


def test_a_figure_is_written_as_png_and_svg_under_the_name_of_its_run(study):
    figure = new_figure(4, 2, "alphas")
    study.figure(figure, "figures/a.png")
    study.figure(new_figure(4, 2, "alphas"), "figures/b.png", svg=False)
    files = [file.path for file in mlflow.MlflowClient().list_artifacts(study.id, "figures")]
    assert files == ["figures/a.png", "figures/a.svg", "figures/b.png"]
    assert figure.get_suptitle() == "search: alphas"
    ElementTree.fromstring(mlflow.artifacts.load_text(f"runs:/{study.id}/figures/a.svg"))


def test_a_hyper_architecture_is_a_child(study):
    hyper = HyperArchitecture(((Dag(1), Dag(2)), (Dag(2), Dag(3))))
    with tracking.start_hyper(4, hyper, seed=9) as child:
        child.metrics(tracking.schema.alpha_metrics(np.array([[0.25, 0.75], [0.5, 0.5]])), step=0)
    run = get(child.id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == study.id
    assert run.data.tags["fade.kind"] == "hyper"
    assert run.data.params["cell/row0/column1"] == "2:"
    assert (run.data.params["generation"], run.data.params["seed"]) == ("4", "9")
    assert run.data.metrics["alpha/row0/column1"] == 0.75
    saved = json.loads(mlflow.artifacts.load_text(f"runs:/{child.id}/hyper_architecture.json"))
    assert saved == {"rows": [["1:", "2:"], ["2:", "3:"]]}


def test_trainings_begin_when_they_began(study):
    """Although their runs are written when they are done."""
    slow = dataclasses.replace(RESULT, seconds=18.0)
    tracking.log_scratch("1:", "recipe", 0, slow, generation=3, note="**A training.**")
    with tracking.start_hyper(3, HyperArchitecture(((Dag(1),),)), 0, seconds=7.0):
        pass
    (scratch,) = mlflow.search_runs(filter_string="tags.`fade.kind` = 'scratch'", output_format="list")
    (hyper,) = mlflow.search_runs(filter_string="tags.`fade.kind` = 'hyper'", output_format="list")
    assert (hyper.info.run_name, scratch.info.run_name) == ("gen3 hyper", "gen3 scratch seed0")
    assert scratch.info.end_time - scratch.info.start_time == pytest.approx(18_000, abs=5_000)
    assert hyper.info.end_time - hyper.info.start_time == pytest.approx(7_000, abs=5_000)
    assert scratch.data.params["generation"] == "3"
    assert scratch.data.tags["mlflow.note.content"] == "**A training.**"


def test_a_description_knows_its_run_and_shows_small_pictures(study):
    figure = Figure(figsize=(9, 2), dpi=200)
    study.figure(figure, "figures/shown.png")
    study.figure(figure, "figures/hidden.png")
    study.note(f"![](get-artifact?path=pictures/shown.png&run_uuid={tracking.schema.THIS_RUN})")
    study.tag(tracking.schema.RUN_NAME, "another name")
    run = get(study.id)
    assert run.data.tags["mlflow.note.content"] == f"![](get-artifact?path=pictures/shown.png&run_uuid={study.id})"
    assert run.info.run_name == "another name"
    client = mlflow.MlflowClient()
    assert [file.path for file in client.list_artifacts(study.id, "pictures")] == ["pictures/shown.png"]
    picture = Image.open(mlflow.artifacts.download_artifacts(f"runs:/{study.id}/pictures/shown.png"))
    assert picture.size == (640, 142)


@pytest.mark.parametrize("name", [None, "mine"])
def test_runs_lie_in_our_experiment_unless_the_user_names_another(mlflow_store, digits, monkeypatch, name):
    client = mlflow.MlflowClient()
    client.rename_experiment("0", "Default")  # as it is in a new store
    if name is not None:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    for _ in range(2):  # the second time, it is there
        with tracking.start_study("search", CONFIG, "cpu", digits) as run:
            pass
    experiment = client.get_experiment(run.experiment)
    assert experiment.name == (name or "fade_study")
    assert ("mlflow.note.content" in experiment.tags) == (name is None)
    if name is None:
        assert f"#/experiments/{run.experiment}/runs?" in experiment.tags["mlflow.note.content"]
        view = json.loads(experiment.tags["mlflow.sharedViewState.search"])
        assert "metrics.`best/test_accuracy`" in view["selectedColumns"]


def test_a_run_that_mlflow_run_has_made_gets_our_name(mlflow_store, digits, monkeypatch):
    made = mlflow.MlflowClient().create_run("0", run_name="capricious-crow-1")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    with tracking.start_study("search", CONFIG, "cpu", digits, name="mine") as run:
        assert run.id == made.info.run_id
    assert get(made.info.run_id).info.run_name == "mine"


def test_scratch_results_are_found_again(study):
    architecture = Architecture((Dag(1), Dag(2, ((0, 1),)))).key
    assert tracking.find_scratch("recipe", [architecture]) == {}
    assert tracking.find_scratch("recipe", []) == {}
    logged = tracking.log_scratch(architecture, "recipe", 0, RESULT)
    assert (logged.test, logged.validation) == (0.8, 0.9)
    tracking.log_scratch("1:|2:", "recipe", 3, RESULT)
    assert tracking.find_scratch("recipe", [architecture]) == {(architecture, 0): logged}
    assert set(tracking.find_scratch("recipe", [architecture, "1:|2:"])) == {(architecture, 0), ("1:|2:", 3)}
    assert tracking.find_scratch("other", [architecture]) == {}
    assert tracking.find_scratch("recipe", ["1:|1:"]) == {}
    filter_string = f"params.architecture = '{architecture}'"
    (run,) = mlflow.search_runs(filter_string=filter_string, output_format="list")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "accuracy/validation")
    assert [(m.step, m.value) for m in history] == [(0, 0.5), (1, 0.9)]
    assert run.data.tags["mlflow.parentRunId"] == study.id
    assert {"accuracy/test", "parameters", "flops", "seconds"} <= set(run.data.metrics)


def test_a_failed_evaluation_is_on_record_and_not_found(study):
    tracking.log_failed_scratch("1:", "recipe", 0, WorkerDiedError("killed twice"))
    assert tracking.find_scratch("recipe", ["1:"]) == {}
    (run,) = [r for r in mlflow.search_runs(output_format="list") if r.data.tags["fade.kind"] == "scratch"]
    assert run.info.status == "FAILED"
    assert run.data.tags["fade.error"] == "killed twice"
    assert run.data.params["architecture"] == "1:"
    assert get(study.id).info.status == "RUNNING"


@pytest.mark.parametrize("seconds", [0, 1e9])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_metrics_that_may_wait_are_there_when_the_run_ends(mlflow_store, digits, monkeypatch, seconds, error):
    monkeypatch.setattr("fade_study.tracking.runs.FLUSH_SECONDS", seconds)
    client = mlflow.MlflowClient()
    with (
        pytest.raises(error) if error else contextlib.nullcontext(),
        tracking.start_study("search", CONFIG, "cpu", digits, tags={"fade.study": "name"}) as run,
    ):
        for step in range(5):
            run.metrics({"loss": step}, step=step, now=False)
        assert len(client.get_metric_history(run.id, "loss")) == (0 if seconds else 5)
        if error:
            raise error
    assert sorted(m.value for m in client.get_metric_history(run.id, "loss")) == list(range(5))


def test_a_result_of_another_experiment_is_found_too(study):
    tracking.log_scratch("1:", "recipe", 0, RESULT)
    mlflow.create_experiment("other")
    assert len(tracking.find_scratch("recipe", ["1:"])) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_how_runs_end(mlflow_store, digits, error, status):
    with (
        pytest.raises(error) if error else contextlib.nullcontext(),
        tracking.start_study("search", CONFIG, "cpu", digits, tags={"fade.study": "name"}) as parent,
        tracking.start_hyper(0, HyperArchitecture(((Dag(1),),)), 0) as child,
    ):
        if error:
            raise error
    assert [get(run.id).info.status for run in (parent, child)] == [status, status]
    assert mlflow.active_run() is None


def test_a_table_is_written_whole_and_known_to_mlflow(study):
    for generations in (1, 2):
        study.rows([{"generation": number, "score": 0.1 + 0.2} for number in range(generations)], "ranks.json")
    table = mlflow.load_table("ranks.json", run_ids=[study.id])
    assert table["generation"].tolist() == [0, 1]
    assert table["score"].tolist() == pytest.approx([0.3, 0.3], abs=1e-9)
    assert json.loads(get(study.id).data.tags["mlflow.loggedArtifacts"]) == [{"path": "ranks.json", "type": "table"}]


def test_how_to_look(mlflow_store, monkeypatch):
    page = "#/experiments/1/runs/abc?workflowType=machine_learning"
    said = tracking.look_at("1", "abc")
    assert f"mlflow ui --backend-store-uri {mlflow_store}\nand open http://127.0.0.1:5000/{page}" in said
    mlflow.set_tracking_uri("sqlite:////tmp/my runs/mlflow.db")
    assert "mlflow ui --backend-store-uri 'sqlite:////tmp/my runs/mlflow.db'\nand" in tracking.look_at("1", "abc")
    mlflow.set_tracking_uri("http://me:secret@host:5000")
    assert tracking.look_at("1", "abc") == f"Look at the run: http://me:***@host:5000/{page}"
    mlflow.set_tracking_uri(mlflow_store)


def test_results_that_grow_do_not_make_the_commit_dirty(tmp_path):
    for folder in ("tracking", "benchmarks"):
        (tmp_path / "fade_study" / folder).mkdir(parents=True)
    module = tmp_path / "fade_study" / "tracking" / "git.py"
    shutil.copy(tracking.git.__file__, module)
    results = tmp_path / "fade_study" / "benchmarks" / "some-table.jsonl"
    results.write_text("{}\n")
    for words in ("init -q", "add .", "-c user.name=n -c user.email=e commit -qm m"):
        subprocess.run(["git", "-C", tmp_path, *words.split()], check=True)

    def commit():
        return runpy.run_path(str(module))["commit"]()

    head = commit()
    assert len(head) == 40
    results.write_text("{}\n{}\n")
    assert commit() == head
    module.write_text(module.read_text() + "\n")
    assert commit() == f"{head}-dirty"


def test_a_record_with_a_setting_that_is_gone_and_did_nothing_is_read(study):
    text = mlflow.artifacts.load_text(f"runs:/{study.id}/config.yaml")
    settings = yaml.safe_load(text)
    settings["bilevel"]["alpha_start"] = 0
    study.text(yaml.safe_dump(settings), "config.yaml")
    assert tracking.read_config(study.id) == yaml.safe_load(text)
