import itertools

import pytest
import torch
import torch.nn.functional as F

from fade_study import Architecture, Dag, HyperArchitecture, enumerate_dags
from fade_study.config import NetworkConfig
from fade_study.nn import Network, Supernet, parameters
from fade_study.nn.supernet import _HardSample
from fade_study.studies.plain import all_branches
from fade_study.training.alphas import gumbel_noise

DAGS = [*enumerate_dags(2), *enumerate_dags(3)]
HYPER = HyperArchitecture((tuple(DAGS[0:4]), tuple(DAGS[2:6]), tuple(DAGS[4:8])))
SHAPE = (1, 8, 8)


def build(hyper=HYPER, normalization="cell", share_weights=False):
    torch.manual_seed(0)
    config = NetworkConfig(final_channels=4, min_channels=2, normalization=normalization)
    return Supernet(hyper, SHAPE, 5, config, share_weights=share_weights)


def batch(dtype=torch.double, size=6, device="cpu"):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, *SHAPE, generator=generator, dtype=dtype)
    return images.to(device), torch.randint(5, (size,), generator=generator).to(device)


@pytest.mark.parametrize("share_weights", [False, True])
@pytest.mark.parametrize("normalization", ["none", "cell", "vertex"])
def test_both_savings_are_exact(normalization, share_weights, device):
    """Loss, weight gradients and alpha gradients equal those of the plain all-branches computation."""
    supernet = build(normalization=normalization, share_weights=share_weights).to(device, torch.double)
    images, labels = batch(device=device)
    for draw in range(5):
        noise = gumbel_noise(HYPER.shape, torch.Generator().manual_seed(draw)).to(device, torch.double)
        logits = torch.zeros(HYPER.shape, dtype=torch.double, device=device, requires_grad=True)
        factors = torch.softmax((logits + noise) / 2.0, dim=1)
        path = factors.argmax(dim=1).tolist()

        reference = F.cross_entropy(all_branches(supernet, images, factors), labels)
        weights = list(supernet.parameters())
        expected = torch.autograd.grad(reference, [logits, *weights], allow_unused=True, retain_graph=True)

        loss = F.cross_entropy(supernet(images, path), labels)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        torch.testing.assert_close(loss, reference, rtol=1e-10, atol=1e-10)
        # The gradient of a cell that was not sampled is None instead of 0.
        zeros = [torch.zeros_like(weight) for weight in weights]
        gradients, others = (
            [zero if gradient is None else gradient for gradient, zero in zip(some, zeros, strict=True)]
            for some in (gradients, expected[1:])
        )
        torch.testing.assert_close(gradients, others, rtol=1e-8, atol=1e-10)

        alpha_loss = F.cross_entropy(supernet(images, path, factors), labels)
        (gradient,) = torch.autograd.grad(alpha_loss, logits)
        assert torch.equal(alpha_loss, loss)
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(gradient, expected[0], rtol=1e-8, atol=1e-12)


def test_inner_products_of_bfloat16_are_summed_in_single_precision():
    """Autocast yields bfloat16, in which a sum of many terms would lose most of them."""
    outputs = [torch.rand(4, 8, 16, 16, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    factors = torch.zeros(3, requires_grad=True)
    _HardSample.apply(factors, 1, *outputs).backward(torch.ones_like(outputs[0]))
    expected = torch.stack([output.detach().double().sum() for output in outputs])
    torch.testing.assert_close(factors.grad.double(), expected, rtol=1e-5, atol=0)


def test_cells_that_were_not_sampled_have_no_gradient():
    supernet = build()
    images, labels = batch(torch.float)
    F.cross_entropy(supernet(images, [0, 1, 2]), labels).backward()
    for row, path_column in zip(supernet.rows, [0, 1, 2], strict=True):
        for column, cell in enumerate(row):
            assert all((p.grad is not None) == (column == path_column) for p in cell.parameters())


def test_an_alpha_step_leaves_weights_without_gradient():
    supernet = build()
    images, labels = batch(torch.float)
    logits = torch.zeros(HYPER.shape, requires_grad=True)
    factors = torch.softmax(logits + gumbel_noise(HYPER.shape, torch.Generator().manual_seed(0)), dim=1)
    loss = F.cross_entropy(supernet(images, factors.argmax(dim=1).tolist(), factors), labels)
    torch.autograd.grad(loss, logits)
    assert all(p.grad is None for p in supernet.parameters())


def test_one_column_equals_the_network_bit_for_bit(device):
    architecture = Architecture((DAGS[5], DAGS[1], DAGS[3]))
    config = NetworkConfig(final_channels=4, min_channels=2)
    hyper = HyperArchitecture(tuple((cell,) for cell in architecture))
    torch.manual_seed(0)
    supernet = Supernet(hyper, SHAPE, 5, config).to(device)
    torch.manual_seed(0)
    network = Network(architecture, SHAPE, 5, config).to(device)
    optimizers = [torch.optim.Adam(module.parameters(), lr=1e-2) for module in (supernet, network)]
    images, labels = batch(torch.float, device=device)
    for _ in range(5):
        scores = supernet(images, [0, 0, 0]), network(images)
        assert torch.equal(*scores)
        for score, optimizer in zip(scores, optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(score, labels).backward()
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(supernet.parameters(), network.parameters(), strict=True))


@pytest.mark.parametrize("share_weights", [False, True])
def test_a_path_equals_its_architectures_network(share_weights):
    supernet = build(share_weights=share_weights)
    images, _ = batch(torch.float)
    for path in itertools.islice(itertools.product(range(4), repeat=3), 0, None, 7):
        network = Network(HYPER.architecture(path), SHAPE, 5, supernet.macro.config)
        network.macro.load_state_dict(supernet.macro.state_dict())
        for cell, row, column in zip(network.cells, supernet.rows, path, strict=True):
            cell.load_state_dict(row[column].state_dict(), strict=False)  # a supernet keeps no running averages
        assert torch.equal(network(images), supernet(images, path))


def test_paths_that_begin_alike_share_their_cells_exactly(device):
    supernet = build().to(device)
    images, _ = batch(torch.float32, device=device)
    paths = [(3, 0, 1), (0, 2, 2), (3, 0, 1), (0, 2, 0), (3, 1, 1), (0, 2, 2)]
    runs = []
    for row in range(3):
        for cell in supernet.cells(row):
            cell.register_forward_hook(lambda *_, row=row: runs.append(row))
    with torch.no_grad():
        found = dict(supernet.along(images, paths))
        assert [runs.count(row) for row in range(3)] == [2, 3, 4], "once for each of the different beginnings"
        assert found.keys() == set(range(6))
        for i, path in enumerate(paths):
            assert torch.equal(found[i], supernet(images, path))


def test_supernets_use_batch_statistics_in_evaluation_too():
    supernet = build()
    images, _ = batch(torch.float)
    training = supernet(images, [0, 1, 2])
    torch.testing.assert_close(supernet.eval()(images, [0, 1, 2]), training)
    assert not any("running" in name for name in supernet.state_dict())


def test_shared_weights_grow_with_the_largest_cell_alone():
    row = tuple(dag for dag in enumerate_dags(4))
    own, shared = (build(HyperArchitecture((row,)), share_weights=share) for share in (False, True))
    convolutions = {(u, min(v, 4) if v < 5 else "out") for dag in row for u, v in dag.augmented_edges if u != 4}
    weights = 4 * 4 * 9 + 4
    norms = 2 * 4 * len(row)
    assert parameters(shared) == parameters(shared.macro) + len(convolutions) * weights + norms
    assert parameters(own) > 5 * parameters(shared)


def test_gumbel_noise_samples_from_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0])
    noise = gumbel_noise((20000, 3), torch.Generator().manual_seed(0))
    counts = torch.bincount((logits + noise).argmax(dim=1), minlength=3) / 20000
    torch.testing.assert_close(counts, torch.softmax(logits, dim=0), atol=0.01, rtol=0)


def test_duplicate_cells_are_separate_candidates():
    supernet = build(HyperArchitecture(((Dag(1), Dag(1)),)))
    images, _ = batch(torch.float)
    assert not torch.equal(supernet(images, [0]), supernet(images, [1]))
