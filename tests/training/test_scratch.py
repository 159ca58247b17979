import dataclasses
import math

import pytest
import torch
from accelerate import Accelerator

from fade_study import Architecture, Dag
from fade_study.execution import open_executor
from fade_study.nn import Classifier, Network
from fade_study.training import (
    DataConfig,
    NetworkConfig,
    OptimizerConfig,
    ScratchConfig,
    load_data,
    recipe,
    session,
    train_from_scratch,
)

ARCHITECTURE = Architecture((Dag(2, ((0, 1),)), Dag(3)))
CONFIG = ScratchConfig(epochs=4, batch_size=32, optimizer=OptimizerConfig(learning_rate=0.01))


def test_it_learns_and_reports():
    seen = []
    data = load_data(DataConfig())
    result = train_from_scratch(ARCHITECTURE, data, CONFIG, seed=0, on_epoch=lambda *a: seen.append(a))
    assert result.test_accuracy > 0.6
    assert result.validation_accuracy == result.epochs[-1]["accuracy/validation"]
    assert [set(epoch) for epoch in result.epochs] == [{"loss/weights", "accuracy/validation"}] * 4
    assert seen == list(enumerate(result.epochs))
    assert result.epochs[-1]["loss/weights"] < result.epochs[0]["loss/weights"]
    assert result.parameters > 0
    assert result.flops > 2 * result.parameters


def test_a_kept_network_classifies_images_as_they_are_stored(digits):
    result = train_from_scratch(ARCHITECTURE, digits, CONFIG, keep_state=True)
    network = Network(ARCHITECTURE, digits.image_shape, digits.classes, NetworkConfig())
    classifier = Classifier(network, result.state, digits.mean, digits.deviation)
    raw = (digits.test.images * digits.deviation + digits.mean).round().float()
    assert raw.unique().tolist() == list(range(17))
    probabilities = classifier(raw)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(len(raw)))
    right = (probabilities.argmax(dim=1) == digits.test.labels).float().mean()
    assert right.item() == pytest.approx(result.test_accuracy)


def test_the_same_seed_gives_the_same_result(digits):
    first, again, other = (train_from_scratch(ARCHITECTURE, digits, CONFIG, seed=seed) for seed in (0, 0, 1))
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(again, seconds=0)
    assert first.epochs != other.epochs


def test_a_cosine_schedule_ends_with_steps_of_nothing(digits, monkeypatch):
    rates = []
    step = torch.optim.Adam.step

    def spy(optimizer, *args):
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    train_from_scratch(ARCHITECTURE, digits, dataclasses.replace(CONFIG, schedule="cosine"))
    steps = len(rates)
    assert steps == CONFIG.epochs * digits.weight.steps(CONFIG.batch_size)
    expected = [0.01 * (1 + math.cos(math.pi * k / steps)) / 2 for k in range(steps)]
    assert rates == pytest.approx(expected)
    rates.clear()
    train_from_scratch(ARCHITECTURE, digits, CONFIG)
    assert set(rates) == {0.01}


def test_accuracy_over_unequal_batches_is_that_over_one(digits, monkeypatch):
    labels = digits.weight.labels
    scores = torch.nn.functional.one_hot((labels * 7 + torch.arange(len(labels)) // 3) % 10, 10).float()
    lookup = {image.numpy().tobytes(): score for image, score in zip(digits.weight.images, scores, strict=True)}

    def model(images):
        return torch.stack([lookup[image.numpy().tobytes()] for image in images])

    expected = (scores.argmax(dim=1) == labels).sum().item() / len(labels)
    for size in (1, 7, len(labels) - 1, len(labels), 10_000):
        monkeypatch.setattr(session, "EVALUATION_BATCH", size)
        assert session.accuracy(model, digits.weight, Accelerator()) == expected


def test_recipe_holds_everything_that_matters(digits):
    base = recipe(digits, CONFIG, NetworkConfig())
    assert base == recipe(digits, dataclasses.replace(CONFIG), NetworkConfig())
    others = {
        recipe(digits, dataclasses.replace(CONFIG, schedule="cosine"), NetworkConfig()),
        recipe(digits, dataclasses.replace(CONFIG, threads=2), NetworkConfig()),  # sums in another order
        recipe(digits, dataclasses.replace(CONFIG, epochs=5), NetworkConfig()),
        recipe(digits, dataclasses.replace(CONFIG, optimizer=OptimizerConfig(learning_rate=0.02)), NetworkConfig()),
        recipe(digits, CONFIG, NetworkConfig(kernel_size=5)),
        recipe(digits, CONFIG, NetworkConfig(operation="separable")),
        recipe(digits, CONFIG, NetworkConfig(operation="mine:separable")),
        recipe(load_data(DataConfig(limit=300, split_seed=1)), CONFIG, NetworkConfig()),
    }
    assert len(others | {base}) == 9


@pytest.mark.parametrize("operation", ["convolution", "separable"])
@pytest.mark.parametrize("normalization", ["none", "cell", "vertex"])
def test_all_normalizations_train(digits, normalization, operation):
    network = NetworkConfig(normalization=normalization, operation=operation)
    assert 0 <= train_from_scratch(ARCHITECTURE, digits, CONFIG, network=network, seed=0).test_accuracy <= 1


def test_an_operation_of_ones_own_trains_here_and_in_workers(digits, tmp_path, monkeypatch):
    body = "nn.Sequential(nn.Conv2d(channels, channels, kernel_size, padding='same', bias=False), nn.Tanh())"
    source = f"from torch import nn\ndef squashed(channels, kernel_size):\n    return {body}\n"
    (tmp_path / "my_operations.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    network = NetworkConfig(operation="my_operations:squashed")
    with open_executor("processes:1") as executor:
        there = executor.submit(train_from_scratch, ARCHITECTURE, digits, CONFIG, network=network).result()
    here = train_from_scratch(ARCHITECTURE, digits, CONFIG, network=network)
    assert dataclasses.replace(here, seconds=0) == dataclasses.replace(there, seconds=0)
    assert here.parameters < train_from_scratch(ARCHITECTURE, digits, CONFIG).parameters  # which have biases


def test_fused_adam_takes_the_steps_of_the_plain_one():
    """Neither of them changes parameters without a gradient."""
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        module = torch.nn.ModuleList([torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)])
        config = OptimizerConfig(learning_rate=0.01, weight_decay=0.1)
        optimizer = session.adam(module, config)
        if not fused:
            optimizer = torch.optim.Adam(module.parameters(), lr=0.01, weight_decay=0.1, foreach=False)
        for step in range(6):
            optimizer.zero_grad()
            module[step % 2](torch.randn(8, 4)).square().sum().backward()
            optimizer.step()
        results.append([parameter.detach() for parameter in module.parameters()])
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_a_training_that_diverges_says_so(digits):
    config = dataclasses.replace(CONFIG, epochs=1, optimizer=OptimizerConfig(learning_rate=1e30))
    with pytest.warns(UserWarning, match=r"training from scratch of .* with seed 7 diverged"):
        train_from_scratch(ARCHITECTURE, digits, config, seed=7)
