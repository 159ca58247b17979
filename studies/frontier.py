"""Which supernets rank best for their price? Spearman's coefficient against training steps, where settings are chosen.

python -m studies.frontier train --workers 2
python -m studies.frontier report

Settings are chosen on the hyper-architectures of ``fashion14-h0`` and ``fashion14-h1`` alone; those of the other tables
are for reports (``mlflow run . -e validate``). Each training is one line of ``fade_study/benchmarks/frontier.jsonl`` as
soon as it is done, and is not repeated.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fade_study import HyperArchitecture
from fade_study.benchmarks import FOLDER
from fade_study.config import BilevelConfig, OptimizerConfig
from fade_study.effects import path_effects
from fade_study.execution import completed, open_executor
from fade_study.training import Data, HyperResult, load_data, train_hyper_architecture
from studies.tabulate import DATA, NETWORK, PLANS
from studies.trainings import submit

LINES = FOLDER / "frontier.jsonl"
CHOOSING = ("fashion14-h0", "fashion14-h1")
UNIT = 1e-5
"""Of loss, in which effects are kept."""
DRAWS = 100
"""Of supernets, for each point."""

Array = NDArray[np.float64]
BASE = BilevelConfig(
    epochs=4, batch_size=64, optimizer=OptimizerConfig(learning_rate=3e-3), schedule="cosine", sweep_paths=98
)  # fmt: skip
STRAIGHT_THROUGH = dataclasses.replace(
    BASE, epochs=24, estimator="straight-through", paths="alphas", alpha_learning_rate=0.05, schedule="constant"
)


class Setting(NamedTuple):
    """How supernets are trained."""

    config: BilevelConfig
    seeds: int


def _fair(epochs: int, seeds: int, learning_rate: float = 3e-3, **changes: Any) -> Setting:
    config = dataclasses.replace(BASE, epochs=epochs, optimizer=OptimizerConfig(learning_rate=learning_rate))
    return Setting(dataclasses.replace(config, **changes), seeds)


SETTINGS: dict[str, Setting] = {
    "2 epochs": _fair(2, 16),
    "4 epochs": _fair(4, 16),
    "8 epochs": _fair(8, 16),
    "16 epochs": _fair(16, 8),
    "32 epochs": _fair(32, 4),
    "8 epochs, constant rate": _fair(8, 8, schedule="constant"),
    "4 epochs, rate 0.01": _fair(4, 8, 1e-2),
    "8 epochs, rate 0.01": _fair(8, 8, 1e-2),
    "8 epochs, shared": _fair(8, 4, share_weights=True),
    "straight-through": Setting(STRAIGHT_THROUGH, 2),
    "straight-through, fair": Setting(dataclasses.replace(STRAIGHT_THROUGH, paths="fair"), 2),
    "straight-through, shared": Setting(dataclasses.replace(STRAIGHT_THROUGH, share_weights=True), 2),
    "straight-through, fair, shared": Setting(
        dataclasses.replace(STRAIGHT_THROUGH, paths="fair", share_weights=True), 2
    ),
}


def train(workers: int) -> None:
    """All supernets of all settings that are not there yet, seed by seed."""
    data = load_data(DATA)
    known = {(line["table"], line["setting"], line["seed"]) for line in read()}
    wanted = [
        (table, name, seed)
        for seed in range(max(setting.seeds for setting in SETTINGS.values()))
        for name, setting in SETTINGS.items()
        for table in CHOOSING
        if seed < setting.seeds and (table, name, seed) not in known
    ]
    rows = {table: PLANS[table]().hyper_architecture for table in CHOOSING}
    with open_executor(f"processes:{workers}") as executor:
        tasks = {submit(executor, _train, rows[one[0]], data, *one[1:]): one for one in wanted}
        for task in completed(list(tasks)):
            table, name, seed = tasks[task]
            line = {"table": table, "setting": name, "seed": seed, **describe(task.result())}
            with LINES.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def _train(hyper_architecture: HyperArchitecture, data: Data, name: str, seed: int) -> HyperResult:
    """One supernet, in a worker; what it warns of stands in its line."""
    with warnings.catch_warnings(action="ignore"):
        # seeds that no search or validation has
        return train_hyper_architecture(
            hyper_architecture, data, SETTINGS[name].config, network=NETWORK, seed=500_000 + seed
        )


def describe(result: HyperResult) -> dict[str, Any]:
    """What is kept of a supernet: effects by epoch of the training losses, and by the sweep, in units of 1e-5."""
    width = result.alpha.shape[1]
    by_epoch = [path_effects(result.losses.part(e, e + 1), width) for e in range(len(result.epochs))]
    sweep = path_effects(result.sweep, width)
    return {
        "one_shot": round(result.accuracy, 4),
        "seconds": round(result.seconds, 1),
        "epochs": [None if one is None else (one.value / UNIT).round().astype(int).tolist() for one in by_epoch],
        "sweep": None if sweep is None else (sweep.value / UNIT).round().astype(int).tolist(),
        "alpha": result.alpha.round(5).tolist(),
    }


def read() -> Iterator[dict[str, Any]]:
    """The supernets that were trained."""
    for text in LINES.read_text(encoding="utf-8").splitlines() if LINES.exists() else ():
        yield json.loads(text)
