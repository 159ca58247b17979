import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fade_study import Architecture, Dag
from fade_study.nn import Network
from fade_study.training import NetworkConfig
from fade_study.training.proxies import PROXIES, _Activations, grad_norm, jacob_cov, naswot, snip, synflow

SMALL = Architecture((Dag(2, ((0, 1),)), Dag(2)))


@pytest.fixture
def network(digits):
    torch.manual_seed(0)
    return Network(SMALL, digits.image_shape, digits.classes, NetworkConfig(final_channels=4, min_channels=4))


@pytest.fixture
def batch(digits):
    return digits.weight.images[:16], digits.weight.labels[:16]


@pytest.mark.parametrize("operation", ["convolution", "separable"])
@pytest.mark.parametrize("name", PROXIES)
def test_proxies_are_finite_numbers_that_depend_on_the_seed(digits, batch, name, operation):
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        network = Network(SMALL, digits.image_shape, digits.classes, NetworkConfig(operation=operation))
        values.append(PROXIES[name](network, *batch))
    assert np.isfinite(values).all()
    assert values[0] == values[1] != values[2]


def test_gradient_proxies_are_what_backward_leaves(network, batch):
    images, labels = batch
    F.cross_entropy(network(images), labels).backward()
    parameters = list(network.parameters())
    norms, products = sum(p.grad.norm() for p in parameters), sum((p * p.grad).abs().sum() for p in parameters)
    assert grad_norm(network, images, labels) == pytest.approx(norms.item(), rel=1e-5)
    assert snip(network, images, labels) == pytest.approx(products.item(), rel=1e-5)


def test_synflow_sees_neither_images_nor_signs(network, batch):
    images, labels = batch
    state = {name: value.clone() for name, value in network.state_dict().items()}
    first = synflow(network, images, labels)
    network.load_state_dict({name: -value for name, value in state.items()})
    # The statistics of normalizations are not weights.
    network.load_state_dict({n: v for n, v in state.items() if "running" in n}, strict=False)
    assert synflow(network, 7 * images, labels) == pytest.approx(first)


def test_images_that_are_told_apart_score_higher(network, batch):
    images, labels = batch
    alike = images[:1] + 1e-3 * torch.randn(16, *images.shape[1:], generator=torch.Generator().manual_seed(0))
    for proxy in (naswot, jacob_cov):
        assert proxy(network, images, labels) > proxy(network, alike, labels)


@pytest.mark.parametrize("operation", ["convolution", "separable"])
def test_naswot_sees_the_relus_of_all_vertices(digits, batch, operation):
    network = Network(SMALL, digits.image_shape, digits.classes, NetworkConfig(operation=operation))
    with torch.no_grad(), _Activations() as activations:
        network(batch[0])
    # the vertex and the output of the first cell, and the output of the second
    assert [len(code) for code in activations.codes] == [16, 16, 16]
