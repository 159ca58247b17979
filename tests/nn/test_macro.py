import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fade_study import Architecture, Dag
from fade_study.config import NetworkConfig
from fade_study.nn import Network, flops, parameters, plan_macro


def test_the_papers_network():
    """Section 3: four cells of 5x5 convolutions on 32x32 images, 32 channels at the end, about 0.25 M weights."""
    config = NetworkConfig(final_channels=32, min_channels=1, kernel_size=5, normalization="none")
    plan = plan_macro((32, 32), 4, config)
    assert plan.channels == (4, 8, 16, 32)
    assert plan.pooled == (False, True, True, True)
    seven = Dag(5, ((0, 1), (1, 2), (2, 3), (3, 4), (0, 2), (0, 3)))
    assert seven.operations == 7
    network = Network(Architecture((seven,) * 4), (3, 32, 32), 10, config)
    assert 0.2e6 < parameters(network) < 0.3e6


@pytest.mark.parametrize(
    ("size", "depth", "min_map", "pooled"),
    [
        (8, 1, 2, [0]),
        (8, 4, 4, [0, 1, 0, 0]),
        (8, 4, 2, [0, 1, 1, 0]),
        (8, 3, 2, [0, 1, 1]),
        (32, 7, 4, [0, 1, 0, 1, 0, 1, 0]),
        (3, 3, 2, [0, 0, 0]),
        (28, 4, 2, [0, 1, 1, 1]),
    ],
)
def test_halvings_are_spread_over_the_depth(size, depth, min_map, pooled):
    assert plan_macro((size, size), depth, NetworkConfig(min_map=min_map)).pooled == tuple(map(bool, pooled))


@given(st.integers(1, 32), st.integers(1, 32), st.integers(1, 20), st.integers(1, 8), st.integers(1, 64))
def test_plans_for_all_sizes_and_depths(height, width, depth, min_map, final):
    config = NetworkConfig(min_map=min_map, final_channels=final, min_channels=1)
    plan = plan_macro((height, width), depth, config)
    assert len(plan.channels) == len(plan.pooled) == depth
    assert plan.channels[-1] == final
    for before, after in itertools.pairwise(plan.channels):
        assert after in (2 * before, 2 * before + 1) or before == 1
    halvings = sum(plan.pooled)
    assert not plan.pooled[0]
    if halvings:
        assert min(height, width) >> halvings >= min_map
    assert halvings == depth - 1 or min(height, width) >> (halvings + 1) < min_map
    assert plan == plan_macro((height, width), depth, config)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (2, 5, 9), (1, 1, 1)])
@pytest.mark.parametrize("depth", [1, 2, 6])
def test_networks_for_all_shapes(shape, depth):
    network = Network(Architecture((Dag(2, ((0, 1),)),) * depth), shape, 7, NetworkConfig()).eval()
    assert network(torch.randn(3, *shape)).shape == (3, 7)


def test_flops_of_a_convolution():
    config = NetworkConfig(final_channels=4, min_channels=4, normalization="none")
    network = Network(Architecture((Dag(1),)), (1, 8, 8), 10, config)
    stem, cell, classifier = 2 * 64 * 9 * 4, 2 * 64 * 9 * 4 * 4, 2 * 4 * 10
    assert flops(network, (1, 8, 8)) == stem + cell + classifier
    assert network.training


@pytest.mark.parametrize(("size", "depth"), [((8, 8), 0), ((0, 8), 2)])
def test_impossible_plans_are_refused(size, depth):
    with pytest.raises(ValueError, match="1 or more"):
        plan_macro(size, depth, NetworkConfig())
