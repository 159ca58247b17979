"""Trainings on a GPU: always on a pretended one, and on a real one if the machine has one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fade_study import Dag, HyperArchitecture
from fade_study.config import BilevelConfig, DataConfig, NetworkConfig, ScratchConfig
from fade_study.training import load_data, train_from_scratch, train_hyper_architecture

ROOT = Path(__file__).parents[2]
A, B, C = Dag(1), Dag(2, ((0, 1),)), Dag(3, ((0, 1), (1, 2)))
CELLS = HyperArchitecture(((A, B, C), (C, A, B)))
NETWORK = NetworkConfig(final_channels=8, min_channels=2, normalization="cell")
SCRATCH = ScratchConfig(epochs=2)
BILEVEL = {
    "marginal": BilevelConfig(epochs=2, batch_size=16, sweep_paths=9),
    "straight-through": BilevelConfig(epochs=2, batch_size=16, estimator="straight-through", paths="alphas"),
    "shared": BilevelConfig(epochs=1, batch_size=16, share_weights=True),
}


class StopError(Exception):
    pass


def trainings(folder):
    """Results of one training of each kind.

    The marginal one is on augmented images, and is stopped after its first epoch and resumed.
    """
    data, augmented = (load_data(DataConfig(name="digits", limit=300, augment=how)) for how in ("none", "crop-flip"))
    scratch = train_from_scratch(CELLS.architecture([0, 2]), data, SCRATCH, network=NETWORK, seed=1)
    numbers = {"scratch": [scratch.test_accuracy, *(epoch["loss/weights"] for epoch in scratch.epochs)]}

    def stop(*_):
        raise StopError

    for name, config in BILEVEL.items():
        arguments = {"network": NETWORK, "seed": 1, "paths": [[0, 1], [1, 2]], "checkpoint": folder / f"{name}.pt"}
        images = augmented if name == "marginal" else data
        if name == "marginal" and "FADE_NEVER_STOP" not in os.environ:
            with pytest.raises(StopError):
                train_hyper_architecture(CELLS, images, config, on_epoch=stop, **arguments)
        result = train_hyper_architecture(CELLS, images, config, **arguments)
        losses = [epoch["loss/weights"] for epoch in result.epochs]
        numbers[name] = [result.accuracy, *result.path_accuracies.tolist(), *losses, *result.alpha.ravel().tolist()]
    return numbers


def main(folder):
    """Print the results in a separate process, on the pretended GPU if its device is that one."""
    if os.environ.get("ACCELERATE_TORCH_DEVICE") != "gpu:0":
        print(json.dumps(trainings(folder)))
        return
    from tests import pretended_gpu

    with pretended_gpu.Mode():
        numbers = trainings(folder)
    assert pretended_gpu.waits, "the GPU was not used"
    print(json.dumps(numbers))


def run(code, **device):
    """What a separate process prints that runs the code."""
    environment = {key: value for key, value in os.environ.items() if key != "ACCELERATE_USE_CPU"} | device
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def trained(folder, **device):
    """Results in a separate process."""
    folder.mkdir()
    code = f"from pathlib import Path; from tests.training.test_gpu import main; main(Path({str(folder)!r}))"
    return run(code, **device)


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("processor") / "runs", ACCELERATE_USE_CPU="true")


@pytest.mark.slow
def test_no_training_mixes_devices(processor, tmp_path):
    assert trained(tmp_path / "runs", ACCELERATE_TORCH_DEVICE="gpu:0") == processor


def test_the_host_does_not_wait_in_a_weight_step():
    """It waits once for each CHECK_EVERY steps, however many there are, and otherwise as often in short epochs."""
    code = (
        "from fade_study.training.checkpoint import CHECK_EVERY\n"
        "from collections import Counter; from tests import pretended_gpu; from tests.training.test_gpu import *\n"
        "data = load_data(DataConfig(name='digits', limit=600, augment='crop-flip'))\n"
        "def waits(batch_size):\n"
        "    pretended_gpu.waits.clear()\n"
        "    train_hyper_architecture(CELLS, data, BilevelConfig(epochs=1, batch_size=batch_size, sweep_paths=9))\n"
        "    train_from_scratch(CELLS.architecture([0, 2]), data, ScratchConfig(epochs=1, batch_size=batch_size))\n"
        "    checks = -(-data.weight.steps(batch_size) // CHECK_EVERY)\n"
        "    return pretended_gpu.waits - Counter({'bilevel.py:check_finite': checks})\n"
        "with pretended_gpu.Mode():\n"
        "    print(json.dumps([waits(32), waits(8)]))\n"
    )
    few, many = run(code, ACCELERATE_TORCH_DEVICE="gpu:0")
    assert few, "the GPU was not used"
    assert many == few


def test_the_host_waits_three_times_for_an_alpha_step():
    """For the check of the weight steps before it, the upload of the factors, and the gradient by the factors."""
    code = (
        "from tests import pretended_gpu; from tests.training.test_gpu import *\n"
        "data = load_data(DataConfig(name='digits', limit=600))\n"
        "options = {'epochs': 1, 'batch_size': 16, 'estimator': 'straight-through'}\n"
        "def other_waits(every):\n"
        "    pretended_gpu.waits.clear()\n"
        "    train_hyper_architecture(CELLS, data, BilevelConfig(alpha_every=every, **options))\n"
        "    pretended_gpu.waits.pop('data.py:next')\n"  # in each pass of the alpha split
        "    return pretended_gpu.waits.total() - 3 * (data.weight.steps(16) // every)\n"
        "with pretended_gpu.Mode():\n"
        "    print(json.dumps([other_waits(5), other_waits(1)]))\n"
    )
    few, many = run(code, ACCELERATE_TORCH_DEVICE="gpu:0")
    assert few > 0, "the GPU was not used"
    assert many == few


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_trains_as_the_processor_does_and_always_the_same(processor, tmp_path):
    """One run stops and resumes the marginal training, another doesn't, and a third has no CUDA graphs."""
    found = trained(tmp_path / "runs")
    assert found == trained(tmp_path / "again", FADE_NEVER_STOP="true")
    assert found == trained(tmp_path / "without", FADE_CUDA_GRAPHS="false")
    for name, numbers in processor.items():
        assert found[name] == pytest.approx(numbers, abs=0.05), name


@pytest.mark.parametrize("setting", ["default", "high", "new"])
def test_products_on_a_gpu_are_exact_and_the_callers_settings_come_back(setting):
    """This runs in a separate process, since some of PyTorch's settings can't be undone."""
    script = (
        "import torch\n"
        "from fade_study.training.session import _exact\n"
        "cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul\n"
        f"if {setting!r} == 'high': torch.set_float32_matmul_precision('high'); cudnn.benchmark = True\n"
        f"if {setting!r} == 'new': matmul.fp32_precision = 'tf32'\n"
        "def settings():\n"
        "    kinds = (cudnn.conv, cudnn.rnn, matmul)\n"
        "    return [kind.fp32_precision for kind in kinds] + [cudnn.deterministic, cudnn.benchmark]\n"
        "before = settings()\n"
        "with _exact(torch.device('cuda')):\n"
        "    assert 'tf32' not in settings() and settings()[3:] == [True, False]\n"
        "    with cudnn.flags(enabled=False): assert not matmul.allow_tf32\n"
        "assert [p == 'tf32' for p in settings()[:3]] == [p == 'tf32' for p in before[:3]]\n"
        "assert settings()[3:] == before[3:]\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
