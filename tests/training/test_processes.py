"""Training needs no more than a launcher to run over several processes (here: gloo, on the processor)."""

import json
import os
import subprocess
import sys

import numpy as np

SCRIPT = """
import json, warnings
from accelerate import Accelerator
from fade_study import HyperArchitecture, enumerate_dags
from fade_study.training import *
warnings.simplefilter("ignore")
data = load_data(DataConfig(limit=300))
hyper = HyperArchitecture((tuple(enumerate_dags(2)), tuple(enumerate_dags(3)[:2])))
adam = OptimizerConfig(learning_rate=0.01)
network = NetworkConfig(normalization="none")  # batch statistics would differ between shares of a batch
config = BilevelConfig(epochs=2, batch_size=32, optimizer=adam, alpha_learning_rate=0.05)
result = train_hyper_architecture(hyper, data, config, network=network, seed=0)
scratch = ScratchConfig(epochs=2, batch_size=32, optimizer=adam)
score = train_from_scratch(hyper.architecture([0, 1]), data, scratch, network=network, seed=0)
losses = [epoch["loss/weights"] for epoch in result.epochs + score.epochs]
normalized = [train_from_scratch(hyper.architecture([0, 1]), data, scratch, seed=0).test_accuracy]
print("normalized", json.dumps(normalized))
print(json.dumps([result.alpha.tolist(), losses, [result.accuracy, score.test_accuracy]]))
"""


def outputs(command, path):
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    output = subprocess.run([*command, path], env=environment, capture_output=True, text=True, check=True).stdout
    normalized = {line for line in output.splitlines() if line.startswith("normalized")}
    assert len(normalized) == 1, "all processes must report the same"
    return [json.loads(line) for line in output.splitlines() if line.startswith("[[")]


def test_two_processes_train_what_one_trains(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    (one,) = outputs([sys.executable], path)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    both = outputs(launcher, path)
    assert len(both) == 2
    for result in both:
        for values, expected in zip(result, one, strict=True):
            np.testing.assert_allclose(values, expected, atol=1e-4)
