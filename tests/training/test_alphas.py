import dataclasses

import numpy as np
import pytest
import torch

from fade_study import HyperArchitecture, enumerate_dags
from fade_study.effects import Effects, PathLosses, average_effects, effects_to_alpha, path_effects
from fade_study.training import BilevelConfig, NetworkConfig, OptimizerConfig, train_hyper_architecture
from fade_study.training.alphas import fair_paths

HYPER = HyperArchitecture((tuple(enumerate_dags(2)), tuple(enumerate_dags(2))))


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


def test_a_regression_that_would_see_too_little_is_refused(digits):
    config = BilevelConfig(epochs=2, batch_size=200)
    with pytest.raises(ValueError, match="expected 5 weight steps or more from epoch alpha_start = 0 on"):
        train_hyper_architecture(HYPER, digits, config)


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
        alpha_start=1, alpha_learning_rate=0.05,
    )  # fmt: skip
    result = train_hyper_architecture(HYPER, digits, config, seed=0)
    steps = digits.weight.steps(32)
    assert result.losses.epochs.tolist() == [1] * steps + [2] * steps
    assert result.losses.losses[:steps].mean() == pytest.approx(result.epochs[1]["loss/weights"], rel=1e-6)
    assert ("loss/alpha" in result.epochs[-1]) == ((paths, estimator) != ("fair", "marginal"))
    np.testing.assert_allclose(result.alpha_history[0], 0.5)
    assert ((result.effects.error > 0) & (result.effects.error < 1)).all()
    if estimator == "marginal":
        np.testing.assert_array_equal(result.alpha, effects_to_alpha(result.effects))


def test_straight_through_alphas_do_not_depend_on_which_losses_are_kept(digits):
    """The two estimators share one training: with paths drawn from the alphas, only what is read from it differs."""
    config = BilevelConfig(epochs=2, batch_size=32, paths="alphas", alpha_learning_rate=0.05)
    marginal, straight_through = [
        train_hyper_architecture(HYPER, digits, dataclasses.replace(config, estimator=estimator), seed=0)
        for estimator in ("marginal", "straight-through")
    ]
    np.testing.assert_array_equal(marginal.losses.losses, straight_through.losses.losses)
    assert not np.allclose(marginal.alpha, straight_through.alpha)
