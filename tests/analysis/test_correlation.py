import itertools

import numpy as np
import pytest

from analysis.correlation import (
    Entry,
    draw_curves,
    draw_marginals,
    draw_predictors,
    draw_ranks,
    epoch_curve,
    repetition_curve,
    sample_curves,
)
from fade_study.correlation import Estimate, spearman

PATHS = np.array(list(itertools.product(range(4), repeat=3)))


@pytest.fixture
def simulated(rng):
    """Alphas that come to show the effects of columns, each training with noise of its own; accuracies of 3 seeds."""
    effects = rng.normal(size=(3, 4))
    strength = np.linspace(0, 2, 6)[None, :, None, None]
    logits = strength * (effects + 0.7 * rng.normal(size=(5, 1, 3, 4))) + 1e-3 * rng.normal(size=(5, 6, 3, 4))
    history = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    accuracies = effects[np.arange(3), PATHS].sum(axis=1)[:, None] + 0.5 * rng.normal(size=(64, 3))
    return history, accuracies


def test_curves_show_what_was_put_in(simulated):
    history, accuracies = simulated
    mean = accuracies.mean(axis=1)
    epochs = epoch_curve(history, PATHS, mean)
    assert epochs.x.tolist() == [1, 2, 3, 4, 5, 6]
    assert epochs.median[-1] > epochs.median[0]
    repetitions = repetition_curve(history[:, -1], PATHS, mean)
    assert repetitions.x.tolist() == [1, 2, 3, 4, 5]
    assert repetitions.median[-1] > repetitions.median[0]
    assert repetitions.median[-1] == pytest.approx(epochs.median[-1])
    assert repetitions.low[-1] == repetitions.high[-1], "there is one way to draw all of them"
    samples = sample_curves(history[:, -1].mean(axis=0)[np.arange(3), PATHS].prod(axis=1), accuracies)
    assert set(samples) == {1, 3}
    assert samples[3].x.tolist() == [8, 16, 32, 64]
    width = samples[3].high - samples[3].low
    assert width[0] > width[2] > width[3] == 0
    assert samples[3].median[-1] > samples[1].median[-1]


def test_figures_are_drawn(simulated):
    history, accuracies = simulated
    mean = accuracies.mean(axis=1)
    scores = history[:, -1].mean(axis=0)[np.arange(3), PATHS].prod(axis=1)
    estimate = spearman(scores, accuracies, resamples=100)
    curves = epoch_curve(history, PATHS, mean), repetition_curve(history[:, -1], PATHS, mean)
    figures = [
        draw_marginals(history[:, -1], ["1:", "2:", "2:01", "3:"]),
        draw_ranks(scores, mean, estimate, 3),
        draw_predictors({"fade": Entry(estimate, 10.0), "flops": Entry(Estimate(-0.4, -0.6, -0.2, 0.01), 0)}, 0.9, 500),
        draw_curves(*curves, sample_curves(scores, accuracies)),
    ]
    for figure in figures:
        figure.canvas.draw()
    assert f"{estimate.value:.2f}" in figures[1].axes[0].get_title()
    assert "n = 64 × 3 seeds" in figures[1].axes[0].get_title()
