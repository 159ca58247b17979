"""What a supernet costs, as ratios that anyone can measure: to one network, to arithmetic, to running all branches.

    mlflow run . -e benchmark

Ratios are of steps timed in turn (A B A B ...) in one run, since a machine drifts; median and quartiles stand in
the table. The all-branches reference below is the plain way to do DARTS with hard Gumbel-softmax; the tests compare its
losses and gradients with the supernet's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import fade_study
from fade_study import tracking
from fade_study.config import BenchmarkConfig, NetworkConfig, OptimizerConfig, ScratchConfig, parse_config
from fade_study.execution import open_executor
from fade_study.nn import Network, Supernet, gumbel_noise
from fade_study.training import DataConfig, load_data, train_from_scratch
from fade_study.training.bilevel import alpha_loss
from fade_study.training.session import adam

DEPTH = 4
WIDTHS = (5, 7)
CLASSES = 10


@dataclass(frozen=True, slots=True)
class Shape:
    """A size of problem."""

    image_shape: tuple[int, int, int]
    batch_size: int
    network: NetworkConfig


SHAPES = {
    "digits": Shape((1, 8, 8), 32, NetworkConfig(final_channels=16, min_channels=8, min_map=4)),
    "fashion": Shape((1, 28, 28), 64, NetworkConfig(final_channels=32, min_channels=8, min_map=4)),
    "large": Shape((3, 32, 32), 16, NetworkConfig(final_channels=32, min_channels=32, min_map=4)),
}
HEADLINE = "fashion, w = 7"


def main() -> None:
    """Measure, record, and print the table."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        config = parse_config(BenchmarkConfig, None)
        tracking.check_server()
    except fade_study.FadeError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    torch.set_num_threads(config.threads)
    with tracking.start_study("benchmark", config, "cpu") as run:
        table: list[dict[str, Any]] = []
        for name, shape in SHAPES.items():
            for width in WIDTHS:
                ratios = measure_steps(shape, width, config)
                table += [row(f"{name}, w = {width}", quantity, values) for quantity, values in ratios.items()]
        table.append(row("digits", "two_workers", measure_workers(config.repetitions)))
        run.table({column: [line[column] for line in table] for column in table[0]}, "benchmark.json")
        headline = [line for line in table if line["shape"] in (HEADLINE, "digits")]
        run.metrics({f"headline/{line['quantity']}": line["median"] for line in headline})
        print(markdown(table))


def row(shape: str, quantity: str, ratios: NDArray[np.float64]) -> dict[str, Any]:
    """A line of the table."""
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {"shape": shape, "quantity": quantity, "median": median, "low": low, "high": high, "n": len(ratios)}


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The table for a terminal or a README."""
    lines = ["| shape | ratio | median | quartiles | n |", "|---|---|---|---|---|"]
    for line in table:
        numbers = f"{line['median']:.2f} | {line['low']:.2f} – {line['high']:.2f} | {line['n']}"
        lines.append(f"| {line['shape']} | `{line['quantity']}` | {numbers} |")
    return "\n".join(lines)


def in_turn(actions: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, NDArray[np.float64]]:
    """Seconds of each action, ``(repetitions,)``, measured in turn after two rounds that don't count."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repetitions + 2):
        for name, action in actions.items():
            begin = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - begin)
    return {name: np.array(values[2:]) for name, values in seconds.items()}


# --- steps of a supernet ---------------------------------------------------------------------------------------------


def measure_steps(shape: Shape, width: int, config: BenchmarkConfig) -> dict[str, NDArray[np.float64]]:
    """Ratios of steps of a supernet with the widest rows that the paper's features give, cut to ``width``."""
    space = fade_study.DagSpace(5)
    sampler = fade_study.samplers.PseudoGradientSampler(0.3, seed=config.seed)
    batch = fade_study.create_study(space=space, depth=DEPTH, sampler=sampler).ask()
    hyper = fade_study.HyperArchitecture(tuple(cells[:width] for cells in batch.hyper_architecture.rows))
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    supernet = Supernet(hyper, shape.image_shape, CLASSES, shape.network)
    images = torch.randn(shape.batch_size, *shape.image_shape).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (shape.batch_size,))
    logits = torch.zeros(hyper.shape, requires_grad=True)
    noise = gumbel_noise(hyper.shape, generator)
    path = noise.argmax(dim=1).tolist()
    network = Network(hyper.architecture(path), shape.image_shape, CLASSES, shape.network)
    supernet_adam, network_adam = adam(supernet, OptimizerConfig()), adam(network, OptimizerConfig())

    def train(module: nn.Module, optimizer: torch.optim.Adam, scores: Tensor) -> None:
        loss = F.cross_entropy(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(module.parameters(), 10.0)
        optimizer.step()

    def factors() -> Tensor:
        return torch.softmax(logits + noise, dim=1)

    def all_branches_alpha_step() -> None:
        # the gradient of all weights comes with it, as in a plain implementation that calls backward()
        F.cross_entropy(all_branches(supernet, images, factors()), labels).backward()

    seconds = in_turn(
        {
            "network": lambda: train(network, network_adam, network(images)),
            "weight": lambda: train(supernet, supernet_adam, supernet(images, path)),
            "alpha": lambda: torch.autograd.grad(alpha_loss(supernet, images, labels, factors()), logits),
            "floor": arithmetic_floor(supernet, images, path),
            "all weight": lambda: train(supernet, supernet_adam, all_branches(supernet, images, factors())),
            "all alpha": all_branches_alpha_step,
        },
        config.repetitions,
    )
    return {
        "weight_step": seconds["weight"] / seconds["network"],
        "alpha_step": seconds["alpha"] / seconds["floor"],
        "bilevel_epoch": (seconds["all weight"] + seconds["all alpha"]) / (seconds["weight"] + seconds["alpha"]),
    }


def all_branches(supernet: Supernet, images: Tensor, factors: Tensor) -> Tensor:
    """Plain DARTS with hard Gumbel-softmax: every cell runs, and its output is multiplied by its hard factor.

    Args:
        supernet: whose cells are used.
        images: ``(B, C, H, W)``.
        factors: soft Gumbel-softmax sample ``(d, w)``.

    Returns:
        Class scores ``(B, classes)``.
    """
    hard = torch.zeros_like(factors).scatter_(1, factors.argmax(dim=1, keepdim=True), 1.0)
    hard = hard - factors.detach() + factors  # straight-through

    def mixed(row: int) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.stack([hard[row, j] * cell(x) for j, cell in enumerate(supernet.cells(row))]).sum(dim=0)

    return supernet.macro(images, [mixed(row) for row in range(len(supernet.rows))])


class _Recorder(TorchFunctionMode):
    """Remembers the arguments of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.conv2d:
            self.calls.append(tuple(tensor.detach() for tensor in args[:3]))
        return func(*args, **(kwargs or {}))


def arithmetic_floor(supernet: Supernet, images: Tensor, path: Sequence[int]) -> Callable[[], None]:
    """The convolutions of an alpha step and nothing else: all forward, those on the path backward to their inputs."""
    with torch.no_grad():
        with _Recorder() as everything:
            supernet(images, path, torch.zeros(len(supernet.rows), len(supernet.cells(0))))
        with _Recorder() as on_path:
            supernet(images, path)
    gradients = [torch.ones_like(F.conv2d(*call, padding="same")) for call in on_path.calls]

    def run() -> None:
        with torch.no_grad():
            for call in everything.calls:
                F.conv2d(*call, padding="same")
            for (x, weight, _), gradient in zip(on_path.calls, gradients, strict=True):
                pad = [size // 2 for size in weight.shape[2:]]
                torch.ops.aten.convolution_backward(
                    gradient, x, weight, None, [1, 1], pad, [1, 1], False, [0, 0], 1, [True, False, False]
                )

    return run


# --- workers ---------------------------------------------------------------------------------------------------------


def measure_workers(repetitions: int) -> NDArray[np.float64]:
    """From-scratch evaluations per second with two worker processes, divided by those with one."""
    data = load_data(DataConfig())
    architecture = fade_study.Architecture((fade_study.enumerate_dags(4)[-1],) * DEPTH)
    config = ScratchConfig(epochs=1, batch_size=32)
    with open_executor("processes:1") as one, open_executor("processes:2") as two:

        def evaluate(executor: Any) -> None:
            futures = [
                executor.submit(
                    train_from_scratch, architecture, data, config, network=SHAPES["digits"].network, seed=seed
                )
                for seed in range(4)
            ]
            for future in futures:
                future.result()

        seconds = in_turn({"one": lambda: evaluate(one), "two": lambda: evaluate(two)}, repetitions)
    return seconds["one"] / seconds["two"]


if __name__ == "__main__":
    main()
