import numpy as np
import pytest
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase

from fade_study import DagSpace, create_study
from fade_study.samplers import PseudoGradientSampler, RowGeneration, RowHistory

HILL = np.array([0.7, 0.3, 0.5])


class TestConformance(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Optuna's own suite, which asks for params that are no anchors: of the base class, not of ``propose``."""

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


def test_differences_of_log_alpha_by_hand():
    points = [[0.5, 0.5], [0.6, 0.5], [0.4, 0.5], [0.5, 0.6], [0.5, 0.4]]
    sampler = PseudoGradientSampler(offset=0.1, step_size=0.05, log_alpha=True)
    proposed = sampler.propose(history(points, [0.2, 0.4, 0.1, 0.0, 0.3]), np.random.default_rng(0))
    anchor = [0.5 + 0.05 * np.log(0.4 / 0.1), 0.5 + 0.05 * np.log(0.01 / 0.3)]  # 0 counts as a hundredth
    np.testing.assert_allclose(proposed[0], anchor)
    np.testing.assert_allclose(proposed[1] - anchor, [0.1, 0], atol=1e-12)


def test_log_alphas_do_not_depend_on_the_alphas_of_other_cells():
    """The anchor's share grows at the cost of the others, whose ratios stay."""
    points = [[0.5, 0.5], [0.6, 0.5], [0.4, 0.5], [0.5, 0.6], [0.5, 0.4]]
    neighbors = np.array([0.4, 0.1, 0.2, 0.3])
    pasts = [history(points, [anchor, *(1 - anchor) * neighbors]) for anchor in (0.0, 0.8)]
    for log_alpha in (True, False):
        sampler = PseudoGradientSampler(0.1, 0.05, log_alpha=log_alpha)
        one, other = (sampler.propose(past, np.random.default_rng(0)) for past in pasts)
        assert np.allclose(one, other, rtol=0, atol=1e-12) == log_alpha


def test_a_snapped_anchor_starts_from_the_point_of_its_cell():
    alpha = np.array([[0.1, 0.3, 0.1, 0.2, 0.1, 0.0, 0.2], np.full(7, 1 / 7)])
    step = 0.2 * (alpha[:, 1::2] - alpha[:, 2::2])
    for snap in (True, False):
        study = create_study(space=DagSpace(4), depth=2, sampler=PseudoGradientSampler(0.4, 0.2, snap=snap, seed=0))
        batch = study.ask()
        study.tell(batch, alpha)
        cells = np.array([study.space.embed(cell) for cell in batch.architecture])
        assert np.abs(cells - batch.anchors).min() > 0.01
        assert batch.hyper_architecture.rows[0][0] != batch.hyper_architecture.rows[0][1]
        expected = np.clip((cells if snap else batch.anchors) + step, 0, 1)
        np.testing.assert_allclose(study.ask().anchors, expected, rtol=0, atol=1e-12)


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
