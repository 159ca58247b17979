"""Trainings in worker processes that share a device, and in one process of a launcher, whose exchanges are tried out.

Trainings of several processes that exchange gradients are tested on the processor (``test_distributed.py``).
"""

import dataclasses
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import gather_object
from torch import distributed

from fade_study.config import OptimizerConfig
from fade_study.exceptions import DivergedError
from fade_study.execution import open_executor
from fade_study.training import DataConfig, load_data, train_from_scratch, train_hyper_architecture
from fade_study.training.distributed import Processes, everywhere
from fade_study.training.session import add_up, copy_from_main, open_accelerator
from tests.training.test_gpu import BILEVEL, CELLS, NETWORK, ROOT, SCRATCH

pytestmark = pytest.mark.slow
CONFIGS = [*BILEVEL.values(), dataclasses.replace(BILEVEL["straight-through"], micro_batches=4)]
SEEDS = range(3)


def numbers(data, seed):
    """Results of one training of each kind."""
    scratch = train_from_scratch(CELLS.architecture([0, 2]), data, SCRATCH, network=NETWORK, seed=seed)
    found = [scratch.test_accuracy, *(epoch["loss/weights"] for epoch in scratch.epochs)]
    for config in CONFIGS:
        result = train_hyper_architecture(CELLS, data, config, network=NETWORK, seed=seed)
        found += [result.accuracy, *(epoch["loss/weights"] for epoch in result.epochs), *result.alpha.ravel().tolist()]
    return found


def diverge(data):
    config = dataclasses.replace(CONFIGS[0], optimizer=OptimizerConfig(learning_rate=1e30, gradient_clip=1e30))
    return train_hyper_architecture(CELLS, data, config, network=NETWORK)


def kind_of_device():
    return open_accelerator().device.type


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def kind(request):
    """The kind of device on which new processes train."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", str(request.param == "cpu"))
        yield request.param


@pytest.fixture(scope="module")
def alone(kind, digits):
    """Results by seed of a single worker process, in which trainings diverge, too."""
    with open_executor("processes:1") as executor:
        assert executor.submit(kind_of_device).result() == kind
        with pytest.raises(DivergedError, match="epoch 0, step"):
            executor.submit(diverge, digits).result()
        return [executor.submit(numbers, digits, seed).result() for seed in SEEDS]


def test_several_workers_on_a_device_give_the_results_of_one(alone, digits):
    with open_executor(f"processes:{len(SEEDS)}") as executor:
        tasks = [executor.submit(numbers, digits, seed) for seed in SEEDS]
        assert [task.result() for task in tasks] == alone


def test_one_process_of_a_launcher_gives_the_same_results(alone, kind):
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    command = [sys.executable, "-W", "ignore", "-m", *launcher, "-m", "tests.training.test_device"]
    loopback = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | loopback, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == [{"cpu": "gloo", "cuda": "nccl"}[kind], alone[0]]


def main():
    """What the launched process does: it exchanges tensors and calls with itself as if it were one of two."""
    accelerator = open_accelerator()
    device, one = accelerator.device, {"process_index": 0, "is_main_process": True}
    two = SimpleNamespace(num_processes=2, device=device, end_training=lambda: None, **one)
    tensors = [torch.randn(3, 4, device=device), torch.randn((), device=device)]
    for found, expected in zip(add_up([tensors], two), tensors, strict=True):
        assert torch.equal(found, expected)
    weights = [torch.nn.Conv2d(4, 8, 5).to(device, memory_format=torch.channels_last).weight, torch.randn(2, 3)]
    before = [weight.detach().clone() for weight in weights]
    copy_from_main(weights, two)  # the second one is on the processor, as alphas are
    assert all(map(torch.equal, weights, before))
    assert gather_object([{"a": 1}]) == [{"a": 1}]
    data = everywhere(accelerator, load_data, DataConfig(limit=300))
    with Processes(two, data) as processes:
        print(json.dumps([distributed.get_backend(), processes.run(numbers, data, seed=0)]))
    accelerator.end_training()


if __name__ == "__main__":
    main()
