"""The benchmark measures what it claims to; no test depends on how fast anything is."""

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
from fade_study.exceptions import InvalidInputError
from fade_study.nn import Supernet
from fade_study.studies import benchmark, benchmark_gpu, plain
from fade_study.studies.schemas import BenchmarkConfig


@pytest.mark.slow
def test_it_runs_and_records(project, mlflow_store):
    command = [sys.executable, "-m", "fade_study", "benchmark", "--repetitions", "1", "--search", "smoke"]
    output = subprocess.run(command, cwd=project, env=os.environ, capture_output=True, text=True, check=True).stdout
    (run,) = mlflow.search_runs(output_format="list")
    assert run.data.tags["fade.kind"] == "benchmark"
    assert run.data.params["config.repetitions"] == "1"
    names = {
        "weight_step",
        "alpha_step",
        "bilevel_epoch",
        "matmul_peak",
        "peak_memory",
        "exchanged_bytes",
        "two_workers",
        "outside_training",
        "ask_tell/memory",
        "ask_tell/sqlite",
    }
    assert {f"headline/{name}" for name in names} == set(run.data.metrics)
    table = mlflow.load_table("benchmark.json", run_ids=[run.info.run_id])
    assert names < set(table["quantity"])
    assert set(table["n"]) == {1}
    assert table.notna().all(axis=None)
    for shape, quantity in benchmark.HEADLINES:
        (line,) = table[(table["shape"] == shape) & (table["quantity"] == quantity)].to_dict("records")
        assert run.data.metrics[f"headline/{quantity}"] == pytest.approx(line["median"])
        assert f"| {shape} | `{quantity}` | {line['median']:.3g} |" in output
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id, "figures")}
    assert files == {"figures/costs.png", "figures/costs.svg"}
    share = table[table["quantity"] == "outside_training"]["median"].iloc[0]
    assert 0 < share < table[table["quantity"] == "outside_training/with_imports"]["median"].iloc[0] < 1


def test_without_a_gpu_its_benchmark_is_refused_before_anything_is_written(mlflow_store):
    with pytest.raises(InvalidInputError, match="expected a GPU for device cuda, got none; leave device out"):
        benchmark.benchmark(BenchmarkConfig(device="cuda"))
    assert not mlflow.search_runs(output_format="list")


def test_values_of_a_step_leave_out_what_a_training_costs_once():
    epochs = []

    def measure(count):
        epochs.append(count)
        return np.array([100.0 + 20 * count])

    assert benchmark_gpu.by_step(measure, steps=10) == pytest.approx([2.0])
    assert epochs == [benchmark_gpu.EPOCHS, 1]


@pytest.mark.filterwarnings("ignore:the supernet has hardly trained")
@pytest.mark.parametrize("preset", benchmark_gpu.IMAGE_SHAPES)
def test_all_presets_train_on_its_images(preset):
    images = 300 if preset == "paper" else 2700  # marginal alphas need the losses of 26 steps or more
    epochs = []
    workload = benchmark_gpu.Workload(preset, seed=0, images=images)
    for train in (workload.supernet, workload.scratch):
        train(1, lambda epoch, *_: epochs.append(epoch))
    assert epochs == [0, 0]


def test_a_gpus_table_holds_all_headlines(monkeypatch):
    """Its measurements, which need a GPU, are replaced by numbers."""
    times = iter([10.0, 20.0, 12.0, 24.0, 5.0, 20.0, 6.0, 24.0] * len(benchmark_gpu.IMAGE_SHAPES))
    monkeypatch.setattr(benchmark_gpu, "IMAGES", 3000)
    monkeypatch.setattr(benchmark_gpu.Workload, "supernet", lambda *_: None)
    monkeypatch.setattr(benchmark_gpu.Workload, "scratch", lambda *_: None)
    monkeypatch.setattr(benchmark_gpu.Workload, "per_minute", lambda *_: np.array([60.0]))
    monkeypatch.setattr(benchmark_gpu, "step_and_start", lambda *_: (next(times), 1.0))
    monkeypatch.setattr(benchmark_gpu, "waited", lambda _, epochs: np.array([float(epochs)]))
    monkeypatch.setattr(benchmark_gpu, "recorded", lambda _, epochs: np.array([10.0, 6 * 15]) * epochs)
    for name in ("empty_cache", "reset_peak_memory_stats", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda: 1)
    monkeypatch.setenv(benchmark_gpu.SWITCH, "true")
    table = benchmark_gpu.measure_gpu(BenchmarkConfig(device="cuda", repetitions=2))
    assert set(benchmark_gpu.HEADLINES) <= set(table)
    assert table["paper", "supernet/over_scratch"].tolist() == [2, 2]
    assert table["paper", "scratch/gain"].tolist() == [4, 4]
    in_kernels, of_step = (table["paper", f"scratch/{name}"] for name in ("kernel_milliseconds", "milliseconds"))
    assert table["paper", "scratch/kernel_share"] == pytest.approx(in_kernels / of_step)
    assert ("fashion14", "scratch_per_minute/1_workers/bf16") in table


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
    run = plain.arithmetic_floor(supernet, torch.randn(2, 1, 8, 8), [0, 1])
    forward, backward = [], []
    convolve, back = F.conv2d, torch.ops.aten.convolution_backward
    monkeypatch.setattr(plain.F, "conv2d", lambda *a, **k: forward.append(a) or convolve(*a, **k))
    monkeypatch.setattr(torch.ops.aten, "convolution_backward", lambda *a: backward.append(a) or back(*a))
    run()
    assert len(forward) == 2 + (2 + 1) + (1 + 3)  # stem and transition, and the operations of both rows
    assert len(backward) == 2 + 2 + 3  # stem and transition, and the operations of the path


def test_straight_lines_through_costs():
    x = [2, 4, 6, 8]
    proportional, constant, affine = (
        np.array([[2.0, 4, 6, 8]]),
        np.array([[3.0, 3, 3, 3.1]]),
        np.array([[2.0, 3, 4, 5]]),
    )
    values = benchmark.slopes(x, {"a step": proportional, "b step": constant, "c step": affine})
    assert values["a_step/slope"] == pytest.approx([1.0])
    assert values["a_step/r2"] == pytest.approx([1.0])
    assert values["b_step/slope"] == pytest.approx([0.0], abs=0.02)
    assert values["c_step/slope"] == pytest.approx([0.5])


def test_peak_memory_counts_what_is_there_at_one_time():
    def training():
        first = torch.ones(1000, 100)
        second = first + 1
        del first
        third = torch.ones(500, 100)
        assert len(second) > len(third)

    assert benchmark.peak_memory(training) == pytest.approx(800_000, rel=0.01)


def test_a_supernet_keeps_weights_of_all_cells_but_activations_of_one():
    hyper = HyperArchitecture(((Dag(3, ((0, 1), (1, 2))),) * 4,) * 2)
    many, few = (
        benchmark.Shape((1, 8, 8), size, NetworkConfig(final_channels=16, min_channels=16)) for size in (1000, 2)
    )
    ratios = [
        benchmark.peak_memory(lambda shape=shape: benchmark.supernet_training(hyper, shape))
        / benchmark.peak_memory(lambda shape=shape: benchmark.network_training(hyper, shape))
        for shape in (many, few)
    ]
    assert ratios[0] < 2 < ratios[1] < 5


def test_a_long_search_goes_on_from_its_copies():
    study = benchmark.long_search(None, 20, seed=0)
    assert study.trajectory().shape == (20, benchmark.DEPTH, 3)
    benchmark.ask_and_tell(study)
    assert study.n_generations == 21
