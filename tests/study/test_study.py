import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

import fade_study
from fade_study import Dag, DagSpace, create_study, delete_study, load_study, samplers
from fade_study.exceptions import StorageError
from fade_study.samplers import PseudoGradientSampler, RegularizedEvolutionSampler, RowSampler
from fade_study.study import Evaluation
from fade_study.study.ownership import OpenTrial

SPACE = DagSpace(4)


def sampler(seed=0, **settings):
    return PseudoGradientSampler(seed=seed, **settings)


def alphas(batch):
    """Any function of the batch: more operations, more alpha."""
    weights = np.array([[trial.cell.operations for trial in row] for row in batch.trials], dtype=float)
    return weights / weights.sum(axis=1, keepdims=True)


def run(study, generations, values=False):
    for _ in range(generations):
        batch = study.ask()
        study.tell(batch, alphas(batch), float(batch.points.mean()) if values else None)


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'fade.db'}"


# --- what a batch holds ---


def test_a_batch_says_what_to_train():
    study = create_study(space=SPACE, depth=3, sampler=sampler())
    batch = study.ask()
    assert batch.number == 0
    assert batch.points.shape == (3, 7, 3)
    params = study.optuna_study.trials[0].params
    np.testing.assert_array_equal(batch.anchors.ravel(), list(params.values()))
    assert batch.hyper_architecture.shape == (3, 7)
    assert batch.architecture == batch.hyper_architecture.architecture([0, 0, 0])
    for i, row in enumerate(batch.trials):
        for j, trial in enumerate(row):
            assert (trial.row, trial.column) == (i, j)
            assert trial.cell == batch.hyper_architecture.rows[i][j]
            distances = [np.linalg.norm(SPACE.embed(cell) - trial.point) for cell in SPACE]
            assert np.linalg.norm(SPACE.embed(trial.cell) - trial.point) == pytest.approx(min(distances))
    with pytest.raises(ValueError, match="read-only"):
        batch.trials[0][0].point[0] = 1


def test_where_the_search_stands():
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    assert study.trajectory().shape == (0, 2, 3)
    with pytest.raises(ValueError, match="one or more generations"):
        _ = study.anchors
    batch = study.ask()
    np.testing.assert_array_equal(study.anchors, batch.anchors)
    assert study.architecture == batch.architecture
    study.tell(batch, alphas(batch))
    np.testing.assert_array_equal(study.trajectory(), [batch.anchors])
    np.testing.assert_array_equal(study.anchors, batch.anchors)
    assert study.architecture == batch.architecture


# --- what Optuna sees ---


def test_one_generation_is_one_trial():
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    first, second = study.ask(), None
    study.tell(first, alphas(first), 0.8)
    second = study.ask()
    study.tell(second, alphas(second), one_shot_accuracy=0.4)
    complete, pruned = study.optuna_study.trials
    assert (complete.state, complete.value) == (TrialState.COMPLETE, 0.8)
    assert (pruned.state, pruned.intermediate_values) == (TrialState.PRUNED, {1: 0.4})
    assert set(complete.params) == {f"row{i}/{feature}" for i in (0, 1) for feature in SPACE.features}
    np.testing.assert_array_equal(complete.user_attrs["fade:points"], first.points)
    np.testing.assert_array_equal(complete.user_attrs["fade:alpha"], alphas(first))
    assert complete.user_attrs["fade:cells"] == [[t.cell.key for t in row] for row in first.trials]
    assert len(study.trials_dataframe()) == 2


def test_alphas_are_never_the_value():
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    run(study, 2)
    with pytest.raises(ValueError, match="expected a generation with a from-scratch accuracy, got none"):
        _ = study.best_architecture


def test_a_study_of_best_ranked_architectures_evaluates_these():
    """Their points become the params of the trial that has the value, so that Optuna compares what belongs together."""
    study = create_study(space=SPACE, depth=2, sampler=sampler(offset=0.5), evaluate="best_ranked")
    alpha = np.full((2, 7), 0.1)
    alpha[0, 3] = alpha[1, 5] = 0.4
    batch = study.ask()
    assert study.ask_evaluation([0]) is None, "the alphas decide which one is the best ranked"
    with pytest.raises(ValueError, match=r"tell the alphas, then add_evaluation\(0, value\)"):
        study.tell(batch, alpha, value=0.5)
    study.tell(batch, alpha)
    best = batch.hyper_architecture.architecture([3, 5])
    assert study.evaluated_architectures() == [best]
    evaluation = study.ask_evaluation()
    assert evaluation.architecture == best
    study.tell_evaluation(evaluation, 0.5)
    assert study.best_architecture == best
    assert study.evaluations()[0].architecture == best
    params = study.optuna_study.best_trial.params
    points = [[params[f"row{i}/{name}"] for name in SPACE.features] for i in range(2)]
    np.testing.assert_array_equal(points, [batch.points[0, 3], batch.points[1, 5]])
    np.testing.assert_array_equal(study.trajectory()[0], batch.anchors)


def test_what_a_study_evaluates_stays_the_same(tmp_path):
    where = {"study_name": "s", "storage": f"sqlite:///{tmp_path}/s.db", "load_if_exists": True}
    create_study(space=SPACE, depth=2, evaluate="best_ranked", **where)
    with pytest.raises(ValueError, match="evaluate is 'best_ranked' in the study and 'anchor' here"):
        create_study(space=SPACE, depth=2, **where)
    loaded = load_study(study_name="s", storage=where["storage"], space=SPACE)
    assert loaded.evaluate == "best_ranked"
    with pytest.raises(ValueError, match="expected evaluate to be one of anchor, best_ranked, got 'all'"):
        create_study(space=SPACE, depth=2, evaluate="all")


def test_a_study_is_loaded_without_its_space(storage):
    space = DagSpace(4, min_vertices=2, features=["vertices", "spectral_radius"])
    create_study(space=space, depth=2, storage=storage, study_name="s")
    loaded = load_study(study_name="s", storage=storage).space
    assert (loaded.features, list(loaded)) == (space.features, list(space))

    def size(dag):
        return dag.vertices

    create_study(space=DagSpace(3, features=[size]), depth=2, storage=storage, study_name="mine")
    with pytest.raises(ValueError, match="expected the space of this study, got None; pass it as space="):
        load_study(study_name="mine", storage=storage)


def test_best_architecture_has_the_best_value():
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    architectures = []
    for value in (0.3, 0.9, None, 0.5):
        batch = study.ask()
        architectures.append(batch.architecture)
        study.tell(batch, alphas(batch), value, one_shot_accuracy=0.99)
    assert study.best_architecture == architectures[1]
    assert [(e.generation, e.value) for e in study.evaluations()] == [(0, 0.3), (1, 0.9), (3, 0.5)]
    assert [e.architecture for e in study.evaluations()] == [architectures[i] for i in (0, 1, 3)]


@pytest.mark.parametrize(
    "baseline",
    [
        optuna.samplers.RandomSampler(seed=0),
        optuna.samplers.TPESampler(seed=0, n_startup_trials=2),
        optuna.samplers.NSGAIISampler(seed=0),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_samplers_of_optuna_run_as_baselines(baseline, storage):
    study = create_study(space=SPACE, depth=2, sampler=baseline, storage=storage, study_name="baseline", seed=3)
    for _ in range(5):
        batch = study.ask()
        assert batch.hyper_architecture.shape == (2, 1)
        study.tell(batch, np.ones((2, 1)), float(batch.anchors.mean()))
    assert study.best_architecture.depth == 2
    again = load_study(study_name="baseline", storage=storage, space=SPACE, sampler=type(baseline)())
    assert again.trajectory().shape == (5, 2, 3)


# --- the protocol ---


def test_ask_twice():
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    study.ask()
    with pytest.raises(fade_study.OpenGenerationError, match=r"generation 0 is; .*study\.fail\(batch\)"):
        study.ask()


def test_tell_twice():
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    batch = study.ask()
    study.tell(batch, alphas(batch))
    with pytest.raises(ValueError, match="told or failed already"):
        study.tell(batch, alphas(batch))
    with pytest.raises(ValueError, match="told or failed already"):
        study.fail(batch)


@pytest.mark.parametrize(
    ("change", "value", "message"),
    [
        (lambda alpha: alpha[:1], None, r"expected alpha of shape \(2, 7\), got \(1, 7\)"),
        (lambda alpha: alpha * np.nan, None, "finite"),
        (lambda alpha: alpha - 0.5, None, "0 or more"),
        (lambda alpha: alpha * 1.01, None, "sum to 1"),
        (lambda alpha: alpha, float("nan"), "finite value"),
        (lambda alpha: alpha, float("inf"), "finite value"),
    ],
)
def test_a_wrong_tell_stores_nothing(change, value, message):
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    batch = study.ask()
    before = study.optuna_study.trials
    with pytest.raises(ValueError, match=message):
        study.tell(batch, change(alphas(batch)), value)
    assert study.optuna_study.trials == before
    study.tell(batch, alphas(batch))  # the generation is still open


def test_fail_repeats_the_generation_with_another_seed():
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    run(study, 1)
    failed = study.ask()
    study.fail(failed)
    batch = study.ask()
    assert batch.number == failed.number == 1
    np.testing.assert_array_equal(batch.points, failed.points)
    assert batch.hyper_architecture == failed.hyper_architecture
    assert batch.seed != failed.seed
    study.tell(batch, alphas(batch))
    assert study.trajectory().shape == (2, 2, 3)
    assert [t.state for t in study.optuna_study.trials] == [TrialState.PRUNED, TrialState.FAIL, TrialState.PRUNED]


def test_seeds_differ_between_generations_and_studies():
    seeds = set()
    for seed in (0, 1):
        study = create_study(space=SPACE, depth=2, sampler=sampler(seed))
        for _ in range(3):
            batch = study.ask()
            seeds.add(batch.seed)
            study.tell(batch, alphas(batch))
    assert len(seeds) == 6


def test_a_batch_of_another_study_is_refused():
    one, other = (create_study(space=SPACE, depth=2, sampler=sampler(seed)) for seed in (0, 1))
    foreign = one.ask()
    own = other.ask()
    with pytest.raises(ValueError, match="belongs to another study"):
        other.tell(foreign, alphas(foreign), 0.9)
    other.tell(pickle.loads(pickle.dumps(own)), alphas(own))


def test_two_sessions_on_one_generation(storage):
    first = create_study(space=SPACE, depth=2, sampler=sampler(), storage=storage, study_name="s")
    second = load_study(study_name="s", storage=storage, space=SPACE)
    batch, same = first.ask(), second.ask()
    first.tell(batch, alphas(batch))
    with pytest.raises(ValueError, match="another session has finished it"):
        second.tell(same, alphas(same))
    assert second.ask().number == 1


@pytest.mark.parametrize("what", ["tell", "fail", "tell_evaluation", "fail_evaluation"])
def test_what_another_session_ends_at_the_same_moment_is_refused(storage, monkeypatch, what):
    study = create_study(space=SPACE, depth=2, sampler=sampler(), storage=storage, study_name="s")
    batch = study.ask()
    tell, fail, arguments = study.tell, study.fail, (alphas(batch),)
    asked = batch
    if "evaluation" in what:
        tell(batch, *arguments)
        asked, tell, fail, arguments = study.ask_evaluation(), study.tell_evaluation, study.fail_evaluation, (0.5,)
    trial_id = study.optuna_study.trials[asked.trial_number]._trial_id
    check = OpenTrial._check_open

    def check_a_moment_before(opened, stored):
        check(opened, stored)
        if not stored.state.is_finished():
            study.optuna_study._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    monkeypatch.setattr(OpenTrial, "_check_open", check_a_moment_before)
    with pytest.raises(ValueError, match="another session has finished it"):
        tell(asked, *arguments) if "tell" in what else fail(asked)
    assert study.optuna_study.trials[asked.trial_number].state == TrialState.FAIL


@pytest.mark.parametrize("alpha", ["abc", [[0.5, 0.5], [1.0]], None])
def test_what_is_no_array_is_refused(alpha):
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    batch = study.ask()
    with pytest.raises(fade_study.InvalidInputError):
        study.tell(batch, alpha)
    with pytest.raises(fade_study.InvalidInputError):
        study.tell(batch, alphas(batch), "0.9")  # type: ignore[arg-type]


def test_batches_are_themselves():
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    batch = study.ask()
    assert batch == batch  # noqa: PLR0124 - arrays within once made this raise
    assert len({batch, batch}) == 1


# --- resuming ---


def test_resumed_equals_uninterrupted(storage):
    whole = create_study(space=SPACE, depth=2, sampler=sampler())
    run(whole, 6)
    for generations in (2, 3, 1):
        part = create_study(
            space=SPACE, depth=2, sampler=sampler(), storage=storage, study_name="part", load_if_exists=True
        )
        run(part, generations)
        part.ask()  # and the process dies
    part = load_study(study_name="part", storage=storage, space=SPACE)
    np.testing.assert_array_equal(part.trajectory(), whole.trajectory())
    cells = [[t.user_attrs["fade:cells"] for t in study.optuna_study.trials[:6]] for study in (part, whole)]
    assert cells[0] == cells[1]
    assert len(part.optuna_study.trials) == 7


def test_an_open_generation_is_asked_again_as_it_was(storage):
    study = create_study(space=SPACE, depth=2, sampler=sampler(), storage=storage, study_name="s")
    run(study, 1)
    batch = study.ask()
    again = load_study(study_name="s", storage=storage, space=SPACE, sampler=sampler()).ask()
    assert (again.number, again.trial_number, again.seed) == (batch.number, batch.trial_number, batch.seed)
    np.testing.assert_array_equal(again.points, batch.points)
    assert again.hyper_architecture == batch.hyper_architecture


@pytest.mark.parametrize("crash_after", range(9))
def test_a_crash_within_ask_loses_nothing(storage, monkeypatch, crash_after):
    """Every write to the storage is a place to crash: the next ask gives the batch that an unbroken one gives."""
    whole = create_study(space=SPACE, depth=2, sampler=sampler())
    run(whole, 1)
    expected = whole.ask()

    study = create_study(space=SPACE, depth=2, sampler=sampler(), storage=storage, study_name="s")
    run(study, 1)
    writes = 0

    def crashing(write):
        def wrapper(*arguments, **keywords):
            nonlocal writes
            if writes == crash_after:
                raise KeyboardInterrupt
            writes += 1
            return write(*arguments, **keywords)

        return wrapper

    backend = study.optuna_study._storage
    with monkeypatch.context() as patch:
        for name in ("create_new_trial", "set_trial_param", "set_trial_user_attr"):
            patch.setattr(backend, name, crashing(getattr(backend, name)))
        with pytest.raises(KeyboardInterrupt):
            study.ask()
    batch = load_study(study_name="s", storage=storage, space=SPACE).ask()
    assert (batch.number, batch.seed) == (expected.number, expected.seed)
    np.testing.assert_array_equal(batch.points, expected.points)
    assert batch.hyper_architecture == expected.hyper_architecture


SCRIPT = """
import numpy as np, fade_study, optuna
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = fade_study.create_study(space=fade_study.DagSpace(5), depth=3,
                                sampler=fade_study.samplers.PseudoGradientSampler(seed=1))
for _ in range(5):
    batch = study.ask()
    weights = np.array([[trial.cell.operations for trial in row] for row in batch.trials], dtype=float)
    study.tell(batch, weights / weights.sum(axis=1, keepdims=True))
    print(batch.seed, batch.hyper_architecture.rows, batch.points.tolist())
"""


def test_the_same_in_processes_with_different_hash_seeds():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (0, 1, 12345)
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) > 1000


# --- making and finding studies ---


def test_names_as_in_optuna(storage):
    create_study(space=SPACE, depth=2, sampler=sampler(), storage=storage, study_name="s")
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        create_study(space=SPACE, depth=2, sampler=sampler(), storage=storage, study_name="s")
    with pytest.raises(KeyError):
        load_study(study_name="missing", storage=storage, space=SPACE)
    delete_study(study_name="s", storage=storage)
    with pytest.raises(KeyError):
        load_study(study_name="s", storage=storage, space=SPACE)


def test_a_study_with_other_settings_is_refused_and_kept(storage):
    create_study(space=SPACE, depth=2, sampler=sampler(), storage=storage, study_name="s")
    common = {"storage": storage, "study_name": "s", "load_if_exists": True}
    for settings, message in [
        ({"space": DagSpace(3), "depth": 2, "sampler": sampler()}, r"space\.cells is 40 in the study and 9 here"),
        ({"space": SPACE, "depth": 3, "sampler": sampler()}, "depth is 2 in the study and 3 here"),
        ({"space": SPACE, "depth": 2, "sampler": sampler(offset=0.3)}, r"sampler\.offset is 0\.5 .* 0\.3 here"),
        ({"space": SPACE, "depth": 2, "sampler": sampler(1)}, r"sampler\.seed is 0 in the study and 1 here"),
        ({"space": SPACE, "depth": 2, "sampler": optuna.samplers.RandomSampler()}, r"sampler\.type"),
    ]:
        with pytest.raises(ValueError, match=message):
            create_study(**settings, **common)
    with pytest.raises(ValueError, match=r"sampler\.step_size"):
        load_study(study_name="s", storage=storage, space=SPACE, sampler=sampler(step_size=0.5))
    assert create_study(space=SPACE, depth=2, sampler=sampler(), **common).depth == 2


def test_conditions_are_compared(storage):
    common = {"space": SPACE, "depth": 2, "sampler": sampler(), "storage": storage, "study_name": "s"}
    create_study(**common, conditions={"data": "abc", "scratch": {"epochs": 3, "sizes": (1, 2)}})
    create_study(**common, conditions={"data": "abc", "scratch": {"epochs": 3, "sizes": (1, 2)}}, load_if_exists=True)
    with pytest.raises(ValueError, match=r"conditions\.scratch\.epochs is 3 in the study and 4 here"):
        create_study(
            **common, conditions={"data": "abc", "scratch": {"epochs": 4, "sizes": (1, 2)}}, load_if_exists=True
        )


def test_conditions_are_compared_by_load_study(storage):
    create_study(space=SPACE, depth=2, storage=storage, study_name="s", conditions={"data": "abc"})
    load_study(study_name="s", storage=storage, space=SPACE, conditions={"data": "abc"})
    load_study(study_name="s", storage=storage, space=SPACE)
    with pytest.raises(ValueError, match=r"conditions\.data is 'abc' in the study and 'xyz' here"):
        load_study(study_name="s", storage=storage, space=SPACE, conditions={"data": "xyz"})


def test_a_sampler_without_a_seed_takes_the_one_it_was_created_with(storage):
    whole = create_study(space=SPACE, depth=2, sampler=sampler(0), seed=5)
    run(whole, 2)
    part = create_study(space=SPACE, depth=2, sampler=sampler(0), seed=5, storage=storage, study_name="s")
    batch = load_study(study_name="s", storage=storage, space=SPACE, sampler=PseudoGradientSampler()).ask()
    np.testing.assert_array_equal(batch.anchors, whole.trajectory()[0])
    assert part.depth == 2


def test_settings_of_any_plain_kind_are_stored(storage):
    class Scaled(RowSampler):
        def __init__(self, scales, *, seed=None):
            super().__init__(seed=seed)
            self.scales = scales

        def propose(self, history, rng):
            return rng.random((2, 3))

    common = {"space": SPACE, "depth": 2, "storage": storage, "load_if_exists": True}
    for number, scales in enumerate([(0.1, 0.2), np.array([0.1, 0.2]), np.float32(0.5)]):
        for _ in range(2):
            create_study(sampler=Scaled(scales, seed=np.int64(3)), study_name=f"s{number}", **common)
    with pytest.raises(ValueError, match="stored as JSON"):
        create_study(sampler=Scaled(object()), study_name="object", **common)
    assert "object" not in optuna.get_all_study_names(storage)


def test_load_study_rebuilds_its_sampler(storage):
    create_study(space=SPACE, depth=2, sampler=sampler(offset=0.3), storage=storage, study_name="s")
    study = load_study(study_name="s", storage=storage, space=SPACE)
    assert isinstance(study.optuna_study.sampler, PseudoGradientSampler)
    assert study.optuna_study.sampler.offset == 0.3
    create_study(space=SPACE, depth=2, sampler=optuna.samplers.RandomSampler(), storage=storage, study_name="random")
    with pytest.raises(ValueError, match=r"pass your RandomSampler\(\.\.\.\)"):
        load_study(study_name="random", storage=storage, space=SPACE)
    evolution = RegularizedEvolutionSampler(4, 2, seed=0)  # its settings are not stored, so it can't be made again
    create_study(space=SPACE, depth=2, sampler=evolution, storage=storage, study_name="evolution")
    with pytest.raises(ValueError, match=r"pass your RegularizedEvolutionSampler\(\.\.\.\)"):
        load_study(study_name="evolution", storage=storage, space=SPACE)


@pytest.mark.parametrize("seed", [-1, 1.5, "0"])
def test_a_bad_seed_leaves_no_study(storage, seed):
    with pytest.raises(ValueError, match="seed that is an integer of 0 or more"):
        create_study(space=SPACE, depth=2, sampler=optuna.samplers.TPESampler(), seed=seed, storage=storage)
    assert optuna.get_all_study_names(storage) == []


def test_numpy_numbers_of_vertices_are_plain_ones(storage):
    study = create_study(space=DagSpace(np.int64(3)), depth=2, storage=storage, study_name="s")
    assert len(load_study(study_name="s", storage=storage).space) == len(study.space)
    assert type(Dag(np.int64(2)).vertices) is int


def test_points_of_a_batch_can_not_be_changed():
    batch = create_study(space=SPACE, depth=2, sampler=sampler()).ask()
    with pytest.raises(ValueError, match="read-only"):
        batch.anchors[0, 0] = 5.0


def test_a_seedless_study_keeps_the_seed_it_drew(storage):
    one = create_study(space=SPACE, depth=2, storage=storage, study_name="s")
    first = one.ask()
    assert load_study(study_name="s", storage=storage, space=SPACE).ask().seed == first.seed
    assert create_study(space=SPACE, depth=2).ask().seed != first.seed


def test_a_study_of_another_kind_is_refused(storage):
    other = optuna.create_study(storage=storage, study_name="other")
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(ValueError, match="another one"):
        create_study(space=SPACE, depth=2, storage=storage, study_name="other", load_if_exists=True)
    optuna.create_study(storage=storage, study_name="minimize", direction="minimize")
    with pytest.raises(ValueError, match="another one"):
        create_study(space=SPACE, depth=2, storage=storage, study_name="minimize", load_if_exists=True)
    with pytest.raises(ValueError, match="another one"):
        load_study(study_name="other", storage=storage, space=SPACE)


@pytest.mark.parametrize("depth", [0, -1, 1.5, True, "2"])
def test_depth_is_1_or_more(depth):
    with pytest.raises(ValueError, match="depth of 1 or more"):
        create_study(space=SPACE, depth=depth)


@pytest.mark.parametrize("url", ["sqlite:////no/such/folder/fade.db", "nonsense", "postgresql://me:secret@localhost/x"])
def test_a_storage_that_cannot_be_opened(url):
    with pytest.raises(OSError, match="a storage that can be opened") as error:
        create_study(space=SPACE, depth=2, storage=url)
    assert "secret" not in str(error.value)
    assert isinstance(error.value, fade_study.StorageError)


def test_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "fade.db"
    path.write_text("not a database" * 100)
    with pytest.raises(fade_study.StorageError, match="a storage that can be opened"):
        create_study(space=SPACE, depth=2, storage=f"sqlite:///{path}")
    assert path.read_text() == "not a database" * 100


# --- optimize ---


def test_optimize():
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    called = []
    values = iter([(), (0.7,), (None, 0.4)])
    study.optimize(
        lambda b: (alphas(b), *next(values)), n_generations=3, callbacks=[lambda s, b: called.append((s, b.number))]
    )
    assert called == [(study, 0), (study, 1), (study, 2)]
    assert [trial.state.name for trial in study.optuna_study.trials] == ["PRUNED", "COMPLETE", "PRUNED"]


def test_optimize_continues_and_stops():
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    study.optimize(alphas, n_generations=2)
    study.optimize(alphas, callbacks=[lambda s, b: s.stop() if b.number == 4 else None])
    assert len(study.trajectory()) == 5
    study.optimize(alphas, timeout=0)
    assert len(study.trajectory()) == 5
    with pytest.raises(RuntimeError, match=r"inside optimize"):
        study.stop()


def test_optimize_catches_what_it_is_told_to():
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    broken = iter([True, False, False])

    def evaluate(batch):
        if next(broken):
            raise ArithmeticError("diverged")
        return alphas(batch)

    study.optimize(evaluate, n_generations=3, catch=(ArithmeticError,))
    assert [trial.state.name for trial in study.optuna_study.trials] == ["FAIL", "PRUNED", "PRUNED"]
    assert len(study.trajectory()) == 2


def test_optimize_fails_the_generation_and_raises():
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    with pytest.raises(ZeroDivisionError):
        study.optimize(lambda batch: 1 / 0, n_generations=3)
    assert [trial.state.name for trial in study.optuna_study.trials] == ["FAIL"]
    for catch in ([ZeroDivisionError], {ZeroDivisionError}, iter([ZeroDivisionError])):
        study.optimize(lambda batch: 1 / 0, n_generations=2, catch=catch, callbacks=None)
    assert {trial.state.name for trial in study.optuna_study.trials} == {"FAIL"}


def test_what_optimize_can_not_tell_stays_open():
    """A slip in what is returned does not throw the training away."""
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    with pytest.raises(ValueError, match="shape") as caught:
        study.optimize(lambda batch: [[1.0]], n_generations=3)
    assert "Generation 0 is still open: tell(study.open_batch" in caught.value.__notes__[0]
    study.tell(study.open_batch, alphas(study.open_batch))
    assert [trial.state.name for trial in study.optuna_study.trials] == ["PRUNED"]
    assert study.open_batch is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_torch_users_have_is_taken(dtype):
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    for number in range(20):
        logits = torch.randn(2, 7, generator=torch.Generator().manual_seed(number), requires_grad=True)
        alpha = torch.softmax(logits.to(dtype), dim=1)
        study.tell(study.ask(), alpha, value=torch.tensor(0.5, requires_grad=True), one_shot_accuracy=np.array(0.25))
        told = np.stack([study.history(row)[-1].alpha for row in (0, 1)])
        np.testing.assert_allclose(told, alpha.detach().double().numpy(), rtol=0.05)
        np.testing.assert_allclose(told.sum(axis=1), 1, atol=1e-12)
    assert study.optuna_study.trials[0].value == 0.5


@pytest.mark.parametrize("value", ["0.5", True, [0.5, 0.6], None.__class__, torch.tensor([0.5, 0.6])])
def test_what_is_no_number_is_no_value(value):
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    batch = study.ask()
    with pytest.raises(ValueError, match="expected a finite value"):
        study.tell(batch, alphas(batch), value)


# --- trials that are not the sampler's own ---


def around(batch):
    """Every neighbor lies where the pseudo-gradient puts it."""
    axes = np.stack([np.eye(3), -np.eye(3)], axis=1).reshape(-1, 3)
    for points in batch.points:
        np.testing.assert_allclose(points[1:], np.clip(points[0] + 0.1 * axes, 0, 1), atol=1e-12)


@pytest.mark.parametrize("fixed", [("row0", "row1"), ("row0",), ()])
def test_an_anchor_that_is_enqueued_has_a_neighborhood(fixed, storage):
    study = create_study(space=SPACE, depth=2, sampler=sampler(offset=0.1), storage=storage)
    run(study, 1)
    names = [f"{row}/{name}" for row in fixed for name in SPACE.features]
    study.optuna_study.enqueue_trial(dict.fromkeys(names, 0.5))
    batch = study.ask()
    assert batch.points.shape == (2, 7, 3)
    for row in fixed:
        np.testing.assert_array_equal(batch.anchors[int(row[-1])], 0.5)
    around(batch)
    study.tell(batch, alphas(batch))
    np.testing.assert_array_equal(study.trajectory()[-1], batch.anchors)
    for row in (0, 1):
        np.testing.assert_array_equal(study.history(row)[-1].points, batch.points[row])
    run(study, 2)
    assert len(study.trajectory()) == 4


def test_params_that_optuna_fixes_stay_fixed():
    fixed = {"row0/vertices": 0.25}
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        wrapped = optuna.samplers.PartialFixedSampler(fixed, sampler(offset=0.1))
    study = create_study(space=SPACE, depth=2, sampler=wrapped)
    for _ in range(3):
        batch = study.ask()
        assert batch.points.shape == (2, 7, 3)
        assert batch.anchors[0, SPACE.features.index("vertices")] == 0.25
        around(batch)
        study.tell(batch, alphas(batch))
    assert len(np.unique(study.trajectory()[:, 1, 0])) > 1, "the others move"


@pytest.mark.filterwarnings(
    "ignore:.*is told; then its sampler raised", "ignore::optuna.exceptions.ExperimentalWarning"
)
def test_a_grid_that_is_exhausted_ends_the_search():
    def grid():
        names = [f"row0/{name}" for name in SPACE.features]
        return optuna.samplers.GridSampler({names[0]: [0.0, 1.0], names[1]: [0.5], names[2]: [0.5]})

    study = create_study(space=SPACE, depth=1, sampler=grid())
    for _ in range(2):
        batch = study.ask()
        study.tell(batch, [[1.0]], 0.5)
    assert study.open_batch is None
    assert len(study.trajectory()) == 2
    study = create_study(space=SPACE, depth=1, sampler=grid())
    study.optimize(lambda batch: ([[1.0]], 0.5), n_generations=10)
    assert len(study.trajectory()) == 2


# --- an identity ---


def test_studies_of_one_name_are_told_apart(tmp_path):
    where = [{"study_name": "x", "storage": f"sqlite:///{tmp_path}/{name}.db"} for name in "ab"]
    one, other = (create_study(space=SPACE, depth=2, **place) for place in where)
    assert one.identity != other.identity
    assert load_study(space=SPACE, **where[0]).identity == one.identity
    assert create_study(space=SPACE, depth=2, load_if_exists=True, **where[0]).identity == one.identity


def test_an_interrupt_leaves_the_generation_open():
    study = create_study(space=SPACE, depth=2, sampler=sampler())

    def interrupted(batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.optimize(interrupted, n_generations=3)
    assert [trial.state.name for trial in study.optuna_study.trials] == ["RUNNING"]
    numbers = []
    study.optimize(lambda batch: numbers.append(batch.number) or alphas(batch), n_generations=2)
    assert numbers == [0, 1]
    assert [trial.state.name for trial in study.optuna_study.trials] == ["PRUNED", "PRUNED"]


def test_a_sampler_with_a_width_of_its_own():
    class Wide(RowSampler):
        def propose(self, history, rng):
            return rng.random((4, len(history.features)))

    study = create_study(space=SPACE, depth=2, sampler=Wide(seed=0))
    run(study, 2)
    assert study.trajectory().shape == (2, 2, 3)


def test_evaluations_may_come_later(storage):
    early, late = (
        create_study(space=SPACE, depth=2, sampler=sampler(), storage=storage, study_name=name) for name in "ab"
    )
    for study in (early, late):
        for generation in range(3):
            batch = study.ask()
            study.tell(batch, alphas(batch), 0.5 if generation == 1 and study is early else None)
            if generation == 2 and study is late:
                study.add_evaluation(1, 0.5)
    assert late.evaluations() == early.evaluations() == [(1, early.best_architecture, 0.5, {})]
    assert late.best_architecture == early.best_architecture
    np.testing.assert_array_equal(late.trajectory(), early.trajectory())
    assert late.ask().seed == early.ask().seed  # a trial more is no attempt more
    for generation in (1, 3, -1):
        with pytest.raises(ValueError, match="expected a generation that was told without a value"):
            late.add_evaluation(generation, 0.5)
    with pytest.raises(ValueError, match="expected a finite value"):
        late.add_evaluation(0, float("nan"))
    loaded = load_study(study_name="b", storage=storage, space=SPACE)
    assert loaded.evaluations() == late.evaluations()


# --- details ---


def test_details_are_kept_with_a_generation(storage):
    study = create_study(space=SPACE, depth=2, sampler=sampler(), storage=storage, study_name="s")
    details = {"run": "abc", "losses": (0.5, np.float64(0.25)), "nested": {"epochs": np.int64(3), "none": None}}
    expected = {"run": "abc", "losses": [0.5, 0.25], "nested": {"epochs": 3, "none": None}}
    batch = study.ask()
    study.tell(batch, alphas(batch), 0.5, details=details)
    batch = study.ask()
    study.tell(batch, alphas(batch))
    study.add_evaluation(1, 0.6, details={"seconds": 7})
    batch = study.ask()
    study.tell(batch, alphas(batch), details={"told": "late"})
    study.add_evaluation(2, 0.7)
    for found in (study, load_study(study_name="s", storage=storage, space=SPACE)):
        assert [found.generation(generation).details for generation in range(3)] == [expected, {}, {"told": "late"}]
        assert [evaluation.details for evaluation in found.evaluations()] == [expected, {"seconds": 7}, {}]
    study.generation(0).details["nested"]["epochs"] = 4
    assert study.generation(0).details == expected
    for generation in (3, -1, "0"):
        with pytest.raises(ValueError, match=r"expected a generation that was told, got .*; 3 were told"):
            study.generation(generation)


@pytest.mark.parametrize("details", [{"a": object()}, {"a": float("nan")}, {(1, 2): 3}, [1, 2], "abc", {"a": b"bytes"}])
def test_details_that_are_not_json_store_nothing(details):
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    batch = study.ask()
    before = study.optuna_study.trials
    with pytest.raises(fade_study.InvalidInputError, match="expected details as a mapping of plain JSON values"):
        study.tell(batch, alphas(batch), details=details)
    assert study.optuna_study.trials == before
    study.tell(batch, alphas(batch))
    with pytest.raises(fade_study.InvalidInputError, match="expected details as a mapping of plain JSON values"):
        study.add_evaluation(0, 0.5, details=details)
    assert study.evaluations() == []


def test_an_evaluation_has_no_details_by_default():
    assert Evaluation(0, None, 0.5).details == {}


# --- what is in a storage beside this study's generations ---


def test_trials_of_others_are_no_architectures(storage):
    study = create_study(space=SPACE, depth=2, sampler=sampler(), storage=storage)
    run(study, 2, values=True)
    names = [f"row{i}/{name}" for i in (0, 1) for name in SPACE.features]
    distributions = {name: optuna.distributions.FloatDistribution(0, 1) for name in names}
    study.optuna_study.add_trial(
        optuna.create_trial(params=dict.fromkeys(names, 0.5), distributions=distributions, value=9.0)
    )
    assert study.best_architecture in study.architectures()
    assert [evaluation.generation for evaluation in study.evaluations()] == [0, 1]


def test_a_study_that_does_not_exist_is_told_with_those_that_do(storage):
    create_study(space=SPACE, depth=2, study_name="mine", storage=storage)
    with pytest.raises(KeyError, match=r"expected a study that exists, got 'yours'; there are \['mine'\]"):
        load_study(study_name="yours", storage=storage, space=SPACE)


def test_a_study_of_several_objectives_is_another_one(storage):
    optuna.create_study(study_name="s", storage=storage, directions=["maximize", "minimize"])
    with pytest.raises(ValueError, match="expected a study of fade_study, got 's', another one"):
        create_study(space=SPACE, depth=2, study_name="s", storage=storage, load_if_exists=True)


def test_numpys_whole_numbers_are_whole_numbers():
    study = create_study(space=DagSpace(np.int64(3)), depth=np.int32(2), sampler=samplers.ChampionSampler(np.int8(3)))
    assert study.ask().hyper_architecture.shape == (2, 3)
    for depth in (np.float64(2), np.bool_(True), "2"):
        with pytest.raises(ValueError, match="expected a depth of 1 or more"):
            create_study(space=SPACE, depth=depth)


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "made anew"])
@pytest.mark.parametrize("meanwhile", ["told", "told, and asked", "evaluated"])
def test_a_study_that_somebody_deletes_is_named(tmp_path, meanwhile, again):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = create_study(space=DagSpace(3), depth=2, study_name="mine", storage=url, seed=0)
    batch = study.ask()
    alpha = np.full(batch.hyper_architecture.shape, 1 / batch.hyper_architecture.width)
    study.tell(batch, alpha)
    batch = study.ask() if "asked" in meanwhile else batch
    evaluation = study.ask_evaluation() if meanwhile == "evaluated" else None
    assert study.n_generations == 1
    delete_study(study_name="mine", storage=url)
    if again:  # SQLite gives it the same number
        create_study(space=DagSpace(3), depth=2, study_name="mine", storage=url, seed=1)
    calls = [study.trajectory, study.ask_evaluation, study.evaluations]
    if evaluation is not None:
        calls += [lambda: study.tell_evaluation(evaluation, 0.5)]
    calls += [lambda: study.tell(batch, alpha), lambda: study.fail(batch)] if "asked" in meanwhile else [study.ask]
    for call in calls:
        with pytest.raises(StorageError, match="expected study 'mine' to exist, got none: it was deleted"):
            call()


def test_the_batch_of_a_generation_that_was_told():
    study = create_study(space=DagSpace(3), depth=2, seed=0)
    asked = []
    for number in range(3):
        if number == 1:
            study.fail(study.ask())
        asked.append(study.ask())
        study.tell(asked[-1], np.full(asked[-1].hyper_architecture.shape, 1 / asked[-1].hyper_architecture.width))
    for number, batch in enumerate(asked):
        again = study.generation(number).batch
        assert (again.number, again.trial_number, again.seed) == (number, batch.trial_number, batch.seed)
        assert again.hyper_architecture == batch.hyper_architecture
        np.testing.assert_array_equal(again.points, batch.points)
    with pytest.raises(ValueError, match="expected a generation that was told, got 3; 3 were told"):
        study.generation(3)


def test_a_loop_over_generations_goes_on_where_it_was(storage):
    study = create_study(space=SPACE, depth=2, sampler=sampler(), storage=storage, study_name="s")
    seeds = []
    for batch in study.generations(3):
        seeds.append((batch.number, batch.seed))
        if len(seeds) == 1:
            study.fail(batch)
        else:
            study.tell(batch, alphas(batch))
    assert [number for number, _ in seeds] == [0, 0, 1, 2]
    assert seeds[0] != seeds[1]
    assert list(study.generations(3)) == []
    (batch,) = (batch for batch in study.generations(4) if study.tell(batch, alphas(batch)) is None)
    assert batch.number == 3


def test_a_loop_over_generations_asks_before_it_begins():
    study = create_study(space=SPACE, depth=2, sampler=sampler())
    batches = study.generations(2)
    assert study.open_batch.number == 0
    with pytest.raises(fade_study.OpenGenerationError):
        study.generations(2)
    next(batches)
    with pytest.raises(fade_study.OpenGenerationError):  # neither told nor failed
        next(batches)


def test_stop_within_a_samplers_hook_ends_optimize():
    class Stopping(PseudoGradientSampler):
        def after_trial(self, *_):
            study.stop()

    study = create_study(space=SPACE, depth=2, sampler=Stopping(seed=0))
    study.optimize(alphas, n_generations=4)
    assert study.n_generations == 1


def test_what_a_notebook_shows_is_one_line():
    study = create_study(space=SPACE, depth=2, sampler=sampler(offset=0.3), study_name="s")
    assert repr(study) == "FadeStudy('s', depth=2, sampler=PseudoGradientSampler(seed=0, offset=0.3, step_size=1.0))"
    batch = study.ask()
    assert repr(batch) == f"Batch(number=0, seed={batch.seed}, 2 rows of 7 cells)"
