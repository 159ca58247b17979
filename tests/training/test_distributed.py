"""Training over several processes of a launcher (here with gloo, on the CPU)."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.postgresql import free_port

pytestmark = pytest.mark.slow

SCRIPT = """
import contextlib, dataclasses, json, os, sys, warnings
from pathlib import Path
import pytest, torch.distributed
from accelerate import Accelerator
from fade_study import FadeError, HyperArchitecture, enumerate_dags
from fade_study.nn import Network, Supernet
from fade_study.training import *
from fade_study.training.alphas import Marginal
from fade_study.training.distributed import Processes, everywhere
from fade_study.training.session import open_accelerator

warnings.simplefilter("ignore")
accelerator = open_accelerator()
answer, sent = {}, []
reduce = torch.distributed.all_reduce

def counted(tensor, *args, **kwargs):
    sent.append(tensor.numel() * tensor.element_size())
    return reduce(tensor, *args, **kwargs)

torch.distributed.all_reduce = counted
data = load_data(DataConfig(limit=300))
hyper = HyperArchitecture((tuple(enumerate_dags(2)), tuple(enumerate_dags(3)[:2])))
adam = OptimizerConfig(learning_rate=0.01)
network = NetworkConfig(normalization="none")  # batch statistics would differ between shares of a batch
config = BilevelConfig(epochs=4, batch_size=32, optimizer=adam, paths="alphas", estimator="straight-through",
                       alpha_learning_rate=0.05)
result = train_hyper_architecture(hyper, data, config, network=network, seed=0)  # 24 steps of both kinds
answer["alpha"] = result.alpha.tolist()
answer["losses"] = [list(epoch.values()) for epoch in result.epochs]
answer["sent"] = sorted(set(sent))
sizes = [sum(p.numel() for p in Network(hyper.architecture(path), data.image_shape, data.classes, network).parameters())
         for path in ((0, 0), (0, 1), (1, 0), (1, 1))]
answer["paths"] = sorted({4 * (size + 1) for size in sizes})  # and the loss

with pytest.MonkeyPatch.context() as patch:  # without Adam, which divides gradients by their size
    patch.setattr(torch.optim, "Adam", lambda parameters, lr, **_: torch.optim.SGD(parameters, lr, fused=True))
    answer["sgd"] = train_hyper_architecture(hyper, data, config, network=network, seed=0).alpha.tolist()

exactly = {}  # also with batch statistics
for paths, estimator in (("alphas", "straight-through"), ("fair", "marginal")):
    other = dataclasses.replace(config, paths=paths, estimator=estimator, micro_batches=4, sweep_paths=9)
    result = train_hyper_architecture(hyper, data, other, seed=0)
    exactly[estimator] = [result.alpha_history.tolist(), result.epochs, result.accuracy, result.sweep.losses.tolist()]
answer["exactly"] = exactly

observe = Marginal.observe

def observed(self, path, loss, epoch):
    answer["kept"] = loss.untyped_storage().nbytes()
    observe(self, path, loss, epoch)

Marginal.observe = observed
other = dataclasses.replace(config, paths="fair", estimator="marginal")
answer["marginal"] = train_hyper_architecture(hyper, data, other, network=network, seed=0).alpha.tolist()

scratch = ScratchConfig(epochs=2, batch_size=32, optimizer=adam)
score = train_from_scratch(hyper.architecture([0, 1]), data, scratch, network=network, seed=0)
answer["scratch"] = [score.test_accuracy, [list(epoch.values()) for epoch in score.epochs]]
answer["normalized"] = train_from_scratch(hyper.architecture([0, 1]), data, scratch, seed=0).test_accuracy

def refused(function, *args):
    try:
        function(*args)
    except (FadeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"

rank = accelerator.process_index
small = dataclasses.replace(config, batch_size=1)
answer["few images"] = refused(lambda: train_hyper_architecture(hyper, data, small, network=network))
answer["other seeds"] = refused(lambda: train_hyper_architecture(hyper, data, config, network=network, seed=rank))
other = load_data(DataConfig(limit=300, split_seed=rank))
answer["other data"] = refused(Processes, accelerator, other)
answer["no file"] = refused(everywhere, accelerator, load_data, DataConfig(name="npz:nothing" if rank else "digits"))
huge = dataclasses.replace(config, optimizer=OptimizerConfig(learning_rate=1e30, gradient_clip=1e30))
answer["diverged"] = refused(lambda: train_hyper_architecture(hyper, data, huge, network=network))
with Processes(accelerator, data) as processes:  # which ends the training, too
    if rank > 0:
        processes.follow()
answer["threads"] = []
for task in Path("/proc/self/task").iterdir():
    with contextlib.suppress(OSError):  # a thread that has just ended
        answer["threads"] += [name for name in [(task / "comm").read_text()] if "gloo" in name]
with open(f"{sys.argv[0]}.{rank}", "w") as file:
    json.dump(answer, file)
"""

HANGS = """
import datetime, os, signal, time
from fade_study import HyperArchitecture, enumerate_dags
from fade_study.nn import Supernet
from fade_study.training import BilevelConfig, DataConfig, load_data, session, train_hyper_architecture
from fade_study.training.distributed import Processes

data = load_data(DataConfig(limit=300))
session.TIMEOUT = datetime.timedelta(seconds=20)
accelerator = session.open_accelerator()
forward = Supernet.forward

def hang(*args):
    if accelerator.process_index == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return forward(*args)

Supernet.forward = hang
with Processes(accelerator, data) as processes:
    if accelerator.is_main_process:
        hyper = HyperArchitecture((tuple(enumerate_dags(2)),))
        time.sleep(24)  # the other waits
        processes.run(train_hyper_architecture, hyper, data, BilevelConfig(batch_size=32))
    processes.follow()
"""


def answers(path, processes):
    path.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), path]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(path.with_name(f"{path.name}.{rank}").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Output of each process, by rank."""
    folder = tmp_path_factory.mktemp("processes")
    return {processes: answers(folder / f"{processes}.py", processes) for processes in (1, 2, 4)}


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("what", ["alpha", "sgd", "marginal"])
def test_alphas_do_not_depend_on_the_number_of_processes(found, processes, what):
    np.testing.assert_allclose(found[processes][0][what], found[1][0][what], rtol=0, atol=1e-5)


@pytest.mark.parametrize("processes", [2, 4])
def test_with_micro_batches_results_are_the_same_bit_for_bit(found, processes):
    assert found[processes][0]["exactly"] == found[1][0]["exactly"]


@pytest.mark.parametrize("what", ["losses", "scratch"])
def test_losses_and_accuracies_are_those_of_the_whole_batch(found, what):
    for processes in (2, 4):
        for value, expected in zip(flat(found[processes][0][what]), flat(found[1][0][what]), strict=True):
            assert value == pytest.approx(expected, abs=1e-4)


def flat(values):
    return [number for value in values for number in flat(value)] if isinstance(values, list) else [values]


def test_all_processes_have_the_same_alphas(found):
    for every in found.values():
        for what in ("alpha", "sgd", "exactly", "marginal", "normalized", "scratch"):
            assert len({json.dumps(one[what]) for one in every}) == 1


def test_what_is_exchanged_are_the_gradients_of_one_path(found):
    for processes in (2, 4):
        # bytes: a signal; alphas, and the loss; right answers of 16 paths; weights, and the loss
        expected = [8, 4 * (2 * 2 + 1), 8 * 16, *found[processes][0]["paths"]]
        assert found[processes][0]["sent"] == sorted(expected)
    assert found[1][0]["sent"] == []


def test_losses_that_are_kept_keep_no_gradients(found):
    assert {one["kept"] for every in found.values() for one in every} == {4}  # bytes


def test_no_thread_outlives_the_training(found):
    """One that needs Python while Python ends aborts its process: "terminate called without an active exception"."""
    assert {tuple(one["threads"]) for every in found.values() for one in every} == {()}


def test_a_process_that_hangs_is_not_waited_for_for_ever(tmp_path):
    (tmp_path / "hangs.py").write_text(HANGS)
    ranks = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "CUDA_VISIBLE_DEVICES": ""}
    main, other = [
        subprocess.Popen(
            [sys.executable, tmp_path / "hangs.py"],
            env=os.environ | ranks | {"RANK": rank, "LOCAL_RANK": rank, "GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        _, said = main.communicate(timeout=120)
    finally:
        main.kill()
        other.kill()
        other.communicate()
    assert main.returncode == 1
    assert "WorkerDiedError: expected all processes of the training to live, but one has probably died" in said
    assert "Timed out" in said


def test_what_can_not_be_trained_together_is_refused_by_all(found):
    for one in found[2]:
        assert "an image of each batch for each process, got 2 of them for batches of 1" in one["few images"]
        assert "expected the same training in all processes, got" in one["other seeds"]
        assert "expected the same data in all processes, got" in one["other data"]
        assert "in process 0" in one["other data"]
        assert "in process 1; give them the same files, arguments and versions" in one["other data"]
        assert "nothing: expected an .npz that can be read, got no file" in one["no file"]
        assert "expected finite losses and gradients, got NaN or infinity in" in one["diverged"]
    assert found[2][0]["diverged"] == found[2][1]["diverged"]
