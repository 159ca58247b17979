"""Measure what supernets cost, relative to single networks, arithmetic and all branches.

fade benchmark
mlflow run . -e benchmark

Steps are timed in turn (A B A B ...), since a machine's speed drifts; the table holds medians and quartiles of their
ratios. Savings are measured against plain computations that run every branch and every edge by itself; tests compare
the losses and gradients of these with the supernet's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import fade_study
from fade_study import tracking
from fade_study.analysis import figures
from fade_study.config import NetworkConfig, OptimizerConfig, ScratchConfig
from fade_study.exceptions import InvalidInputError
from fade_study.execution import open_executor
from fade_study.nn import Network, Supernet
from fade_study.studies import notes
from fade_study.studies.benchmark_gpu import HEADLINES as GPU_HEADLINES
from fade_study.studies.benchmark_gpu import measure_gpu
from fade_study.studies.plain import all_branches, arithmetic_floor, edge_by_edge
from fade_study.studies.schemas import BenchmarkConfig
from fade_study.training import DataConfig, load_data, train_from_scratch
from fade_study.training.alphas import alpha_loss, fair_paths, gumbel_noise
from fade_study.training.data import Minibatch
from fade_study.training.session import adam, check_gpus

K = TypeVar("K")
Array = NDArray[np.float64]
DEPTH = 4
WIDTHS = (5, 7)
CLASSES = 10
OPTIMIZER = OptimizerConfig()
EARLY, LATE = 50, 5000
"""Numbers of generations at which ask and tell are timed."""
GROWTH = f"generation {LATE} ÷ {EARLY}"
MATRIX = 1024
"""Rows and columns of the matrices whose product measures the CPU's peak performance."""


class Shape(NamedTuple):
    """The size of a training problem."""

    image_shape: tuple[int, int, int]
    batch_size: int
    network: NetworkConfig


SHAPES = {
    "digits": Shape((1, 8, 8), 32, NetworkConfig(final_channels=16, min_channels=8, min_map=4)),
    "fashion14": Shape((1, 14, 14), 64, NetworkConfig(final_channels=16, min_map=3)),
    "fashion": Shape((1, 28, 28), 64, NetworkConfig(final_channels=32, min_channels=8, min_map=4)),
    "large": Shape((3, 32, 32), 16, NetworkConfig(final_channels=32, min_channels=32, min_map=4)),
}
LEVEL = Shape((1, 8, 8), 32, NetworkConfig(final_channels=8, min_channels=8, min_map=8))
"""A shape whose rows all cost the same, so that cost can be proportional to depth."""
HEADLINES = (
    ("fashion, w = 7", "weight_step"),
    ("fashion, w = 7", "alpha_step"),
    ("fashion, w = 7", "bilevel_epoch"),
    ("fashion, w = 7", "matmul_peak"),
    ("fashion, w = 7", "peak_memory"),
    ("fashion, w = 7", "exchanged_bytes"),
    ("digits", "two_workers"),
    (GROWTH, "ask_tell/memory"),
    (GROWTH, "ask_tell/sqlite"),
)


def benchmark(config: BenchmarkConfig) -> None:
    """Measure costs, record them, and print the table."""
    if config.device == "cuda" and not check_gpus(1):
        raise InvalidInputError("expected a GPU for device cuda, got none; leave device out to measure the processor")
    tracking.check_server()
    with tracking.start_study("benchmark", config, config.device) as run:
        if config.device == "cuda":
            measured = measure_gpu(config)
            table = [row(shape, quantity, values) for (shape, quantity), values in measured.items()]
            report(table, {f"{shape}/{quantity}": (shape, quantity) for shape, quantity in GPU_HEADLINES}, run)
        else:
            headlines = (*HEADLINES, (config.search, "outside_training"))
            report(measure_processor(config, run), {quantity: (shape, quantity) for shape, quantity in headlines}, run)


def measure_processor(config: BenchmarkConfig, run: tracking.Run) -> list[dict[str, Any]]:
    """Lines of the table; costs against size are also drawn."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(config.threads)
    table = []
    for name, shape in SHAPES.items():
        for width in WIDTHS:
            values = measure_steps(shape, width, config)
            table += [row(f"{name}, w = {width}", quantity, ratios) for quantity, ratios in values.items()]
    costs = measure_costs(config)
    for name, (x, seconds) in costs.items():
        table += [row(f"{name} {x[0]:g} … {x[-1]:g}", q, values) for q, values in slopes(x, seconds).items()]
    run.figure(figures.draw_costs(costs), "figures/costs.png")
    table += [row("digits", quantity, rates) for quantity, rates in measure_workers(config.repetitions).items()]
    table += [row(config.search, quantity, shares) for quantity, shares in measure_outside(config.search).items()]
    table += [row(GROWTH, quantity, ratios) for quantity, ratios in measure_growth(config).items()]
    return table


def report(table: Sequence[Mapping[str, Any]], headlines: Mapping[str, tuple[str, str]], run: tracking.Run) -> None:
    """Record and print the table, and its medians of a few shapes and quantities as metrics of these names."""
    run.rows(table, "benchmark.json")
    medians = {(line["shape"], line["quantity"]): line["median"] for line in table}
    run.metrics({f"headline/{name}": medians[line] for name, line in headlines.items()})
    print(markdown(table))
    main = [line for line in table if (line["shape"], line["quantity"]) in {*headlines.values()}]
    # The whole table is longer than what MLflow shows of a description.
    run.note(notes.benchmark("Costs of trainings on this machine (all: benchmark.json)", markdown(main), run.pictures))


def row(shape: str, quantity: str, ratios: Array) -> dict[str, Any]:
    """A line of the table: quartiles of ratios ``(n,)``."""
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {"shape": shape, "quantity": quantity, "median": median, "low": low, "high": high, "n": len(ratios)}


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The table in Markdown, for a terminal or a page."""
    lines = ["| shape | quantity | median | quartiles | n |", "|---|---|---|---|---|"]
    for line in table:
        numbers = f"{line['median']:.3g} | {line['low']:.3g} – {line['high']:.3g} | {line['n']}"
        lines.append(f"| {line['shape']} | `{line['quantity']}` | {numbers} |")
    return "\n".join(lines)


def in_turn(actions: Mapping[K, Callable[[], Any]], repetitions: int) -> dict[K, Array]:
    """Seconds of each action, ``(repetitions,)``, timed in turn after two warm-up rounds."""
    seconds: dict[K, list[float]] = {name: [] for name in actions}
    for _ in range(repetitions + 2):
        for name, action in actions.items():
            begin = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - begin)
    return {name: np.array(values[2:]) for name, values in seconds.items()}


# --- steps of a supernet ---------------------------------------------------------------------------------------------


class Problem:
    """A supernet, or the network of one of its paths, with a batch and steps that train it."""

    def __init__(self, hyper: fade_study.HyperArchitecture, shape: Shape, seed: int, *, alone: bool = False) -> None:
        torch.manual_seed(seed)
        images = torch.randn(shape.batch_size, *shape.image_shape).contiguous(memory_format=torch.channels_last)
        self.batch = Minibatch(images, torch.randint(CLASSES, (shape.batch_size,)), shape.batch_size)
        self.logits = torch.zeros(hyper.shape, requires_grad=True)
        self.noise = gumbel_noise(hyper.shape, torch.Generator().manual_seed(seed))
        self.path: list[int] = self.noise.argmax(dim=1).tolist()
        self.architecture = hyper.architecture(self.path)
        size = shape.image_shape, CLASSES, shape.network
        self.module: Any = Network(self.architecture, *size) if alone else Supernet(hyper, *size)
        self.adam = adam(self.module, OPTIMIZER)

    def train(self, scores: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Finish a training step whose forward pass gave class scores ``(B, classes)``."""
        loss, optimizer = self.batch.loss(scores), optimizer or self.adam
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(self.module.parameters(), OPTIMIZER.gradient_clip)
        optimizer.step()

    def network_step(self) -> None:
        """Take a training step of the network."""
        self.train(self.module(self.batch.images))

    def weight_step(self, path: Sequence[int] | None = None) -> None:
        """Take a weight step of the supernet."""
        self.train(self.module(self.batch.images, path or self.path))

    def alpha_step(self) -> None:
        """Take an alpha step, without the update of the d·w logits."""
        torch.autograd.grad(alpha_loss(self.module, self.batch, self.factors(), self.path), self.logits)

    def factors(self) -> Tensor:
        """Soft Gumbel-softmax sample ``(d, w)``."""
        return torch.softmax(self.logits + self.noise, dim=1)


def measure_steps(shape: Shape, width: int, config: BenchmarkConfig) -> dict[str, Array]:
    """Ratios of steps, for a first hyper-architecture of the paper's search with its rows cut to ``width``."""
    sampler = fade_study.samplers.PseudoGradientSampler(0.3, seed=config.seed)
    batch = fade_study.create_study(space=fade_study.DagSpace(5), depth=DEPTH, sampler=sampler).ask()
    hyper = fade_study.HyperArchitecture(tuple(cells[:width] for cells in batch.hyper_architecture.rows))
    whole, alone = (Problem(hyper, shape, config.seed, alone=alone) for alone in (False, True))
    supernet, network, images = whole.module, alone.module, whole.batch.images
    foreach_adam = torch.optim.Adam(network.parameters(), foreach=True)
    matrix = torch.randn(MATRIX, MATRIX)

    def bfloat16_step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(images)
        alone.train(scores.float())

    paths = fair_paths(14 * width, hyper.shape, torch.Generator().manual_seed(config.seed))  # as in `fashion14`

    @torch.no_grad()
    def one_by_one() -> None:
        for path in paths:
            supernet(images, path)

    @torch.no_grad()
    def sweep() -> None:
        for _ in supernet.along(images, paths):
            pass

    seconds = in_turn(
        {
            "network": alone.network_step,
            "weight": whole.weight_step,
            "alpha": whole.alpha_step,
            "floor": arithmetic_floor(supernet, images, whole.path),
            "matrix": lambda: matrix @ matrix,
            "all weight": lambda: whole.train(all_branches(supernet, images, whole.factors())),
            # includes gradients of all weights, as in a plain implementation that calls backward()
            "all alpha": lambda: whole.batch.loss(all_branches(supernet, images, whole.factors())).backward(),
            "edges": lambda: alone.train(edge_by_edge(network, alone.architecture, images)),
            "foreach": lambda: alone.train(network(images), foreach_adam),
            "bfloat16": bfloat16_step,
            "one by one": one_by_one,
            "sweep": sweep,
        },
        config.repetitions,
    )
    with FlopCounterMode(display=False) as counter:
        whole.weight_step()
    flops = counter.get_total_flops() / seconds["weight"]
    sent = sum(p.grad.nbytes for p in supernet.parameters() if p.grad is not None)
    memory = peak_memory(lambda: supernet_training(hyper, shape)) / peak_memory(lambda: network_training(hyper, shape))
    return {
        "weight_step": seconds["weight"] / seconds["network"],
        "alpha_step": seconds["alpha"] / seconds["floor"],
        "bilevel_epoch": (seconds["all weight"] + seconds["all alpha"]) / (seconds["weight"] + seconds["alpha"]),
        "matmul_peak": flops / (2 * MATRIX**3 / seconds["matrix"]),
        "peak_memory": np.array([memory]),
        "exchanged_bytes": np.array([sent]),
        "gain/exchanged_bytes": np.array([sum(p.nbytes for p in supernet.parameters()) / sent]),
        "gain/one_path": seconds["all weight"] / seconds["weight"],
        "gain/one_path_back": seconds["all alpha"] / seconds["alpha"],
        "gain/shared_beginnings": seconds["one by one"] / seconds["sweep"],
        "gain/merged_convolutions": seconds["edges"] / seconds["network"],
        "gain/fused_adam": seconds["foreach"] / seconds["network"],
        "gain/bfloat16": seconds["network"] / seconds["bfloat16"],
    }


# --- memory ----------------------------------------------------------------------------------------------------------


def peak_memory(training: Callable[[], None]) -> int:
    """Largest number of bytes of tensors that exist at the same time during a training."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        training()
    changes = sorted(
        (e.time_range.end, e.self_cpu_memory_usage) for e in record.events() or () if e.self_cpu_memory_usage
    )
    return int(np.cumsum([change for _, change in changes]).max())


def supernet_training(hyper: fade_study.HyperArchitecture, shape: Shape) -> None:
    """Take weight steps through all cells, so that Adam has states for all weights, and an alpha step."""
    problem = Problem(hyper, shape, seed=0)
    for column in range(hyper.width):
        problem.weight_step([column] * hyper.depth)
    problem.alpha_step()


def network_training(hyper: fade_study.HyperArchitecture, shape: Shape) -> None:
    """Take as many steps of the largest network of these cells."""
    largest = tuple(max(cells, key=lambda cell: len(cell.key)) for cells in hyper.rows)
    single = fade_study.HyperArchitecture(tuple((cell,) for cell in largest))
    problem = Problem(single, shape, seed=0, alone=True)
    for _ in range(hyper.width):
        problem.network_step()


# --- cost against width, depth and batch size ------------------------------------------------------------------------

Costs = dict[str, tuple[list[int], dict[str, Array]]]


def measure_costs(config: BenchmarkConfig) -> Costs:
    """Seconds of weight and alpha steps, ``(repetitions, sizes)``, of supernets whose cells are all the same."""
    cell = fade_study.enumerate_dags(4)[-1]

    def problem(width: int = 5, depth: int = DEPTH, batch_size: int = LEVEL.batch_size) -> Problem:
        hyper = fade_study.HyperArchitecture(((cell,) * width,) * depth)
        return Problem(hyper, Shape(LEVEL.image_shape, batch_size, LEVEL.network), config.seed)

    sizes = {
        "w =": {width: problem(width=width) for width in range(1, 10)},
        "d =": {depth: problem(depth=depth) for depth in range(1, 9)},
        "batch size": {size: problem(batch_size=size) for size in (8, 16, 32, 64, 128)},
    }
    costs: Costs = {}
    for name, problems in sizes.items():
        actions = {("weight step", size): p.weight_step for size, p in problems.items()}
        actions |= {("alpha step", size): p.alpha_step for size, p in problems.items()}
        seconds = in_turn(actions, config.repetitions)
        steps = {
            step: np.stack([seconds[step, size] for size in problems], axis=1) for step in ("weight step", "alpha step")
        }
        costs[name] = (list(problems), steps)
    return costs


def slopes(x: Sequence[int], seconds: Mapping[str, Array]) -> dict[str, Array]:
    """Fit lines to costs; returns slopes, as shares of the line's value at the smallest x, and R² of the lines.

    x is in units of its smallest value, so that a slope of 1 means that cost is proportional to x, and 0 that x costs
    nothing.
    """
    units = np.asarray(x) / x[0]
    values: dict[str, Array] = {}
    for step, measured in seconds.items():  # (repetitions, len(x))
        slope, constant = np.polyfit(units, measured.T, 1)
        residuals = measured - constant[:, None] - slope[:, None] * units
        name = step.replace(" ", "_")
        values[f"{name}/slope"] = slope / (slope + constant)
        values[f"{name}/r2"] = 1 - residuals.var(axis=1) / measured.var(axis=1)
    return values


# --- workers, and time outside training -------------------------------------------------------------------------------


def measure_workers(repetitions: int) -> dict[str, Array]:
    """Trainings from scratch per minute with one and two worker processes, and the ratio of the second to the first."""
    data = load_data(DataConfig())
    architecture = fade_study.Architecture((fade_study.enumerate_dags(4)[-1],) * DEPTH)
    config = ScratchConfig(epochs=1, batch_size=32)
    tasks = 4
    with open_executor("processes:1") as one, open_executor("processes:2") as two:

        def evaluate(executor: Executor) -> None:
            network = SHAPES["digits"].network
            futures = [
                executor.submit(train_from_scratch, architecture, data, config, network=network, seed=seed)
                for seed in range(tasks)
            ]
            for future in futures:
                future.result()

        seconds = in_turn({"one": lambda: evaluate(one), "two": lambda: evaluate(two)}, repetitions)
    return {
        "two_workers": seconds["one"] / seconds["two"],
        "evaluations_per_minute/one_worker": 60 * tasks / seconds["one"],
        "evaluations_per_minute/two_workers": 60 * tasks / seconds["two"],
    }


def measure_outside(preset: str) -> dict[str, Array]:
    """Share of a search's wall time in which nothing is trained, ``(1,)``, without and with the start of Python.

    This is the time for data, MLflow, Optuna and figures, without the migrations of a new tracking store. Trainings run
    one after the other, and include the construction of their model.
    """
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        environment |= {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(Path(__file__).parents[2])}

        def python(*words: str) -> None:
            subprocess.run([sys.executable, *words], cwd=folder, env=environment, check=True, capture_output=True)

        python("-c", "from fade_study import tracking; tracking.check_server()")
        begin = time.perf_counter()
        python("-m", "fade_study", "search", "--preset", preset, "--executor", "inline")
        command = time.perf_counter() - begin
        search, trainings = tracking.read_times(uri)
        return {
            "outside_training": np.array([1 - trainings / search]),
            "outside_training/with_imports": np.array([1 - trainings / command]),
        }


# --- a search that has lasted long -----------------------------------------------------------------------------------


def measure_growth(config: BenchmarkConfig) -> dict[str, Array]:
    """Seconds of ask and tell late in a search, divided by those early in a search, ``(repetitions,)``.

    SQLite is in memory, so that no disk hides the time of the computation.
    """
    growth: dict[str, Array] = {}
    for name, storage in {"memory": None, "sqlite": "sqlite:///:memory:"}.items():
        early, late = (long_search(storage, generations, config.seed) for generations in (EARLY, LATE))
        seconds = in_turn(
            {"early": partial(ask_and_tell, early), "late": partial(ask_and_tell, late)}, config.repetitions
        )
        growth[f"ask_tell/{name}"] = seconds["late"] / seconds["early"]
    return growth


def long_search(storage: str | None, generations: int, seed: int) -> fade_study.FadeStudy:
    """A study of ``generations`` generations, which are all copies of the first."""
    sampler = fade_study.samplers.PseudoGradientSampler(seed=seed)
    study = fade_study.create_study(space=fade_study.DagSpace(5), depth=DEPTH, sampler=sampler, storage=storage)
    ask_and_tell(study)
    (first,) = study.optuna_study.trials
    study.optuna_study.add_trials([first] * (generations - 1))
    return study


def ask_and_tell(study: fade_study.FadeStudy) -> None:
    """Ask for a generation and tell uniform alphas, without a training."""
    batch = study.ask()
    study.tell(batch, np.full(batch.hyper_architecture.shape, 1 / batch.hyper_architecture.width))
