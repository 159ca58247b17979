import functools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fade_study import FEATURES, Dag, DagSpace, enumerate_dags
from fade_study.cells import distant_cells
from fade_study.exceptions import InvalidInputError
from fade_study.testing import check_cell_space


def not_a_number(dag):
    return float("nan")


SMALL = [dag for size in (1, 2, 3, 4, 5) for dag in enumerate_dags(size)]


@pytest.mark.parametrize("dag", SMALL[::7], ids=str)
def test_features_are_those_of_networkx(dag):
    directed = dag.to_networkx(augmented=True)
    graph = directed.to_undirected()
    degrees = [degree for _, degree in graph.degree()]
    inner = dag.to_networkx()
    expected = {
        "eccentricity_variance": np.var(list(nx.eccentricity(graph).values())),
        "degree_variance": np.var(degrees),
        "vertices": inner.number_of_nodes(),
        "operations": directed.number_of_edges() - directed.out_degree(dag.vertices),
        "longest_path": nx.dag_longest_path_length(directed) - 1,  # the edge from the input has no convolution
        "density": nx.density(inner.to_undirected()),
        "mean_degree": np.mean(degrees),
        "sources": sum(d == 0 for _, d in inner.in_degree()),
        "sinks": sum(d == 0 for _, d in inner.out_degree()),
        "algebraic_connectivity": sorted(nx.laplacian_spectrum(graph))[1],
        "laplacian_radius": max(nx.laplacian_spectrum(graph)),
        "spectral_radius": max(nx.adjacency_spectrum(graph).real),
    }
    assert {name: feature(dag) for name, feature in FEATURES.items()} == pytest.approx(expected)


@pytest.mark.parametrize(
    "space",
    [DagSpace(1), DagSpace(3), DagSpace(4, min_vertices=4), DagSpace(4, features=tuple(FEATURES))],
    ids=["one cell", "small", "one size", "all features"],
)
def test_public_checks(space):
    check_cell_space(space)


def test_the_paper_features_tell_few_cells_apart():
    diagnostics = DagSpace(5, min_vertices=3).diagnostics()
    assert (diagnostics.cells, diagnostics.points) == (339, 95)
    assert 0 < diagnostics.median_spacing < 1
    assert DagSpace(5, min_vertices=3, features=tuple(FEATURES)).diagnostics().points > 200


def test_features_are_scaled_to_the_unit_box():
    space = DagSpace(5)
    points = np.array([space.embed(cell) for cell in space])
    assert points.min(axis=0) == pytest.approx([0, 0, 0])
    assert points.max(axis=0) == pytest.approx([1, 1, 1])
    assert (DagSpace(3, features=["vertices"], min_vertices=3).embed(Dag(3)) == 0).all()  # a constant feature is 0


@given(st.lists(st.floats(-1, 2), min_size=3, max_size=3))
def test_nearest_is_nearest(point):
    space = DagSpace(4)
    distances = [np.linalg.norm(space.embed(cell) - point) for cell in space]
    assert np.linalg.norm(space.embed(space.nearest(point)) - point) == pytest.approx(min(distances))


def test_ties_are_broken_by_the_generator_alone():
    space = DagSpace(5)
    point = max((space.embed(cell) for cell in space), key=lambda p: sum(np.allclose(space.embed(c), p) for c in space))
    drawn = {space.nearest(point, np.random.default_rng(seed)) for seed in range(50)}
    assert len(drawn) > 5
    assert space.nearest(point, np.random.default_rng(1)) == space.nearest(point, np.random.default_rng(1))


def test_a_feature_of_ones_own_is_one_function():
    def two_paths(dag):
        return float(len(dag.edges) > dag.vertices)

    space = DagSpace(4, features=("vertices", two_paths))
    assert space.features == ("vertices", "two_paths")
    check_cell_space(space)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_vertices": 8}, "20,286,025"),
        ({"max_vertices": 0}, "1 to 7"),
        ({"max_vertices": 2, "min_vertices": 3}, "min_vertices up to max_vertices = 2"),
        ({"max_vertices": 2, "features": ()}, "one or more"),
        ({"max_vertices": 2, "features": ("vertices", "vertices")}, "different features"),
        ({"max_vertices": 2, "features": ("colour",)}, "a feature among"),
        ({"max_vertices": 2, "features": (not_a_number,)}, "finite features"),
        ({"max_vertices": 2, "features": (lambda dag: 1.0,)}, "a feature with a name"),
        ({"max_vertices": 2, "features": (functools.partial(not_a_number),)}, "a feature with a name"),
    ],
)
def test_impossible_spaces_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DagSpace(**arguments)


def test_points_and_cells_that_do_not_fit_are_refused():
    space = DagSpace(3)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        space.nearest([0.1, 0.2])
    with pytest.raises(ValueError, match="finite"):
        space.nearest([0.1, 0.2, np.nan])
    with pytest.raises(ValueError, match="a cell of"):
        space.embed(Dag(4))
    assert Dag(4) not in space


def test_distant_cells_have_one_size_and_lie_further_apart_than_any_others():
    space = DagSpace(4)
    cells = distant_cells(space, 3, operations=4)
    assert [cell.operations for cell in cells] == [4, 4, 4]
    assert len(set(cells)) == 3
    points = {cell: space.embed(cell) for cell in space if cell.operations == 4}

    def distance(a, b):
        return np.linalg.norm(points[a] - points[b])

    largest = max(distance(a, b) for a in points for b in points)
    assert distance(*cells[:2]) == pytest.approx(largest)
    third = max(min(distance(cell, cells[0]), distance(cell, cells[1])) for cell in points)
    assert min(distance(cells[2], cells[0]), distance(cells[2], cells[1])) == pytest.approx(third)
    assert cells == distant_cells(DagSpace(4), 3, operations=4)


@pytest.mark.parametrize(("count", "operations"), [(1, 4), (100, 4), (2, 99)])
def test_more_distant_cells_than_there_are_are_refused(count, operations):
    with pytest.raises(ValueError, match=f"cells of {operations} operations"):
        distant_cells(DagSpace(4), count, operations)


def test_a_part_of_a_space_lies_where_the_whole_does():
    whole = DagSpace(4, min_vertices=2)
    kept = [cell for cell in whole if 3 <= cell.operations <= 4]  # without the cells that span the box
    part = DagSpace(4, min_vertices=2, only=[*reversed(kept), kept[0]])
    assert list(part) == kept
    check_cell_space(part)
    np.testing.assert_array_equal([part.embed(cell) for cell in kept], [whole.embed(cell) for cell in kept])
    for point in np.random.default_rng(0).random((50, 3)):
        nearest = part.nearest(point, np.random.default_rng(0))
        distances = [np.linalg.norm(whole.embed(cell) - point) for cell in kept]
        assert nearest in kept
        assert np.linalg.norm(whole.embed(nearest) - point) == pytest.approx(min(distances))
    left_out = next(cell for cell in whole if cell not in kept)
    assert left_out not in part
    with pytest.raises(InvalidInputError, match="a cell of"):
        part.embed(left_out)
    for unknown in ([], [Dag(5)], [*kept, Dag(1)]):
        with pytest.raises(InvalidInputError, match="cells of this size to keep"):
            DagSpace(4, min_vertices=2, only=unknown)
