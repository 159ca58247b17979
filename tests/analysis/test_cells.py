import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import fade_study
from fade_study import Architecture, Dag, enumerate_dags
from fade_study.analysis import cells
from fade_study.analysis.style import new_figure, rendered


class Other:
    key = "mlp-3"


def shapes(figure):
    """Number of outlines of each collection after rendering, which reveals many mistakes."""
    figure.savefig(io.BytesIO(), format="png")
    return [len(collection.get_paths()) for collection in figure.axes[0].collections]


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_an_architecture_is_drawn_with_its_sizes_and_keys_and_a_legend_for_each_symbol():
    figure = fade_study.draw(Architecture((Dag(1), Dag(3, ((0, 1), (0, 2))))))
    assert isinstance(figure, Figure)
    assert sorted(shapes(figure)) == [2, 2, 2, 4, 5], "inputs, their edges, outputs, vertices, operations"
    assert texts(figure)[1::2] == ["vertices: 1, operations: 1\n1:", "vertices: 3, operations: 4\n3:01.02"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [*cells.MARKERS, *cells.LINES, "data flow downwards"]


def test_cells_of_another_kind_are_drawn_as_keys():
    figure = cells.draw_architecture(Architecture((Other(), Dag(1))), "mine")
    assert sum(shapes(figure)) == 5
    assert texts(figure).count("mlp-3") == 2
    assert figure.get_suptitle() == "mine"


@pytest.mark.parametrize("generations", [1, 2, 20])
def test_generations_are_drawn_with_the_winner_framed(generations):
    pool = enumerate_dags(4)
    architectures = {5 * t: Architecture((pool[t], pool[0])) for t in range(generations)}
    winner = max(architectures)
    figure = cells.draw_generations(architectures, {winner: [0.5, 0.6]}, winner)
    assert sum(shapes(figure)) > 5 * 2 * generations
    assert figure.get_figwidth() <= 12.5
    ax = figure.axes[0]
    ticks = dict(zip((label.get_text() for label in ax.get_xticklabels()), ax.get_xticks(), strict=True))
    assert list(ticks) == [*(f"{5 * t}\n" for t in range(generations - 1)), f"{winner}\n0.550"]
    frame = next(patch for patch in ax.patches if isinstance(patch, Rectangle))
    assert frame.get_x() < ticks[f"{winner}\n0.550"] < frame.get_x() + frame.get_width()


def test_generations_without_evaluations_have_no_frame():
    figure = cells.draw_generations({0: Architecture((Other(),)), 1: Architecture((Other(),))}, {})
    shapes(figure)
    assert not figure.axes[0].patches
    assert figure.axes[0].get_xlabel() == "generation"


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_equal_figures_give_equal_files(kind):
    def file():
        figure = new_figure(2, 2, "title")
        figure.subplots().fill_between([0, 1], np.array([0.1, 0.2]), hatch="/")  # SVG names patterns by hashes
        return rendered(figure, kind)

    assert file() == file()
