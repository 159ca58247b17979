"""Make the shipped tables of from-scratch trainings. This takes hours, and can be stopped and resumed.

python -m fade_study.studies.tabulate fashion14-h0 fashion14-h1
python -m fade_study.studies.tabulate fashion14-h2 fashion14-h3 fashion14-h4 fashion14-h5 --workers 2

Each finished training is appended to ``fade_study/benchmarks/NAME.jsonl``. When a table is complete, it is written to
``NAME.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import fade_study
from fade_study import HyperArchitecture, tracking
from fade_study.benchmarks import FOLDER, Scratch, Table
from fade_study.cells import SPECTRAL_FEATURES, DagSpace, distant_cells
from fade_study.config import DataConfig, NetworkConfig, OptimizerConfig, ScratchConfig
from fade_study.execution import open_executor
from fade_study.studies.ground_truth import all_paths, as_trainings, choose_paths
from fade_study.studies.json_lines import append_line, read_lines
from fade_study.studies.trainings import train_each
from fade_study.training import Data, load_data, recipe, train_from_scratch
from fade_study.training.session import open_accelerator

DEPTH = 4
DATA = DataConfig(name="fashion14")
NETWORK = NetworkConfig(final_channels=16, min_channels=1, min_map=3, normalization="cell")
SCRATCH = ScratchConfig(
    epochs=6, batch_size=64, optimizer=OptimizerConfig(learning_rate=3e-3), schedule="cosine"
)  # fmt: skip
SPACE = DagSpace(5, features=SPECTRAL_FEATURES)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The architectures of a table, and how often each is trained."""

    hyper_architecture: HyperArchitecture
    paths: NDArray[np.int64]
    """Paths ``(n, d)`` of the architectures."""
    seeds: int
    """Number of trainings of each architecture."""


def of_search(seed: int) -> Plan:
    """48 balanced paths of the first hyper-architecture of a search with this seed."""
    sampler = fade_study.samplers.PseudoGradientSampler(offset=0.5, seed=seed)
    hyper_architecture = fade_study.create_study(space=SPACE, depth=DEPTH, sampler=sampler).ask().hyper_architecture
    return Plan(hyper_architecture, choose_paths(all_paths(hyper_architecture.shape), "both", 48, seed), 3)


def of_equal_cells() -> Plan:
    """64 balanced paths of a hyper-architecture as in section 3.1: the same 5 cells of 5 operations in every row."""
    hyper_architecture = HyperArchitecture((distant_cells(DagSpace(5), 5, 5),) * DEPTH)
    return Plan(hyper_architecture, choose_paths(all_paths(hyper_architecture.shape), "both", 64, 0), 3)


def of_random_points() -> Plan:
    """100 architectures of the cells nearest to random points, as random search draws them."""
    cells = tuple(SPACE)
    index = {cell: column for column, cell in enumerate(cells)}
    points = np.random.default_rng(0).random((100, DEPTH, len(SPACE.features)))
    rng = np.random.default_rng(1)
    paths = np.array([[index[SPACE.nearest(point, rng)] for point in architecture] for architecture in points])
    return Plan(HyperArchitecture((cells,) * DEPTH), paths, 2)


PLANS = {f"fashion14-h{seed}": lambda seed=seed: of_search(seed) for seed in range(6)}
PLANS |= {"fashion14-equal": of_equal_cells, "fashion14-random": of_random_points}


def tabulate(names: list[str], workers: int) -> None:
    """Do the missing trainings of the tables, seed by seed."""
    tracking.commit()  # now, before the results change the folder
    data = load_data(DATA)
    found = recipe(data, SCRATCH, NETWORK)
    with open_executor(f"processes:{workers}") as executor:
        for name in names:
            plan, lines = PLANS[name](), FOLDER / f"{name}.jsonl"
            known = dict(read(lines, found))
            trainings = {
                (architecture.key, seed): partial(
                    train_from_scratch, architecture, data, SCRATCH, network=NETWORK, seed=seed
                )
                for seed in range(plan.seeds)
                for architecture in map(plan.hyper_architecture.architecture, plan.paths.tolist())
                if (architecture.key, seed) not in known
            }
            for (key, seed), result in train_each(executor, trainings, "the training of {} with seed {}"):
                known[key, seed] = Scratch(result.test_accuracy, result.validation_accuracy, result.seconds)
                line = {"recipe": found, "architecture": key, "seed": seed, **known[key, seed]._asdict()}
                append_line(lines, line)
            (FOLDER / f"{name}.json").write_text(assemble(plan, known, found, data).to_json(), encoding="utf-8")
            lines.unlink(missing_ok=True)
            print(f"{name}: done")


def read(lines: Path, recipe: str) -> Iterator[tuple[tuple[str, int], Scratch]]:
    """Finished trainings of a table, by architecture key and seed."""
    for line in read_lines(lines):
        if line["recipe"] == recipe:
            yield (line["architecture"], line["seed"]), Scratch(line["test"], line["validation"], line["seconds"])


def assemble(plan: Plan, known: dict[tuple[str, int], Scratch], recipe: str, data: Data) -> Table:
    """The finished table of a plan."""
    keys = [plan.hyper_architecture.architecture(path).key for path in plan.paths.tolist()]
    trainings = as_trainings(known, keys, tuple(range(plan.seeds)), SCRATCH, NETWORK)
    return Table(
        plan.hyper_architecture, plan.paths, recipe, {recipe: trainings}, (len(data.test), len(data.alpha)),
        tracking.commit(), open_accelerator().device.type,
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=PLANS, metavar="NAME", help=", ".join(PLANS))
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each (default: 2)")
    arguments = parser.parse_args()
    tabulate(arguments.tables, arguments.workers)
