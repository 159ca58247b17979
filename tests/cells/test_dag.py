import itertools
import pickle
import random
import time

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fade_study import Dag, FadeError, enumerate_dags


@st.composite
def dags(draw, largest=7):
    n = draw(st.integers(1, largest))
    pairs = list(itertools.combinations(range(n), 2))
    return n, [pair for pair in pairs if draw(st.booleans())]


@given(dags(), st.randoms(use_true_random=False))
def test_renumbering_does_not_change_a_dag(graph, rng):
    n, edges = graph
    names = rng.sample(range(n), n)
    renamed = [(names[u], names[v]) for u, v in edges]
    rng.shuffle(renamed)
    assert Dag(n, tuple(renamed)) == Dag(n, tuple(edges))
    assert hash(Dag(n, tuple(renamed))) == hash(Dag(n, tuple(edges)))


@given(dags(5), dags(5))
def test_equal_means_isomorphic(one, other):
    graphs = []
    for n, edges in (one, other):
        graph = nx.DiGraph(edges)
        graph.add_nodes_from(range(n))
        graphs.append(graph)
    assert (Dag(*one) == Dag(*other)) == nx.is_isomorphic(*graphs)


@given(dags())
def test_canonical_edges_are_topological_and_a_fixed_point(graph):
    dag = Dag(graph[0], tuple(graph[1]))
    assert all(u < v for u, v in dag.edges)
    assert list(dag.edges) == sorted(dag.edges)
    assert Dag(dag.vertices, dag.edges).edges == dag.edges


@given(dags())
def test_key_networkx_and_pickle_are_read_back(graph):
    dag = Dag(graph[0], tuple(graph[1]))
    assert Dag.from_key(dag.key) == dag
    assert Dag.from_networkx(dag.to_networkx()) == dag
    assert pickle.loads(pickle.dumps(dag)) == dag


def test_networkx_with_any_names():
    assert Dag.from_networkx(nx.DiGraph([("a", "b"), ("b", "c"), ("a", "c")])) == Dag(3, ((0, 1), (1, 2), (0, 2)))


@pytest.mark.parametrize(("vertices", "count"), list(enumerate([1, 2, 6, 31, 302, 5984], start=1)))
def test_number_of_classes(vertices, count):
    """The numbers are OEIS A003087."""
    dags = enumerate_dags(vertices)
    assert len(set(dags)) == len(dags) == count
    assert all(Dag(dag.vertices, dag.edges) == dag for dag in random.Random(0).sample(dags, min(count, 100)))


def test_enumeration_is_fast():
    """The limit detects exponential run times; the enumeration takes half a second."""
    enumerate_dags.cache_clear()
    begin = time.perf_counter()
    enumerate_dags(6)
    assert time.perf_counter() - begin < 10


def test_operations_are_edges_not_from_the_input():
    chain = Dag(3, ((0, 1), (1, 2)))
    assert (chain.sources, chain.sinks, chain.operations) == ((0,), (2,), 3)
    isolated = Dag(3)
    assert (isolated.sources, isolated.sinks, isolated.operations) == ((0, 1, 2), (0, 1, 2), 3)
    assert chain.augmented_edges == ((3, 0), (0, 1), (1, 2), (2, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "1 to 7 vertices"),
        ((8,), "20,286,025"),
        ((True,), "1 to 7 vertices"),
        (("3",), "1 to 7 vertices"),
        ((2, ((0, 2),)), "vertices 0 to 1"),
        ((2, ((0, 1), (0, 1))), "every edge once"),
        ((3, ((0, 1), (1, 2), (2, 0))), "cycle"),
        ((1, ((0, 0),)), "cycle"),
    ],
)
def test_what_is_no_dag_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        Dag(*arguments)
    assert isinstance(error.value, FadeError)


@pytest.mark.parametrize("key", ["", "3", "3:0", "3:01.", "3:0102", "x:01"])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(ValueError, match="a key such as"):
        Dag.from_key(key)


def test_undirected_graphs_are_refused():
    with pytest.raises(ValueError, match=r"networkx\.DiGraph"):
        Dag.from_networkx(nx.path_graph(3))
