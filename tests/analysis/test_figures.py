import io

import numpy as np
import pytest
from scipy import stats

from analysis import figures
from fade_study import Architecture, Dag, enumerate_dags


def drawn(figure):
    """The figure, rendered: many mistakes show only then."""
    figure.savefig(io.BytesIO(), format="png")
    return figure


def test_trajectory_has_a_panel_per_row_and_feature():
    trajectory = np.random.default_rng(0).random((5, 3, 2))
    figure = drawn(figures.draw_trajectory(trajectory, ["a_b", "c"]))
    panels = np.array(figure.axes).reshape(4, 2)
    np.testing.assert_array_equal(panels[1, 0].lines[0].get_ydata(), trajectory[:, 1, 0])
    np.testing.assert_allclose(panels[3, 1].lines[-1].get_ydata(), trajectory[:, :, 1].mean(axis=1))
    assert [panel.get_title() for panel in panels[0]] == ["a b", "c"]


def test_accuracy_states_n_and_the_regression_of_generations():
    x, y = [0, 2, 4, 6], [0.2, 0.5, 0.8, 0.7]
    accuracies = [[value - 0.1, value + 0.1] for value in y]
    ax = drawn(figures.draw_accuracy(x, accuracies, ["a", "b", "c", "b"])).axes[0]
    r, p = stats.pearsonr(x, y)
    assert ax.get_title() == f"n = 4 generations with 3 architectures, r = {r:.2f}, p = {p:.2g}"
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), np.polyval(np.polyfit(x, y, 1), x))


@pytest.mark.parametrize("n", [1, 2])
def test_accuracy_without_a_trend(n):
    figure = drawn(figures.draw_accuracy(list(range(n)), [[0.5]] * n, ["a"] * n))
    assert ", r" not in figure.axes[0].get_title()


def test_alphas():
    figure = drawn(figures.draw_alpha(np.array([[0.2, 0.8]]), [["3:01.12", "5:01.02.03.04.12.13.14.23.24.34"]]))
    assert [text.get_text().split("\n")[0] for text in figure.axes[0].texts] == ["0.20", "0.80"]
    assert len(drawn(figures.draw_alpha_history(np.full((4, 3, 2), 0.5))).axes) == 3


@pytest.mark.parametrize("size", [1, 3, 4])
def test_cells(size):
    cells = enumerate_dags(size)[:6]
    figure = drawn(figures.draw_cells(Architecture(cells)))
    texts = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert all(f"{c.vertices} vertices, {c.operations} convolutions" in t for c, t in zip(cells, texts, strict=True))


def test_cells_of_another_kind():
    class Other:
        key = "mlp-3"

    figure = drawn(figures.draw_cells(Architecture((Dag(1), Other()))))
    assert [text.get_text() for text in figure.axes[1].texts] == ["mlp-3"]
