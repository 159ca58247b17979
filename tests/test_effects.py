from types import SimpleNamespace

import numpy as np
import pytest

from fade_study import DagSpace, HyperArchitecture
from fade_study.cells import feature_table
from fade_study.effects import (
    Effects,
    PathLosses,
    average_effects,
    effects_to_alpha,
    marginal_effects,
    merge_same,
    path_effects,
    pool_effects,
)
from fade_study.ranking import check_alpha


def losses(paths, values, epochs):
    return PathLosses(np.asarray(paths), np.asarray(values, dtype=float), np.asarray(epochs))


def test_effects_of_columns_are_found_whatever_the_epochs_do(rng):
    effects = rng.normal(size=(3, 4))
    effects -= effects.mean(axis=1, keepdims=True)
    paths, epochs = rng.integers(4, size=(60, 3)), np.repeat([0, 1, 2], 20)
    losses = effects[np.arange(3), paths].sum(axis=1) + np.array([9.0, 3.0, 1.0])[epochs]
    found = path_effects(PathLosses(paths, losses, epochs), 4)
    np.testing.assert_allclose(found.value, effects, atol=1e-9)
    np.testing.assert_allclose(found.error, 0, atol=1e-9)


def test_standard_errors_are_the_spread_of_effects(rng):
    paths, epochs = rng.integers(3, size=(50, 2)), np.repeat([0, 1], 25)
    fits = [path_effects(PathLosses(paths, rng.normal(size=50), epochs), 3) for _ in range(400)]
    spread = np.std([fit.value for fit in fits], axis=0)
    claimed = np.sqrt(np.mean([fit.error**2 for fit in fits], axis=0))
    np.testing.assert_allclose(claimed, spread, rtol=0.15)


def test_a_column_never_taken_has_no_effect(rng):
    paths = np.column_stack([rng.integers(1, 3, size=200), rng.integers(3, size=200)])
    found = path_effects(losses(paths, 2 + 0.3 * rng.normal(size=200), [0] * 200), 3)
    assert (found.value[0, 0], found.error[0, 0]) == (0, np.inf)
    np.testing.assert_allclose(found.value.sum(axis=1), 0, atol=1e-9)
    assert (np.abs(found.value) < 5 * np.where(np.isfinite(found.error), found.error, 1)).all()
    assert (found.error[1] < 0.1).all()


def test_no_more_losses_than_unknowns_show_nothing(rng):
    paths = np.array([[0, 0], [1, 1], [2, 2], [0, 1], [1, 2]])
    assert path_effects(losses(paths, rng.normal(size=5), [0] * 5), 3) is None


def test_effects_of_several_trainings_are_averaged_and_differ_by_their_error(rng):
    truth = np.array([[-0.3, 0.1, 0.2]])
    found = [Effects(truth + 0.1 * rng.normal(size=(1, 3)), np.full((1, 3), 1e-6)) for _ in range(400)]
    mean = average_effects(found)
    np.testing.assert_allclose(mean.value, truth, atol=0.02)
    np.testing.assert_allclose(mean.error, 0.1 / 20, rtol=0.1)
    assert average_effects(found[:1]) is found[0]
    with pytest.raises(ValueError, match="effects of one training or more"):
        average_effects([])


def test_alphas_are_the_softmax_of_effects_in_units_of_their_error():
    effects = Effects(np.array([[0.2, -0.2], [0.0, 0.0]]), np.full((2, 2), 0.2))
    ratio = np.exp(2)  # two standard errors apart
    np.testing.assert_allclose(effects_to_alpha(effects), [[1 / (1 + ratio), ratio / (1 + ratio)], [0.5, 0.5]])


def centered(values):
    return values - values.mean(axis=1, keepdims=True)


def test_pooling_takes_noise_out_where_features_explain_effects(rng):
    """Effects that have nothing to do with the features stay nearly as they are."""
    features = rng.normal(size=(4, 7, 12))
    explained, unexplained = centered(features[:, :, 0] - features[:, :, 1]), centered(rng.normal(size=(4, 7)))
    gains = {}
    for name, truth in (("explained", explained), ("unexplained", unexplained)):
        raw, pooled = [], []
        for _ in range(20):
            noise = 0.7 * rng.normal(size=(4, 7))
            found = Effects(centered(truth + noise), np.full((4, 7), 0.7))
            raw.append(np.square(found.value - truth).mean())
            pooled.append(np.square(pool_effects(found, features).value - truth).mean())
        gains[name] = np.mean(pooled) / np.mean(raw)
    assert gains["explained"] < 0.6
    assert gains["unexplained"] < 1.05


def test_pooled_errors_are_about_those_that_are_made(rng):
    """They may be somewhat too large, because the variances are unknown."""
    features = rng.normal(size=(4, 7, 3))
    misses, claimed = [], []
    for _ in range(60):
        truth = centered(features @ rng.normal(size=3))
        noise = rng.normal(size=(4, 7))
        pooled = pool_effects(Effects(centered(truth + noise), np.ones((4, 7))), features)
        misses.append(np.square(pooled.value - truth).mean())
        claimed.append(np.square(pooled.error).mean())
    assert 0.9 < np.sqrt(np.mean(claimed) / np.mean(misses)) < 1.5


def test_effects_without_noise_stay_as_they_are(rng):
    value = centered(rng.normal(size=(2, 3)))
    pooled = pool_effects(Effects(value, np.zeros((2, 3))), rng.normal(size=(2, 3, 2)))
    np.testing.assert_allclose(pooled.value, value, atol=1e-3)
    np.testing.assert_allclose(pooled.error, 0, atol=1e-3)


def test_pooling_does_not_depend_on_the_features_units(rng):
    features = rng.normal(size=(2, 5, 4))
    found = Effects(centered(rng.normal(size=(2, 5))), np.full((2, 5), 0.5))
    one, other = pool_effects(found, features), pool_effects(found, 7 + features * np.array([1, 10, 0.1, 1e6]))
    np.testing.assert_allclose(one.value, other.value, atol=1e-9)


def test_a_column_that_no_path_took_is_told_by_its_features():
    features = np.arange(5.0)[None, :, None].repeat(2, axis=0)
    value = centered(np.array([[-2.0, -1, 0, 1, 2]] * 2))
    error = np.full((2, 5), 0.1)
    value[0, 4], error[0, 4] = 0, np.inf
    pooled = pool_effects(Effects(value, error), features)
    assert pooled.value[0].argmax() == 4
    assert pooled.error[0, 4] > pooled.error[0, 2]


def test_constant_or_missing_features_and_single_columns_are_no_trouble(rng):
    found = Effects(centered(rng.normal(size=(2, 3))), np.full((2, 3), 0.5))
    pooled = pool_effects(found, np.ones((2, 3, 4)))
    assert (pooled.value.argsort(axis=1) == found.value.argsort(axis=1)).all()
    alone = pool_effects(Effects(np.zeros((2, 1)), np.zeros((2, 1))), np.ones((2, 1, 4)))
    np.testing.assert_array_equal(alone.value, np.zeros((2, 1)))


def test_marginal_alphas_are_alphas(rng):
    cells = tuple(DagSpace(4))[5:9]
    assert feature_table((cells, cells)).shape == (2, 4, 12)
    effects = [Effects(centered(rng.normal(size=(2, 4))), np.full((2, 4), 0.3)) for _ in range(3)]
    found = marginal_effects(effects, HyperArchitecture((cells, cells)))
    check_alpha(effects_to_alpha(found), (2, 4))
    assert not np.allclose(found.value, average_effects(effects).value)  # it is pooled


def test_cells_without_features_are_not_pooled(rng):
    row = (SimpleNamespace(key="a"), SimpleNamespace(key="b"), SimpleNamespace(key="a"))
    assert feature_table((row, row)) is None
    effects = [Effects(centered(rng.normal(size=(2, 3))), np.full((2, 3), 0.3)) for _ in range(3)]
    found = marginal_effects(effects, HyperArchitecture((row, row)))
    expected = merge_same(average_effects(effects), [["a", "b", "a"]] * 2)
    np.testing.assert_array_equal(found.value, expected.value)


def test_columns_with_the_same_cell_have_one_effect():
    found = Effects(np.array([[-0.3, 0.1, 0.2], [0.0, 0.5, -0.5]]), np.full((2, 3), 0.2))
    merged = merge_same(found, [["a", "b", "a"], ["a", "b", "c"]])
    np.testing.assert_allclose(merged.value, [[-0.05, 0.1, -0.05], [0.0, 0.5, -0.5]])
    np.testing.assert_allclose(merged.error, [[0.2 / 2**0.5, 0.2, 0.2 / 2**0.5], [0.2, 0.2, 0.2]])
