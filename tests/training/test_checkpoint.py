import dataclasses
import os
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fade_study import Dag, HyperArchitecture, interrupt
from fade_study.config import BilevelConfig, NetworkConfig, OptimizerConfig, ScratchConfig
from fade_study.exceptions import DivergedError, StorageError
from fade_study.training import bilevel, train_from_scratch, train_hyper_architecture
from fade_study.training.checkpoint import CHECK_EVERY, Checkpoint, Progress

A, B, C = Dag(1), Dag(2, ((0, 1),)), Dag(3, ((0, 1), (1, 2)))
HYPER = HyperArchitecture(((A, B, C), (C, A, A)))
ADAM = OptimizerConfig(learning_rate=0.01)
NETWORK = NetworkConfig(final_channels=4)


def hyper(data, estimator="straight-through", **options):
    config = BilevelConfig(
        epochs=3, batch_size=32, optimizer=ADAM, schedule="cosine", estimator=estimator, alpha_learning_rate=0.05,
        one_shot_paths=2, sweep_paths=9, paths="fair" if estimator == "marginal" else "alphas",
    )  # fmt: skip
    with warnings.catch_warnings(action="ignore"):
        return train_hyper_architecture(HYPER, data, config, network=NETWORK, seed=3, **options)


def scratch(data, network=NETWORK, **options):
    config = ScratchConfig(epochs=3, batch_size=32, optimizer=ADAM, schedule="cosine")
    return train_from_scratch(HYPER.architecture([1, 0]), data, config, network=network, seed=3, **options)


def test_processes_on_gpus_look_for_signals_together_once_in_a_while(monkeypatch):
    """Between two looks, in which they wait for each other, they take steps."""
    accelerator = SimpleNamespace(device=torch.device("cuda"), num_processes=2, is_main_process=True)
    monkeypatch.setattr(torch, "tensor", lambda number, device: number)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_: None)
    Signal(monkeypatch, looks=3)
    progress, taken = Progress("", None, torch.Generator(), {}, accelerator), []
    with pytest.raises(interrupt.Interrupted):
        taken.extend(progress.steps(100))
    assert taken == list(range(2 * CHECK_EVERY))


class KilledError(Exception):
    """Stands for a kill of the process."""


def killed_after(epochs):
    def on_epoch(epoch, *_):
        if epoch + 1 == epochs:
            raise KilledError

    return on_epoch


class Signal:
    """A signal that arrives at the n-th check."""

    def __init__(self, monkeypatch, looks):
        self.looks = looks
        monkeypatch.setattr(interrupt, "requested", self.requested)

    def requested(self):
        self.looks -= 1
        return 15 if self.looks == 0 else 0


def same_hyper(one, other):
    np.testing.assert_array_equal(one.alpha_history, other.alpha_history)
    assert (one.accuracy, one.epochs, one.warning) == (other.accuracy, other.epochs, other.warning)
    np.testing.assert_array_equal(one.losses.paths, other.losses.paths)
    if one.effects is not None:
        np.testing.assert_array_equal(one.effects.value, other.effects.value)
    np.testing.assert_array_equal(one.sweep.losses, other.sweep.losses)  # these depend on all weights


@pytest.mark.parametrize("estimator", ["marginal", "straight-through"])
def test_a_supernet_goes_on_where_it_was_killed(digits, tmp_path, estimator, monkeypatch):
    whole = hyper(digits, estimator)
    file = tmp_path / "folder" / "state.pt"
    for epochs in (1, 2):
        with pytest.raises(KilledError):
            hyper(digits, estimator, checkpoint=file, on_epoch=killed_after(epochs))
    for looks in (1, 4):  # and within the third epoch, before its first step and later
        Signal(monkeypatch, looks)
        with pytest.raises(interrupt.Interrupted):
            hyper(digits, estimator, checkpoint=file)
        monkeypatch.undo()
    told = []
    again = hyper(digits, estimator, checkpoint=file, on_epoch=lambda e, *_: told.append(e))
    same_hyper(again, whole)
    assert told == [0, 1, 2]
    # A finished training is not repeated, and gives the same result.
    Signal(monkeypatch, 1)
    same_hyper(hyper(digits, estimator, checkpoint=file), whole)


def test_a_training_from_scratch_goes_on_where_it_was_killed(digits, tmp_path, monkeypatch):
    whole = scratch(digits)
    file = tmp_path / "state.pt"
    with pytest.raises(KilledError):
        scratch(digits, checkpoint=file, on_epoch=killed_after(2))
    Signal(monkeypatch, 3)
    with pytest.raises(interrupt.Interrupted):
        scratch(digits, checkpoint=file)
    monkeypatch.undo()
    again = scratch(digits, checkpoint=file)
    assert (again.test_accuracy, again.epochs) == (whole.test_accuracy, whole.epochs)


def test_a_random_operation_goes_on_with_its_own_random_numbers(digits, tmp_path, monkeypatch):
    body = "return nn.Sequential(nn.Conv2d(channels, channels, kernel_size, padding='same'), nn.Dropout(0.3))"
    (tmp_path / "dropped.py").write_text(f"from torch import nn\ndef out(channels, kernel_size):\n    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    network = dataclasses.replace(NETWORK, operation="dropped:out")
    whole = scratch(digits, network=network)
    file = tmp_path / "state.pt"
    with pytest.raises(KilledError):
        scratch(digits, network=network, checkpoint=file, on_epoch=killed_after(1))
    torch.rand(7)
    assert scratch(digits, network=network, checkpoint=file).epochs == whole.epochs


def test_the_state_of_another_training_is_not_taken(digits, tmp_path):
    file = tmp_path / "state.pt"
    hyper(digits, checkpoint=file)
    with pytest.raises(KilledError):  # it trains an epoch, which one that is done would not
        hyper(digits, "straight-through", checkpoint=file, on_epoch=killed_after(1))
    assert scratch(digits, checkpoint=file).epochs == scratch(digits).epochs


def test_what_is_forgotten_leaves_nothing(tmp_path):
    """Removing a checkpoint also removes incomplete files of killed processes."""
    checkpoint, other = Checkpoint(tmp_path / "state.pt"), Checkpoint(tmp_path / "state2.pt")
    for number in range(2):
        checkpoint.save({"number": number})
        other.save({"number": number})
    (tmp_path / "state.pt.12345").write_bytes(b"half of it")
    checkpoint.remove()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state2.pt", "state2.pt.previous"]


def test_another_process_that_has_done_the_training_removes_the_files(tmp_path, monkeypatch):
    """Here between the write of a state and its renaming."""
    checkpoint, sync = Checkpoint(tmp_path / "training.pt"), os.fsync

    def removed(file):
        sync(file)
        checkpoint.remove()

    checkpoint.save({"epoch": 0})
    monkeypatch.setattr(os, "fsync", removed)
    checkpoint.save({"epoch": 1})
    assert checkpoint.load() is None
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_is_an_error(tmp_path, monkeypatch):
    checkpoint, sync = Checkpoint(tmp_path / "states" / "training.pt"), os.fsync

    def gone(file):
        sync(file)
        shutil.rmtree(tmp_path / "states")

    monkeypatch.setattr(os, "fsync", gone)
    with pytest.raises(StorageError, match="expected to write a checkpoint"):
        checkpoint.save({"epoch": 0})


def test_a_damaged_file_gives_the_state_before_it(tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.pt")
    assert checkpoint.load() is None
    for number in range(3):
        checkpoint.save({"number": number, "tensor": torch.arange(1000)})
    content = checkpoint.path.read_bytes()
    for broken in (b"", content[:20], content[:-1], content[:500] + b"x" + content[501:]):
        checkpoint.path.write_bytes(broken)
        with pytest.warns(UserWarning, match=r"state.pt is damaged"):
            assert checkpoint.load()["number"] == 1
    checkpoint.path.unlink()  # killed between the two renamings
    assert checkpoint.load()["number"] == 1
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


class Evil:
    """An object that runs code when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_a_hostile_file_runs_nothing(tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.pt")
    checkpoint.save(Evil(tmp_path / "owned"))
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoint.load() is None
    assert not (tmp_path / "owned").exists()


def test_what_cannot_be_written_leaves_the_state_before(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "state.pt")
    checkpoint.save(1)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device.*The previous one is intact"):
        checkpoint.save(2)
    assert checkpoint.load() == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("row", [0, 1])
def test_a_divergence_is_told_with_its_row(digits, row, monkeypatch):
    from fade_study.nn import Supernet

    before = Supernet.__init__

    def broken(self, *arguments, **options):
        before(self, *arguments, **options)
        with torch.no_grad():
            for weights in self.rows[row].parameters():
                weights.fill_(torch.inf)

    monkeypatch.setattr(Supernet, "__init__", broken)
    with pytest.raises(DivergedError, match=rf"in the output of row {row}, epoch 0, step 0; try a lower"):
        hyper(digits)


@pytest.fixture
def infinite_from(monkeypatch):
    """Makes gradients of row 1 infinite from a backward pass on; the test undoes it by setting it to 10,000."""
    from fade_study.nn import Supernet

    monkeypatch.setenv("FADE_CUDA_GRAPHS", "false")  # their replays don't call hooks
    before, passes = Supernet.__init__, {"first": 0, "done": -1}

    def broken(self, *arguments, **options):
        before(self, *arguments, **options)
        self.macro.classifier.weight.register_hook(lambda _: passes.update(done=passes["done"] + 1))
        for weights in self.rows[1].parameters():
            weights.register_hook(lambda gradient: gradient / 0 if passes["done"] >= passes["first"] else gradient)

    monkeypatch.setattr(Supernet, "__init__", broken)
    return passes


@pytest.mark.parametrize("step", [0, 3, 4, 13])
def test_an_infinite_gradient_is_told_though_clipping_would_hide_it(digits, infinite_from, step, monkeypatch):
    monkeypatch.setattr(bilevel, "CHECK_EVERY", 4)
    infinite_from["first"] = step
    epoch, within = divmod(step, digits.weight.steps(32))
    with pytest.raises(DivergedError, match=rf"in the gradient of row 1, epoch {epoch}, step {within}; try"):
        hyper(digits, "marginal")


def test_a_step_that_diverged_is_told_after_an_interruption(digits, infinite_from, tmp_path, monkeypatch):
    infinite_from["first"] = 3
    Signal(monkeypatch, 6)
    with pytest.raises(interrupt.Interrupted):
        hyper(digits, "marginal", checkpoint=tmp_path / "state.pt")
    infinite_from["first"] = 10_000
    with pytest.raises(DivergedError, match=r"in a loss or gradient, epoch 0, step 3; try"):
        hyper(digits, "marginal", checkpoint=tmp_path / "state.pt")


def test_alphas_that_collapse_early_are_told(digits):
    config = BilevelConfig(
        epochs=4, batch_size=32, optimizer=ADAM, paths="alphas", estimator="straight-through", alpha_learning_rate=20.0,
        regularization=0.0,
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"alphas have collapsed to one cell within half of the 4 epochs, in rows"):
        train_hyper_architecture(HYPER, digits, config, network=NETWORK)
