"""The benchmark measures what it says it does; how fast anything is, is no matter of tests."""

import os
import subprocess
import sys

import mlflow
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fade_study import Dag, HyperArchitecture
from fade_study.config import NetworkConfig
from fade_study.nn import Supernet
from studies import benchmark


def test_it_runs_and_records(project, mlflow_store):
    command = [sys.executable, "-m", "studies.benchmark", "--repetitions", "2"]
    output = subprocess.run(command, cwd=project, env=os.environ, capture_output=True, text=True, check=True).stdout
    (run,) = mlflow.search_runs(output_format="list")
    assert run.data.tags["fade.kind"] == "benchmark"
    assert run.data.params["config.repetitions"] == "2"
    names = {"weight_step", "alpha_step", "bilevel_epoch", "two_workers"}
    assert {f"headline/{name}" for name in names} == set(run.data.metrics)
    table = mlflow.load_table("benchmark.json", run_ids=[run.info.run_id])
    assert set(table["quantity"]) == names
    assert len(table) == 3 * 2 * 3 + 1
    assert (table["n"] == 2).all()
    line = table[(table["shape"] == benchmark.HEADLINE) & (table["quantity"] == "alpha_step")].iloc[0]
    assert run.data.metrics["headline/alpha_step"] == pytest.approx(line["median"])
    assert f"| {benchmark.HEADLINE} | `alpha_step` | {line['median']:.2f} |" in output


def test_actions_take_turns():
    order = []
    seconds = benchmark.in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 5
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_a_row_holds_median_and_quartiles():
    row = benchmark.row("shape", "name", np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert (row["low"], row["median"], row["high"], row["n"]) == (2, 3, 4, 5)


def test_the_floor_holds_the_convolutions_of_an_alpha_step(monkeypatch):
    hyper = HyperArchitecture(((Dag(2, ((0, 1),)), Dag(1)), (Dag(1), Dag(3, ((0, 1), (1, 2))))))
    supernet = Supernet(hyper, (1, 8, 8), 10, NetworkConfig(final_channels=4))
    run = benchmark.arithmetic_floor(supernet, torch.randn(2, 1, 8, 8), [0, 1])
    forward, backward = [], []
    convolve, back = F.conv2d, torch.ops.aten.convolution_backward
    monkeypatch.setattr(benchmark.F, "conv2d", lambda *a, **k: forward.append(a) or convolve(*a, **k))
    monkeypatch.setattr(torch.ops.aten, "convolution_backward", lambda *a: backward.append(a) or back(*a))
    run()
    assert len(forward) == 2 + (2 + 1) + (1 + 3)  # stem and transition, and the operations of both rows
    assert len(backward) == 2 + 2 + 3  # stem and transition, and the operations of the path
