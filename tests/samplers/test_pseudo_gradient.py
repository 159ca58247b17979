import numpy as np
import pytest
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase

from fade_study import DagSpace, create_study
from fade_study.samplers import PseudoGradientSampler, RowGeneration, RowHistory

HILL = np.array([0.7, 0.3, 0.5])


class TestConformance(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Optuna's own suite, which tests the base class: it samples params that are not anchors, without ``propose``."""

    @pytest.fixture
    def sampler(self):
        return lambda: PseudoGradientSampler(seed=0)


def history(points, alpha):
    return RowHistory(0, ("a", "b"), (RowGeneration(np.asarray(points), ("",) * len(points), np.asarray(alpha), None),))


def test_equation_1_by_hand():
    points = [[0.5, 0.5], [0.6, 0.5], [0.4, 0.5], [0.5, 0.6], [0.5, 0.4]]
    sampler = PseudoGradientSampler(offset=0.1, step_size=0.5)
    proposed = sampler.propose(history(points, [0.2, 0.4, 0.1, 0.1, 0.2]), np.random.default_rng(0))
    anchor = [0.5 + 0.5 * (0.4 - 0.1), 0.5 + 0.5 * (0.1 - 0.2)]
    expected = [anchor] + [np.add(anchor, step) for step in ([0.1, 0], [-0.1, 0], [0, 0.1], [0, -0.1])]
    np.testing.assert_allclose(proposed, expected)


def test_it_has_no_memory():
    points = [[0.5, 0.5], [0.6, 0.5], [0.4, 0.5], [0.5, 0.6], [0.5, 0.4]]
    last = history(points, [0.2, 0.4, 0.1, 0.1, 0.2]).generations
    older = history(np.zeros((5, 2)), [1, 0, 0, 0, 0]).generations
    one, other = (
        PseudoGradientSampler().propose(RowHistory(0, ("a", "b"), past), np.random.default_rng(0))
        for past in (last, older + last)
    )
    np.testing.assert_array_equal(one, other)


def test_anchors_stay_in_the_box_and_neighbors_around_them():
    points = [[0.95, 0.5], [1.0, 0.5], [0.8, 0.5], [0.95, 0.65], [0.95, 0.35]]
    proposed = PseudoGradientSampler(0.15, 5.0).propose(history(points, [0, 1, 0, 0, 0]), np.random.default_rng(0))
    np.testing.assert_allclose(proposed[0], [1.0, 0.5])
    np.testing.assert_allclose(proposed[2], [0.85, 0.5])


def climb(step_size, seed):
    study = create_study(space=DagSpace(4), depth=3, sampler=PseudoGradientSampler(0.1, step_size, seed=seed))
    for _ in range(60):
        batch = study.ask()
        logits = -4 * ((batch.points - HILL) ** 2).sum(axis=-1)
        study.tell(batch, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    return np.linalg.norm(study.trajectory() - HILL, axis=-1)  # (T, d)


@pytest.mark.parametrize("seed", range(4))
def test_it_climbs_a_hill_from_any_start(seed):
    distance = climb(2.0, seed)
    assert (distance[-1] < 0.02).all()
    assert (np.diff(distance, axis=0) < 1e-9).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_printed_sign_walks_away(seed):
    distance = climb(-2.0, seed)
    assert (distance[-1] > distance[0]).all()
    assert (distance[-1] > 0.7).all()  # in a corner of the box


@pytest.mark.parametrize(("offset", "step_size"), [(0, 1), (-1, 1), (np.nan, 1), (0.1, 0), (0.1, np.inf)])
def test_impossible_settings_are_refused(offset, step_size):
    with pytest.raises(ValueError, match="expected"):
        PseudoGradientSampler(offset, step_size)
