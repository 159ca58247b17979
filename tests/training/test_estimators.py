import dataclasses
import itertools

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from fade_study import HyperArchitecture, enumerate_dags
from fade_study.nn import Supernet, gumbel_noise
from fade_study.training import BilevelConfig, NetworkConfig, OptimizerConfig, train_hyper_architecture
from fade_study.training.data import Minibatch
from fade_study.training.estimators import ESTIMATORS, ScoreFunction, path_effects, reinmax_factors

HYPER = HyperArchitecture((tuple(enumerate_dags(2)), tuple(enumerate_dags(2))))


@pytest.fixture
def supernet(digits):
    torch.manual_seed(0)
    return Supernet(HYPER, digits.image_shape, digits.classes, NetworkConfig(normalization="none"))


def test_the_score_function_is_unbiased(digits, supernet):
    """Its mean over draws is the gradient of the expected loss, summed over all paths."""
    batch = Minibatch(digits.alpha.images[:8], digits.alpha.labels[:8], 8)
    with torch.no_grad():
        # scores in proportion to the paths' columns, so that losses differ
        for row in range(2):
            for parameter in supernet.cells(row)[1].parameters():
                parameter.mul_(3)
    start = torch.tensor([[0.3, -0.2], [0.0, 0.5]])
    logits = start.clone().requires_grad_()
    expected = torch.zeros(())
    for path in itertools.product(range(2), repeat=2):
        loss = batch.loss(supernet(batch.images, path)).detach()
        expected = expected + loss * torch.softmax(logits, dim=1)[[0, 1], list(path)].prod()
    (exact,) = torch.autograd.grad(expected, logits)

    estimator = ScoreFunction(supernet, start.clone(), BilevelConfig(), Accelerator())
    generator = torch.Generator().manual_seed(0)
    gradients = []
    for _ in range(600):
        gradients.append(estimator.shares([batch], gumbel_noise((2, 2), generator))[0][1])
    drawn = torch.stack(gradients)
    error = drawn.std(dim=0) / len(drawn) ** 0.5
    assert (exact.abs() > 4 * error).all(), "the draws could not tell the gradient from 0"
    assert ((drawn.mean(dim=0) - exact).abs() < 4 * error).all()


def test_reinmax_is_exact_for_quadratic_functions(rng):
    """Second-order accurate; the plain straight-through gradient is exact for linear functions only."""
    quadratic = torch.tensor(rng.normal(size=(4, 4)))
    linear = torch.tensor(rng.normal(size=4))

    def value(x):
        return x @ quadratic @ x + linear @ x

    logits = torch.tensor(rng.normal(size=(1, 4)), requires_grad=True)
    alpha = torch.softmax(logits, dim=1)[0]
    corners = torch.eye(4, dtype=torch.float64)
    (exact,) = torch.autograd.grad(sum(alpha[j] * value(corners[j]) for j in range(4)), logits)
    estimate, plain = torch.zeros_like(exact), torch.zeros_like(exact)
    for j in range(4):
        slope = torch.autograd.functional.jacobian(value, corners[j])
        (reinmax,) = torch.autograd.grad(slope @ reinmax_factors(logits, torch.tensor([j]))[0], logits)
        (straight,) = torch.autograd.grad(slope @ torch.softmax(logits, dim=1)[0], logits)
        estimate += alpha[j].detach() * reinmax
        plain += alpha[j].detach() * straight
    torch.testing.assert_close(estimate, exact)
    assert not torch.allclose(plain, exact, atol=1e-2)


def test_effects_of_columns_are_found_whatever_the_epochs_do(rng):
    effects = rng.normal(size=(3, 4))
    effects -= effects.mean(axis=1, keepdims=True)
    paths, epochs = rng.integers(4, size=(60, 3)), np.repeat([0, 1, 2], 20)
    losses = effects[np.arange(3), paths].sum(axis=1) + np.array([9.0, 3.0, 1.0])[epochs]
    found = path_effects(paths, losses, epochs, 4)
    np.testing.assert_allclose(found.value, effects, atol=1e-9)
    np.testing.assert_allclose(found.error, 0, atol=1e-9)


def test_standard_errors_are_the_spread_of_effects(rng):
    paths, epochs = rng.integers(3, size=(50, 2)), np.repeat([0, 1], 25)
    fits = [path_effects(paths, rng.normal(size=50), epochs, 3) for _ in range(400)]
    spread = np.std([fit.value for fit in fits], axis=0)
    claimed = np.sqrt(np.mean([fit.error**2 for fit in fits], axis=0))
    np.testing.assert_allclose(claimed, spread, rtol=0.15)


def test_a_column_never_taken_has_no_effect(rng):
    paths = np.column_stack([rng.integers(1, 3, size=200), rng.integers(3, size=200)])
    found = path_effects(paths, 2 + 0.3 * rng.normal(size=200), np.zeros(200, dtype=int), 3)
    assert (found.value[0, 0], found.error[0, 0]) == (0, np.inf)
    np.testing.assert_allclose(found.value.sum(axis=1), 0, atol=1e-9)
    assert (np.abs(found.value) < 5 * np.where(np.isfinite(found.error), found.error, 1)).all()
    assert (found.error[1] < 0.1).all()


def test_no_more_losses_than_unknowns_show_nothing(rng):
    paths = np.array([[0, 0], [1, 1], [2, 2], [0, 1], [1, 2]])
    assert path_effects(paths, rng.normal(size=5), np.zeros(5, dtype=int), 3) is None


def test_a_regression_that_would_see_too_little_is_refused(digits):
    config = BilevelConfig(epochs=2, batch_size=200, estimator="training-regression")
    with pytest.raises(ValueError, match="expected 5 losses, more than there are unknowns, within 2 epochs"):
        train_hyper_architecture(HYPER, digits, config)


@pytest.mark.filterwarnings("ignore:the supernet has hardly trained")
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_micro_batches_add_up_to_the_batch(digits, estimator):
    config = BilevelConfig(
        epochs=4, batch_size=30, optimizer=OptimizerConfig(learning_rate=0.01), alpha_learning_rate=0.05,
        estimator=estimator, alpha_init_std=1.0,
    )  # fmt: skip
    network = NetworkConfig(normalization="none")  # which would take the statistics of each
    whole, parts = [
        train_hyper_architecture(HYPER, digits, c, network=network, seed=0)
        for c in (config, dataclasses.replace(config, micro_batches=4))
    ]
    np.testing.assert_allclose(parts.alpha_history, whole.alpha_history, rtol=0, atol=1e-5)
    assert np.ptp(whole.alpha_history, axis=0).max() > 1e-3, "the alphas have not moved"
    for one, other in zip(parts.epochs, whole.epochs, strict=True):
        assert one["loss/weights"] == pytest.approx(other["loss/weights"], abs=1e-4)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_path_regression_alone_knows_standard_errors(digits, estimator):
    config = BilevelConfig(
        epochs=3, batch_size=32, optimizer=OptimizerConfig(learning_rate=0.01), estimator=estimator, alpha_start=1
    )
    result = train_hyper_architecture(HYPER, digits, config, seed=0)
    regression = estimator.endswith("regression")
    assert (result.effects is not None) == regression
    assert ("loss/alpha" in result.epochs[-1]) == (estimator != "training-regression")
    np.testing.assert_allclose(result.alpha_history[0], 0.5)
    if result.effects is not None:
        assert ((result.effects.error > 0) & (result.effects.error < 1)).all()
        order = result.alpha.argsort(axis=1)
        np.testing.assert_array_equal(order, (-result.effects.value).argsort(axis=1))
