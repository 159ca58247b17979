import itertools

import numpy as np
import pytest

from fade_study.analysis.correlation import Entry, draw_marginals, draw_predictors, draw_ranks, draw_repetitions
from fade_study.ranking import fade_rank
from fade_study.statistics.ranks import Estimate, coefficient, repetition_curve, spearman

PATHS = np.array(list(itertools.product(range(4), repeat=3)))


@pytest.fixture
def simulated(rng):
    """Alphas ``(R, d, w)`` of noisy trainings, and accuracies for 3 seeds."""
    effects = rng.normal(size=(3, 4))
    logits = 2 * (effects + 0.7 * rng.normal(size=(5, 3, 4)))
    alpha = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return alpha, effects[np.arange(3), PATHS].sum(axis=1)[:, None] + 0.5 * rng.normal(size=(64, 3))


def curve(alpha, accuracies):
    return repetition_curve(
        lambda draw: coefficient(fade_rank(alpha[list(draw)], PATHS), accuracies.mean(axis=1)), len(alpha)
    )


def test_figures_are_drawn(simulated):
    alpha, accuracies = simulated
    scores = fade_rank(alpha, PATHS)
    estimate = spearman(scores, accuracies, resamples=100)
    cells = [["1:", "2:", "2:01", "3:"]] * 3
    figures = [
        draw_marginals(alpha, cells),
        draw_ranks({"one": (scores, accuracies.mean(axis=1), estimate), "two": (-scores, accuracies[:, 0], estimate)}),
        draw_predictors({"fade": Entry(estimate, 10.0), "flops": Entry(Estimate(-0.4, -0.6, -0.2, 0.01), 0)}, 0.9, 500),
        draw_repetitions({"one": curve(alpha, accuracies)}),
    ]
    for figure in figures:
        figure.canvas.draw()
    assert f"Spearman {estimate.value:.2f}" in figures[1].axes[0].get_title()
    assert "n = 64" in figures[1].axes[0].get_title()
    assert [text.get_text() for text in figures[2].legends[0].get_texts()] == [
        "FaDE-rank",
        "other predictor",
        "noise ceiling ±0.90",
        "cost of the ground truth",
    ]
    ends = {round(float(x), 3) for line in figures[2].axes[0].lines for x in np.atleast_1d(line.get_xdata())}
    assert ends >= {-0.4, -0.6, -0.2}, "coefficients keep their signs"
    assert len(figures[3].axes[0].collections) == 1
    assert not draw_repetitions({"two": curve(alpha[:2], accuracies)}).axes[0].collections


def test_marginals_have_intervals_within_0_and_1_from_three_trainings_on(simulated):
    alpha = simulated[0] ** 8  # far from uniform, so that Student's intervals leave [0, 1]
    alpha /= alpha.sum(axis=-1, keepdims=True)
    cells = [["1:", "2:", "2:01", "3:"]] * 3
    bars = [span for ax in draw_marginals(alpha, cells).axes for span in ax.collections[0].get_segments()]
    assert len(bars) == 12
    assert np.min(bars, axis=(0, 1))[1] == 0
    assert np.max(bars, axis=(0, 1))[1] == 1
    assert not any(ax.collections for ax in draw_marginals(alpha[:2], cells).axes)
