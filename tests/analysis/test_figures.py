import io

import numpy as np
import pytest

from fade_study.analysis import figures


def drawn(figure):
    """The figure after rendering, which reveals many mistakes."""
    figure.savefig(io.BytesIO(), format="png")
    return figure


def test_alphas():
    figure = drawn(figures.draw_alpha(np.array([[0.2, 0.8]]), [["3:01.12", "5:01.02.03.04.12.13.14.23.24.34"]]))
    assert [text.get_text().split("\n")[0] for text in figure.axes[0].texts] == ["0.20", "0.80"]
    history = drawn(figures.draw_alpha_history(np.full((4, 3, 4), 0.25)))
    assert len(history.axes) == 3
    assert [text.get_text() for text in history.axes[0].get_legend().get_texts()] == [
        "other columns",
        "column 0 (anchor)",
        "1 / 4",
    ]
    drawn(figures.draw_alpha_history(np.ones((1, 1, 1))))


@pytest.mark.parametrize("repetitions", [2, 3])
def test_costs(rng, repetitions):
    seconds = {"weight step": rng.random((repetitions, 3)), "alpha step": rng.random((repetitions, 3))}
    figure = drawn(figures.draw_costs({"w =": ([1, 2, 3], seconds), "batch size": ([8, 16, 32], seconds)}))
    assert [ax.get_xlabel() for ax in figure.axes] == ["width w (columns)", "batch size (images)"]
    assert len(figure.axes[0].collections) == (2 if repetitions > 2 else 0), "no quartiles of two values"
