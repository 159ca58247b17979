import itertools

import pytest

from fade_study import Architecture, Dag, HyperArchitecture

A, B, C = Dag(1), Dag(2), Dag(2, ((0, 1),))


def test_values():
    architecture = Architecture((A, B))
    assert (architecture.depth, architecture.key) == (2, "1:|2:")
    assert architecture == Architecture((Dag(1), Dag(2)))
    assert list(architecture) == [A, B]


def test_paths_of_a_hyper_architecture():
    hyper = HyperArchitecture(((A, B, C), (C, C, B)))
    assert (hyper.depth, hyper.width, hyper.shape, hyper.size) == (2, 3, (2, 3), 9)
    assert hyper.architecture([1, 2]) == Architecture((B, B))
    paths = itertools.product(range(3), repeat=2)
    assert len({hyper.architecture(path) for path in paths}) == 6, "three cells times two different ones"


@pytest.mark.parametrize("rows", [(), ((),), ((A,), (A, B))])
def test_ragged_or_empty_rows_are_refused(rows):
    with pytest.raises(ValueError, match="rows of one width"):
        HyperArchitecture(rows)


@pytest.mark.parametrize("path", [(0,), (0, 3), (0, -1), (0, 0, 0)])
def test_paths_that_do_not_exist_are_refused(path):
    with pytest.raises(ValueError, match="a path of 2 columns from 0 to 2"):
        HyperArchitecture(((A, B, C), (C, C, B))).architecture(path)


def test_an_architecture_has_cells():
    with pytest.raises(ValueError, match="one or more cells"):
        Architecture(())
