"""The past of a study is read once, and yet always that of its storage."""

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from fade_study import DagSpace, create_study, generation, load_study
from fade_study import past as module
from fade_study.generation import ALPHA, EVALUATES, GENERATION
from fade_study.past import read_past
from fade_study.samplers import ChampionSampler, PseudoGradientSampler

SPACE = DagSpace(3)
UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)


def run(study, generations):
    for _ in range(generations):
        batch = study.ask()
        study.tell(batch, np.full(batch.hyper_architecture.shape, 1 / batch.hyper_architecture.shape[1]))


def copies(study, count):
    """More generations like the newest, told at once."""
    newest = study.optuna_study.get_trials(deepcopy=False)[-1]
    for _ in range(count):
        study.optuna_study.add_trial(newest)


@pytest.fixture(params=["memory", "sqlite"])
def storage(request):
    if request.param == "memory":
        return optuna.storages.InMemoryStorage()
    return optuna.storages.get_storage("sqlite:///:memory:")


@pytest.fixture
def reads(monkeypatch):
    """What is read of a study: each trial from its storage, and each generation of a row's history."""
    counted = []

    def count(owner, name, size):
        function = getattr(owner, name)

        def counting(*arguments, **options):
            result = function(*arguments, **options)
            counted.extend([name] * size(result))
            return result

        monkeypatch.setattr(owner, name, counting)

    count(generation, "RowGeneration", lambda _: 1)
    for owner in (optuna.storages.InMemoryStorage, optuna.storages._CachedStorage):
        count(owner, "get_trial", lambda _: 1)
        count(owner, "get_all_trials", len)
    return counted


@pytest.mark.parametrize(
    ("storage", "sampler"),
    [
        ("memory", PseudoGradientSampler(seed=0)),
        ("memory", ChampionSampler(seed=0)),
        ("sqlite", PseudoGradientSampler(seed=0)),
    ],
    indirect=["storage"],
)
def test_reads_of_a_generation_do_not_grow(storage, reads, sampler):
    study = create_study(space=SPACE, depth=2, sampler=sampler, storage=storage)
    counts = []
    for more in (4, 295):
        run(study, 1)
        copies(study, more)
        run(study, 1)
        reads.clear()
        run(study, 1)
        evaluation = study.ask_evaluation([study.n_generations - 1])
        study.tell_evaluation(evaluation, 0.5)
        assert [e.generation for e in study.evaluations(known=range(evaluation.generation))] == [evaluation.generation]
        counts.append(sorted(reads))
    assert counts[0] == counts[1]
    assert study.n_generations == 305
    assert counts[0].count("RowGeneration") == 2, "one for each row: the last"


def test_a_history_is_read_as_far_as_it_is_asked_for(reads):
    study = create_study(space=SPACE, depth=2, sampler=PseudoGradientSampler(seed=0))
    run(study, 3)
    history = study.history(1)
    run(study, 1)
    reads.clear()
    assert len(history) == 3, "it does not grow with the study"
    assert reads == []
    np.testing.assert_array_equal(history[-1].points, history[2].points)
    assert [generation.anchor.tolist() for generation in history] == study.trajectory()[:3, 1].tolist()
    assert [generation.cells for generation in history[1:]] == [history[1].cells, history[2].cells]
    assert history[5:] == ()
    for index in (3, -4):
        with pytest.raises(IndexError):
            history[index]


def facts(past):
    return {
        "told": [trial.number for trial in past.told],
        "values": {generation: trial.number for generation, trial in past.values.items()},
        "unfinished": [(trial.number, trial.state, trial.user_attrs) for trial in past.unfinished],
        "failures": dict(past.failures),
        "count": past.count,
    }


@pytest.mark.parametrize("seed", range(20))
def test_the_past_is_that_of_the_storage(seed, monkeypatch):
    """Whatever trials begin and end, in whatever order, and whoever makes them."""
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(module, "FEW", rng.integers(5))
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
    for _ in range(100):
        kind = rng.choice(["search", "evaluation", "other"])
        attributes = {"search": {GENERATION: 7}, "evaluation": {EVALUATES: int(rng.integers(4))}, "other": {}}[kind]
        unfinished = storage.get_all_trials(study._study_id, states=UNFINISHED)
        match rng.choice(["begin", "add", "enqueue", "end", "end", "end"]):
            case "begin":
                trial = create_trial(state=TrialState.RUNNING, user_attrs=attributes)
                storage.create_new_trial(study._study_id, trial)
            case "add":
                study.add_trial(create_trial(value=0.5, user_attrs=attributes | {ALPHA: [[1.0]]}))
            case "enqueue":
                study.enqueue_trial({})
            case "end" if unfinished:
                trial = unfinished[rng.integers(len(unfinished))]
                if trial.state == TrialState.WAITING:
                    storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
                if EVALUATES not in trial.user_attrs and rng.random() < 0.8:
                    storage.set_trial_user_attr(trial._trial_id, ALPHA, [[1.0]])
                state = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL][rng.integers(3)]
                storage.set_trial_state_values(trial._trial_id, state, [0.5] if state == TrialState.COMPLETE else None)
        if rng.random() < 0.7:
            assert facts(read_past(study)) == facts(read_past(optuna.load_study(study_name="s", storage=storage)))


def test_an_interrupt_within_a_look_loses_nothing():
    class Interrupted(list):
        def append(self, trial):
            super().append(trial)
            raise KeyboardInterrupt

    study = create_study(space=SPACE, depth=2, sampler=PseudoGradientSampler(seed=0))
    run(study, 3)
    past = read_past(study.optuna_study)
    past.told = Interrupted(past.told)
    copies(study, 2)
    with pytest.raises(KeyboardInterrupt):
        study.trajectory()
    assert study.n_generations == 5
    run(study, 1)
    assert study.n_generations == 6


def test_two_sessions_see_what_the_other_tells(storage):
    first = create_study(space=SPACE, depth=2, sampler=PseudoGradientSampler(seed=0), study_name="s", storage=storage)
    second = load_study(study_name="s", storage=storage, space=SPACE)
    for number in range(6):
        one, other = (first, second) if number % 2 else (second, first)
        run(one, 1)
        other.add_evaluation(number, 0.1 * number)
        for study in (one, other):
            assert [e.value for e in study.evaluations()] == [0.1 * n for n in range(number + 1)]
            assert study.n_generations == number + 1
    np.testing.assert_array_equal(first.trajectory(), second.trajectory())
