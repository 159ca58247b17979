"""The validation, by its command and in parts."""

import dataclasses
import itertools
import json
import warnings

import mlflow
import numpy as np
import pytest

from fade_study import HyperArchitecture, enumerate_dags, tracking
from fade_study.benchmarks import Table
from fade_study.cells.features import longest_path, operations
from fade_study.effects import PathLosses, path_effects
from fade_study.exceptions import InvalidInputError, WorkerDiedError
from fade_study.execution import open_executor
from fade_study.nn import Network, flops, parameters
from fade_study.ranking import fade_rank
from fade_study.studies import trainings
from fade_study.studies.command import CONFIGS
from fade_study.studies.ground_truth import Case, all_paths, choose_paths, train_scratch
from fade_study.studies.measurements import measure_sizes
from fade_study.studies.options import parse_config
from fade_study.studies.predictors import Evidence, Measured, cell_effects, names, predict
from fade_study.studies.repeated_warnings import count_repeated_warnings, recorded, result_of
from fade_study.studies.report_ranks import row_coefficients
from fade_study.studies.schemas import ValidationConfig
from fade_study.studies.validate_ranks import validate
from fade_study.training import DataConfig, HyperResult, ScratchConfig, combined_alpha, load_data
from tests.studies.test_search import artifacts, runs

SMOKE = parse_config(ValidationConfig, CONFIGS / "validate", ["--preset", "smoke"])
FIGURES = {
    f"figures/{name}.{kind}"
    for kind in ("png", "svg")
    for name in ("alphas_equal_cells", "ranks", "predictors", "repetitions")
}
TRAININGS = 9 * 2 + 9 + 3
"""Trainings of 9 architectures with 2 seeds, of each for one epoch (for two predictors), and of 3 chains."""
TABLES = {
    "report.txt",
    "regimes.jsonl",
    "ground_truth.json",
    *(f"{n}.{e}" for n in ("predictors", "architectures") for e in ("csv", "json")),
}


@pytest.mark.filterwarnings("ignore")
def test_a_validation_validates_and_records(mlflow_store, monkeypatch, tmp_path, capsys):
    validate(SMOKE)
    output = capsys.readouterr().out
    assert "9 architectures × 2 seeds" in output
    assert "phase 1 of 3: supernets, 4 trainings" in output
    assert "phase 2 of 3: ground truth, 0 of 27 were on record" in output
    assert "phase 3 of 3: predictors of 9 architectures" in output
    assert "hardly trained" not in output
    assert "operations               not available because it is the same for all architectures" in output
    (parent,) = runs("validation")
    assert parent.info.status == "FINISHED"
    assert artifacts(parent) >= TABLES | {"report.txt", "ground_truth.json"}
    assert artifacts(parent, "figures") == FIGURES
    metrics = parent.data.metrics
    assert metrics["ground_truth/architectures"] == 9
    assert metrics["ground_truth/seeds"] == 2
    assert metrics["fade/spearman_low"] <= metrics["fade/spearman"] <= metrics["fade/spearman_high"]
    assert {
        "audit/additive_r2",
        "predictor/one_shot/spearman",
        "predictor/synflow/seconds",
        "fade/row1/spearman",
        "fade/ceiling",
        "fade/relative",
        "straight_through/spearman",
    } <= metrics.keys()
    assert "predictor/operations/spearman" not in metrics
    assert (len(runs("hyper")), len(runs("scratch"))) == (2 + 2, TRAININGS)
    table = mlflow.load_table("predictors.json", run_ids=[parent.info.run_id])
    row = table[table.predictor == "fade"].iloc[0]
    assert row.value == pytest.approx(metrics["fade/spearman"])
    assert table[table.predictor == "operations"].iloc[0].note.startswith("not available because")

    # Trainings on record or in a table are not repeated, and give the same report.
    monkeypatch.setattr(tracking.Run, "figure", lambda *_, **__: None)  # the first report has drawn them
    again = validate(SMOKE)
    assert len(runs("scratch")) == TRAININGS
    assert again[0].report.spearman.value == pytest.approx(metrics["fade/spearman"])
    text = mlflow.artifacts.load_text(f"runs:/{parent.info.run_id}/ground_truth.json")
    path = tmp_path / "ground_truth.json"
    path.write_text(text)
    for run in runs("scratch"):
        mlflow.delete_run(run.info.run_id)
    (from_table,) = validate(dataclasses.replace(SMOKE, tables=(str(path),), predictors=("synflow",)))
    assert from_table.report == again[0].report
    assert not runs("scratch")
    with pytest.raises(InvalidInputError, match=r"which is of other images than digits, or another split; use"):
        validate(dataclasses.replace(SMOKE, tables=(str(path),), data=DataConfig(limit=301)))
    with pytest.raises(InvalidInputError, match=r"which is of other settings: .*'epochs': "):
        validate(dataclasses.replace(SMOKE, tables=(str(path),), scratch=ScratchConfig(epochs=77)))
    with pytest.raises(
        InvalidInputError, match=r"depth: expected 2, the number of rows of the table .*, got 3; set it"
    ):
        validate(dataclasses.replace(SMOKE, tables=(str(path),), depth=3))
    assert json.loads(text)["trainings"].keys() == Table.from_json(text).trainings.keys()


def warn(texts):
    for text in texts:
        warnings.warn(text, stacklevel=1)
    return len(texts)


def test_a_repeated_warning_of_tasks_and_of_this_process_is_shown_once_and_counted(capsys):
    lost = [f"no result of {key} with seed 0: killed" for key in ("2:01|3:11.01", "3:11.01|2:01")]
    with open_executor("inline") as executor:
        task = executor.submit(
            recorded, warn, ["hardly trained: accuracy 0.1", "hardly trained: accuracy 0.2", "other"]
        )
        with warnings.catch_warnings(record=True) as caught, count_repeated_warnings():
            assert result_of(task) == 3
            warn(["other", *lost])
    assert [str(one.message) for one in caught] == ["hardly trained: accuracy 0.1", "other", *lost]
    told = "warning, 2 times in all: hardly trained\nwarning, 2 times in all: other\n"
    assert capsys.readouterr().out == told


def test_halves_are_disjoint_whatever_the_seed():
    halves = [
        {tuple(p) for p in choose_paths(all_paths((3, 3)), half, "all", 7).tolist()} for half in ("selection", "report")
    ]
    assert not halves[0] & halves[1]
    assert sorted(halves[0] | halves[1]) == [
        tuple(p) for p in choose_paths(all_paths((3, 3)), "both", "all", 0).tolist()
    ]
    some = {tuple(p) for p in choose_paths(all_paths((3, 3)), "report", 5, 1).tolist()}
    assert some < halves[1]


@pytest.mark.parametrize("count", [10, 25, 100])
def test_every_column_is_as_frequent_as_any_other_in_its_row(count):
    paths = choose_paths(all_paths((4, 5)), "both", count, 3)
    assert len(np.unique(paths, axis=0)) == count
    frequencies = np.array([np.bincount(row, minlength=5) for row in paths.T])
    assert np.ptp(frequencies) <= max(2, count // 25)
    assert not np.array_equal(paths, choose_paths(all_paths((4, 5)), "both", count, 4))


def test_unknown_predictors_are_refused_before_anything_is_recorded(mlflow_store):
    with pytest.raises(ValueError, match=r"expected predictors among fade, .*, got magic"):
        validate(dataclasses.replace(SMOKE, predictors=("magic", "flops")))
    assert runs() == []


def test_some_predictors_can_be_chosen():
    assert names((1, 2), ("flops", "epochs_2")) == ["fade", "epochs_2", "flops"]
    assert set(names((), None)) > {"fade", "borda", "one_shot", "synflow"}


def result(rng, shape=(2, 3), paths=9):
    """A possible result of a training."""
    alpha = rng.dirichlet(np.ones(shape[1]), size=shape[0])
    columns = np.array(list(itertools.product(range(shape[1]), repeat=shape[0])) * 3)
    losses = PathLosses(columns, rng.normal(size=len(columns)), np.zeros(len(columns), dtype=int))
    effects = path_effects(losses, shape[1])
    return HyperResult(
        alpha=alpha, alpha_history=alpha[None], accuracy=0.5, path_accuracies=rng.random(paths), losses=losses,
        sweep=losses, effects=effects, epochs=(), warning=None, seconds=10.0, path_seconds=0.5,
    )  # fmt: skip


HYPER = HyperArchitecture((tuple(enumerate_dags(3))[:3],) * 2)


@pytest.fixture
def evidence(rng):
    return Evidence(
        hyper_architecture=HYPER,
        paths=choose_paths(all_paths((2, 3)), "both", "all", 0),
        estimator="marginal",
        supernets=[result(rng) for _ in range(4)],
        single={"naswot": Measured(np.arange(9.0), 1.0)},
        by_cell={
            "chains": Measured(np.array([[1.0, 2.0, 3.0], [0.0, 20.0, 10.0]]), 7.0),
            "operations": Measured(np.ones((2, 3)), 0.0),
        },
    )


def test_rows_are_judged_one_by_one(rng):
    paths = choose_paths(all_paths((2, 3)), "both", "all", 0)
    effects = np.array([[0.0, 1.0, 2.0], [0.0, 20.0, 10.0]])
    alpha = np.array([[0.1, 0.3, 0.6], [0.6, 0.1, 0.3]])  # the first row is right, the second is reversed
    coefficients = row_coefficients(alpha, paths, effects[[0, 1], paths].sum(axis=1))
    assert coefficients == pytest.approx([1, -1])


def test_predictors_with_repetitions_say_how_they_vary(evidence):
    fade = predict("fade", evidence, 50, 0)
    assert (fade.seconds, fade.replicates.shape) == (40.0, (50, 9))
    one_shot = predict("one_shot", evidence, 50, 0)
    assert one_shot.seconds == 42.0
    np.testing.assert_allclose(one_shot.scores, np.mean([s.path_accuracies for s in evidence.supernets], axis=0))
    assert predict("naswot", evidence, 50, 0).replicates is None
    one = dataclasses.replace(evidence, supernets=evidence.supernets[:1])
    assert predict("fade", one, 50, 0).replicates is None


def test_fade_is_the_logarithm_of_the_fade_rank(evidence):
    alpha = combined_alpha(evidence.supernets, "marginal", HYPER)
    np.testing.assert_allclose(np.exp(predict("fade", evidence, 5, 0).scores), fade_rank(alpha, evidence.paths))
    paper = dataclasses.replace(evidence, estimator="straight-through")
    alpha = np.mean([one.alpha for one in evidence.supernets], axis=0)
    np.testing.assert_allclose(np.exp(predict("fade", paper, 5, 0).scores), fade_rank(alpha, evidence.paths))


def test_unpooled_effects_are_means_over_copies_of_a_cell(evidence):
    one, other = enumerate_dags(2)[:2]
    copies = dataclasses.replace(evidence, hyper_architecture=HyperArchitecture(((one, one, other), HYPER.rows[1])))
    effects = np.mean([one.effects.value for one in evidence.supernets], axis=0)
    effects[0, :2] = effects[0, :2].mean()
    np.testing.assert_allclose(predict("unpooled", copies, 5, 0).scores, copies.along_paths(-effects))


def test_what_cells_add_is_added_up_and_permuted_within_rows(evidence):
    chains = predict("chains", evidence, 40, 0)
    np.testing.assert_allclose(chains.scores, [1, 21, 11, 2, 22, 12, 3, 23, 13])
    assert chains.seconds == 7.0
    for scores in chains.permuted:
        assert sorted(scores) == sorted(chains.scores)
    assert len(np.unique(chains.permuted, axis=0)) > 20


def test_columns_with_the_same_cell_are_permuted_together(rng):
    """Copies of a cell say the same thing, so that a row with copies knows less than its number of columns suggests."""
    one, other = enumerate_dags(2)[:2]
    hyper = HyperArchitecture(((one, one, other), (other, other, other)))
    found = Evidence(hyper, np.array(list(itertools.product(range(3), repeat=2))), "marginal", ())
    permuted = found.permuted(np.array([[1.0, 3.0, 10.0], [5.0, 5.0, 5.0]]), 50, rng)
    assert {tuple(scores[::3] - 5) for scores in permuted} == {(2, 2, 10), (10, 10, 2)}


def test_sizes_add_up_over_rows():
    cells = tuple(enumerate_dags(3))
    hyper, data = HyperArchitecture((cells[:3], cells[1:4], cells[2:5])), load_data(DataConfig(limit=300))
    found = Evidence(hyper, all_paths((3, 3)), "marginal", (), by_cell=measure_sizes(hyper, data, SMOKE.network))
    assert set(found.by_cell) == {"operations", "longest_path", "parameters", "flops"}
    for path, *sizes in zip(
        found.paths, *(found.along_paths(one.values) for one in found.by_cell.values()), strict=True
    ):
        architecture = hyper.architecture(path.tolist())
        network = Network(architecture, data.image_shape, data.classes, SMOKE.network)
        expected = {
            "operations": sum(map(operations, architecture)),
            "longest_path": sum(map(longest_path, architecture)),
            "parameters": parameters(network),
            "flops": flops(network, data.image_shape),
        }
        assert dict(zip(found.by_cell, sizes, strict=True)) == expected


def test_designed_trainings_find_what_cells_add(rng):
    truth = np.array([[0.0, 1.0, 2.0], [0.0, 20.0, 10.0]])
    paths = np.array(list(itertools.product(range(3), repeat=2)))
    found = cell_effects(paths, truth[np.arange(2), paths].sum(axis=1) + 0.1 * rng.normal(size=9), HYPER)
    assert found.argsort(axis=1).tolist() == [[0, 1, 2], [0, 2, 1]]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("operations", "the same for all"), ("straight_through", "no supernet"), ("snip", "not measured")],
)
def test_predictors_that_are_not_available_say_why(evidence, name, reason):
    with pytest.raises(InvalidInputError, match=reason):
        predict(name, evidence, 5, 0)


@pytest.mark.filterwarnings("ignore:no from-scratch result")
@pytest.mark.slow
def test_an_architecture_that_could_not_be_trained_is_left_out(mlflow_store, monkeypatch):
    cells = tuple(enumerate_dags(2))
    hyper = HyperArchitecture((cells, cells, cells))
    lost = hyper.architecture((0, 1, 0)).key
    train = trainings.train_from_scratch

    def dying(architecture, *arguments, **options):
        if architecture.key == lost:
            raise WorkerDiedError("killed twice")
        return train(architecture, *arguments, **options)

    monkeypatch.setattr(trainings, "train_from_scratch", dying)
    from fade_study import tracking
    from fade_study.execution import InlineExecutor

    data = load_data(SMOKE.data)
    paths = choose_paths(all_paths((3, 2)), "both", "all", 0)
    with tracking.start_study("validation", SMOKE, "cpu", data):
        case = Case("some", hyper, paths, None)
        table, complete = train_scratch(case, [1], data, SMOKE, InlineExecutor())
        assert complete == [0, 1, 3, 4, 5, 6, 7]
        assert lost not in [architecture.key for architecture in table.architectures]
        assert table.ground_truth.test.shape == (7, 2)
        with pytest.raises(RuntimeError, match="4 architectures or more with all their trainings, got 3 of 4"):
            train_scratch(Case("few", hyper, paths[:4], None), [], data, SMOKE, InlineExecutor())
