import dataclasses

import numpy as np
import pytest
import torch

from fade_study import HyperArchitecture, enumerate_dags
from fade_study.effects import effects_to_alpha, path_effects
from fade_study.training import BilevelConfig, NetworkConfig, OptimizerConfig, train_hyper_architecture
from fade_study.training.alphas import fair_paths

HYPER = HyperArchitecture((tuple(enumerate_dags(2)), tuple(enumerate_dags(2))))


def test_a_regression_that_would_see_too_little_is_refused(digits):
    config = BilevelConfig(epochs=2, batch_size=200)
    with pytest.raises(ValueError, match="expected 5 weight steps or more, from whose losses"):
        train_hyper_architecture(HYPER, digits, config)


@pytest.mark.parametrize("steps", [1, 7, 20, 21])
def test_fair_paths_take_every_column_once_in_w_steps(steps):
    paths = np.array(fair_paths(steps, (3, 7), torch.Generator().manual_seed(0)))
    assert paths.shape == (steps, 3)
    for start in range(0, steps, 7):
        for columns in paths[start : start + 7].T:
            assert len(set(columns)) == len(columns)
    if steps > 7:
        assert (paths[:7] != paths[7:14]).any()


COMBINATIONS = [(paths, estimator) for paths in ("fair", "alphas") for estimator in ("marginal", "straight-through")]


@pytest.mark.filterwarnings("ignore:the supernet has hardly trained")
@pytest.mark.parametrize(("paths", "estimator"), COMBINATIONS)
def test_micro_batches_add_up_to_the_batch(digits, paths, estimator):
    config = BilevelConfig(
        epochs=4, batch_size=30, optimizer=OptimizerConfig(learning_rate=0.01), alpha_learning_rate=0.05,
        paths=paths, estimator=estimator, alpha_init_std=1.0,
    )  # fmt: skip
    network = NetworkConfig(normalization="none")  # which would take the statistics of each
    whole, parts = [
        train_hyper_architecture(HYPER, digits, c, network=network, seed=0)
        for c in (config, dataclasses.replace(config, micro_batches=4))
    ]
    np.testing.assert_allclose(parts.alpha_history, whole.alpha_history, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(parts.losses.paths, whole.losses.paths)
    np.testing.assert_allclose(parts.losses.losses, whole.losses.losses, atol=1e-4)
    assert np.ptp(whole.alpha_history, axis=0).max() > 1e-3, "the alphas have not moved"
    for one, other in zip(parts.epochs, whole.epochs, strict=True):
        assert one["loss/weights"] == pytest.approx(other["loss/weights"], abs=1e-4)


@pytest.mark.parametrize(("paths", "estimator"), COMBINATIONS)
def test_every_training_tells_effects_and_takes_the_steps_it_needs(digits, paths, estimator):
    config = BilevelConfig(
        epochs=3, batch_size=32, optimizer=OptimizerConfig(learning_rate=0.01), paths=paths, estimator=estimator,
        alpha_learning_rate=0.05,
    )  # fmt: skip
    result = train_hyper_architecture(HYPER, digits, config, seed=0)
    steps = digits.weight.steps(32)
    assert result.losses.epochs.tolist() == [0] * steps + [1] * steps + [2] * steps
    assert result.losses.losses[:steps].mean() == pytest.approx(result.epochs[0]["loss/weights"], rel=1e-6)
    assert ("loss/alpha" in result.epochs[-1]) == ((paths, estimator) != ("fair", "marginal"))
    assert ((result.effects.error > 0) & (result.effects.error < 1)).all()
    if estimator == "marginal":
        np.testing.assert_array_equal(result.alpha, effects_to_alpha(result.effects))


@pytest.mark.parametrize("micro_batches", [None, 4])
def test_a_sweep_tells_effects_of_the_trained_supernet(digits, micro_batches):
    config = BilevelConfig(epochs=2, batch_size=32, sweep_paths=20, micro_batches=micro_batches)
    result = train_hyper_architecture(HYPER, digits, config, seed=0)
    assert result.sweep.paths.shape == (20, 2)
    assert np.bincount(result.sweep.paths[:, 0]).tolist() == [10, 10]
    expected = path_effects(result.sweep, 2)
    np.testing.assert_array_equal(result.effects.value, expected.value)
    np.testing.assert_array_equal(result.alpha, effects_to_alpha(expected))
    # Equal paths have equal losses, since all are measured on the same images.
    for path in np.unique(result.sweep.paths, axis=0):
        same = result.sweep.losses[(result.sweep.paths == path).all(axis=1)]
        assert np.ptp(same) < 1e-6


def test_a_sweep_of_too_few_paths_is_refused(digits):
    config = BilevelConfig(epochs=2, batch_size=32, sweep_paths=3)
    with pytest.raises(ValueError, match="expected 4 sweep_paths or more"):
        train_hyper_architecture(HYPER, digits, config)


def test_straight_through_alphas_do_not_depend_on_which_losses_are_kept(digits):
    """With paths drawn from the alphas, both estimators share one training and only read it differently."""
    config = BilevelConfig(epochs=2, batch_size=32, paths="alphas", alpha_learning_rate=0.05)
    marginal, straight_through = [
        train_hyper_architecture(HYPER, digits, dataclasses.replace(config, estimator=estimator), seed=0)
        for estimator in ("marginal", "straight-through")
    ]
    np.testing.assert_array_equal(marginal.losses.losses, straight_through.losses.losses)
    assert not np.allclose(marginal.alpha, straight_through.alpha)
