import functools

import numpy as np
import optuna
import pytest
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase
from optuna.trial import TrialState

from fade_study import DagSpace, create_study
from fade_study.samplers import (
    ChampionSampler,
    PseudoGradientSampler,
    RandomAnchorSampler,
    RegularizedEvolutionSampler,
    RowGeneration,
    RowHistory,
)
from fade_study.testing import check_row_sampler

SPACE = DagSpace(4)
CELLS = list(SPACE)


def generation(indices, alpha):
    """A generation with some cells, and with points next to theirs."""
    points = np.array([np.clip(SPACE.embed(CELLS[i]) + 0.01, 0, 1) for i in indices])
    return RowGeneration(points, tuple(CELLS[i].key for i in indices), np.array(alpha), None)


def propose(sampler, generations, seed=0):
    sampler.bind(SPACE)
    return sampler.propose(RowHistory(0, SPACE.features, tuple(generations)), np.random.default_rng(seed))


@pytest.mark.parametrize(
    "make",
    [
        ChampionSampler,
        functools.partial(ChampionSampler, width=2),
        PseudoGradientSampler,
        RandomAnchorSampler,
    ],
)
def test_public_checks(make):
    check_row_sampler(lambda seed: make(seed=seed))


@pytest.mark.parametrize("sampler", [ChampionSampler, RandomAnchorSampler])
def test_all_points_of_the_first_neighborhood_are_random(sampler):
    first, again, other = (propose(sampler(5, seed=0), [], seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=1).all()
    assert len(np.unique(first, axis=0)) == 5
    for width in (1, 2.5):
        with pytest.raises(ValueError, match=f"expected a width of 2 or more, got {width}"):
            sampler(width)


def test_the_champion_is_the_point_of_the_best_cell_and_its_challengers_are_random():
    older, last = generation([1, 5, 9, 13], [0.0, 0.0, 0.0, 1.0]), generation([2, 6, 10, 14], [0.3, 0.1, 0.4, 0.2])
    proposed = propose(ChampionSampler(4), [older, last])
    np.testing.assert_array_equal(proposed[0], SPACE.embed(CELLS[10]))
    assert (proposed[1:] != propose(ChampionSampler(4), [older, last], seed=1)[1:]).any(axis=1).all()
    np.testing.assert_array_equal(
        propose(ChampionSampler(4), [last, older])[1:], proposed[1:]
    )  # challengers ignore alphas


def test_random_anchors_do_not_listen():
    def trajectory(alpha, seed):
        study = create_study(space=SPACE, depth=2, sampler=RandomAnchorSampler(3, seed=seed))
        points = []
        for _ in range(5):
            batch = study.ask()
            points.append(batch.points)
            study.tell(batch, np.array([alpha, alpha[::-1]]))
        return np.array(points)  # (T, d, w, f)

    one = trajectory([1.0, 0.0, 0.0], 0)
    np.testing.assert_array_equal(one, trajectory([0.2, 0.3, 0.5], 0))
    assert len(np.unique(one.reshape(-1, 3), axis=0)) == 5 * 2 * 3  # all points differ
    assert (one != trajectory([1.0, 0.0, 0.0], 1)).all()


# --- regularized evolution ---


class TestConformance(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Optuna's own suite, with a population so small that the suite's few trials fill it."""

    @pytest.fixture
    def sampler(self):
        return lambda: RegularizedEvolutionSampler(2, 1, seed=0)


def suggest(trial, rows=4):
    return np.array([[trial.suggest_float(f"row{i}/{name}", 0, 1) for name in "ab"] for i in range(rows)])


def params(trial, rows=4):
    return np.array([[trial.params[f"row{i}/{name}"] for name in "ab"] for i in range(rows)])


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_child_is_the_best_of_the_youngest_with_one_row_drawn_anew(direction):
    """The tournament is the whole population, so its winner is known. Older trials are better, but not in it."""
    sign = 1 if direction == "maximize" else -1
    study = optuna.create_study(direction=direction, sampler=RegularizedEvolutionSampler(4, 4, seed=0))
    noise = np.random.default_rng(0).normal(size=40)
    complete, mutated = [], set()
    for number in range(40):
        trial = study.ask()
        suggest(trial)
        if number % 5 == 3:
            study.tell(trial, state=TrialState.FAIL)  # failed trials do not count
            continue
        study.tell(trial, sign * (noise[number] - number / 10))
        if len(complete) >= 4:
            parent = max(complete[-4:], key=lambda parent: sign * parent.value)
            same = params(parent) == params(trial)
            (row,) = np.flatnonzero(~same.all(axis=1))
            assert not same[row].any()
            mutated.add(row)
        complete.append(study.trials[-1])
    assert mutated == {0, 1, 2, 3}
    values = [sign * trial.value for trial in complete]
    assert np.argmax(values) < len(values) - 5  # the best of all trials is too old to be a parent at the end


def test_only_a_tournament_of_the_youngest_competes():
    study = optuna.create_study(direction="maximize", sampler=RegularizedEvolutionSampler(5, 2, seed=0))
    distributions = {f"row{i}/{name}": optuna.distributions.FloatDistribution(0, 1) for i in range(4) for name in "ab"}
    for value in range(9, -1, -1):  # older trials are better, and each has its own point
        point = dict.fromkeys(distributions, value / 10)
        study.add_trial(optuna.create_trial(params=point, distributions=distributions, value=value))
    counts = np.zeros(10)
    for _ in range(400):
        trial = study.ask()
        counts[round(10 * np.median(suggest(trial)))] += 1
        study.tell(trial, state=TrialState.FAIL)
    # The best of 2 of 5 wins: the best is in 4 of the 10 pairs, the second best in 3 without it, and so on.
    np.testing.assert_allclose(counts / 400, [0, 0.1, 0.2, 0.3, 0.4, 0, 0, 0, 0, 0], atol=0.08)


def test_evolution_finds_more_than_random_sampling():
    def best(sampler):
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(lambda trial: -((suggest(trial) - 0.3) ** 2).sum(), n_trials=80)
        return study.best_value

    evolved = [best(RegularizedEvolutionSampler(10, 5, seed=seed)) for seed in range(5)]
    random = [best(optuna.samplers.RandomSampler(seed=seed)) for seed in range(5)]
    assert np.mean(evolved) > 0.6 * np.mean(random)  # the optimum is 0
    assert np.greater(evolved, random).sum() >= 4
    assert best(RegularizedEvolutionSampler(10, 5, seed=0)) == evolved[0]


def test_evolution_of_architectures_is_a_study_of_width_1():
    study = create_study(space=SPACE, depth=3, sampler=RegularizedEvolutionSampler(3, 3, seed=0))
    for generation in range(8):
        batch = study.ask()
        assert batch.points.shape == (3, 1, 3)
        study.tell(batch, np.ones((3, 1)), -float(generation))
    anchors = study.trajectory()  # (T, d, f)
    for t in range(3, 8):  # the oldest of the last three is the best
        assert (anchors[t] == anchors[t - 3]).all(axis=1).sum() == 2


@pytest.mark.parametrize(("population", "tournament"), [(0, 0), (5, 0), (2, 3)])
def test_impossible_tournaments_are_refused(population, tournament):
    with pytest.raises(ValueError, match="expected 1 <= tournament <= population"):
        RegularizedEvolutionSampler(population, tournament)
