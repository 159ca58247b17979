"""Compare settings of supernets: Spearman's coefficient of their ranks against their cost in training steps.

python -m fade_study.studies.frontier train --workers 2
python -m fade_study.studies.frontier report

Settings are chosen only on the hyper-architectures of ``fashion14-h0`` and ``fashion14-h1``; those of the other tables
are for reports (``mlflow run . -e validate``). Each finished training is appended to
``fade_study/benchmarks/frontier.jsonl`` with the recipe of its setting, and is not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fade_study import Dag, HyperArchitecture
from fade_study.analysis.style import COLORS, GREY, new_figure, rendered
from fade_study.benchmarks import FOLDER, Table, load_table
from fade_study.builders import describe_network
from fade_study.cells.features import longest_path, operations
from fade_study.config import BilevelConfig, OptimizerConfig
from fade_study.effects import Effects, PathLosses, marginal_effects, path_effects
from fade_study.execution import open_executor
from fade_study.statistics.ranks import coefficient, noise_ceiling, reliability
from fade_study.studies.json_lines import append_line, read_lines
from fade_study.studies.tabulate import DATA, NETWORK, PLANS
from fade_study.studies.trainings import train_each
from fade_study.training import Data, HyperResult, load_data, train_hyper_architecture
from fade_study.training.bilevel import BILEVEL_VERSION
from fade_study.training.session import fingerprint, open_accelerator

LINES = FOLDER / "frontier.jsonl"
CHOOSING = ("fashion14-h0", "fashion14-h1")
FIGURE = Path(__file__).parents[2] / "docs" / "pictures" / "frontier.png"
IMAGES = 24_000
UNIT = 1e-5
"""Unit of loss in which effects are stored."""

Array = NDArray[np.float64]
BASE = BilevelConfig(
    epochs=4, batch_size=64, optimizer=OptimizerConfig(learning_rate=3e-3), schedule="cosine", sweep_paths=98
)  # fmt: skip
STRAIGHT_THROUGH: dict[str, Any] = {"estimator": "straight-through", "alpha_learning_rate": 0.05}


class Setting(NamedTuple):
    """Settings of supernets, and how many are trained."""

    config: BilevelConfig
    seeds: int
    """Number of supernets for each hyper-architecture."""


def _fair(epochs: int, seeds: int, learning_rate: float = 1e-2, **changes: Any) -> Setting:
    config = dataclasses.replace(BASE, epochs=epochs, optimizer=OptimizerConfig(learning_rate=learning_rate))
    return Setting(dataclasses.replace(config, **changes), seeds)


SETTINGS: dict[str, Setting] = {
    "4 epochs": _fair(4, 4),
    "8 epochs": _fair(8, 4),
    "16 epochs": _fair(16, 4),
    "32 epochs": _fair(32, 1),
    "8 epochs, rate 0.003": _fair(8, 4, 3e-3),
    "16 epochs, rate 0.003": _fair(16, 2, 3e-3),
    "8 epochs, constant rate": _fair(8, 2, schedule="constant"),
    "8 epochs, shared": _fair(8, 2, share_weights=True),
    "straight-through": _fair(24, 1, 3e-3, paths="alphas", schedule="constant", **STRAIGHT_THROUGH),
    "8 epochs, straight-through, fair": _fair(8, 4, **STRAIGHT_THROUGH),
    # These tell apart the effects of the paths and of the estimator: both can be read from each of these supernets.
    "16 epochs, straight-through": _fair(16, 1, paths="alphas", **STRAIGHT_THROUGH),
    "16 epochs, straight-through, fair": _fair(16, 2, **STRAIGHT_THROUGH),
    "16 epochs, straight-through, shared": _fair(16, 1, paths="alphas", share_weights=True, **STRAIGHT_THROUGH),
    "16 epochs, straight-through, fair, shared": _fair(16, 1, share_weights=True, **STRAIGHT_THROUGH),
}


def train(workers: int) -> None:
    """Train the missing supernets of all settings, seed by seed."""
    data = load_data(DATA)
    recipes = recipes_of(data, open_accelerator().device.type)
    known = {(line["table"], line["setting"], line["seed"]) for line in read(recipes)}
    wanted = [
        (table, name, seed)
        for seed in range(max(setting.seeds for setting in SETTINGS.values()))
        for name, setting in SETTINGS.items()
        for table in CHOOSING
        if seed < setting.seeds and (table, name, seed) not in known
    ]
    rows = {table: PLANS[table]().hyper_architecture for table in CHOOSING}
    supernets = {one: partial(_train, rows[one[0]], data, *one[1:]) for one in wanted}
    with open_executor(f"processes:{workers}") as executor:
        for (table, name, seed), result in train_each(executor, supernets, "the training of {}, {}, seed {}"):
            line = {"table": table, "setting": name, "seed": seed, "recipe": recipes[name], **describe(result)}
            append_line(LINES, line)


def recipes_of(data: Data, device: str) -> dict[str, str]:
    """By setting: the hash of everything that determines a training, except hyper-architecture and seed."""
    accelerator, network = open_accelerator(), describe_network(NETWORK, [Dag])
    return {
        name: fingerprint(
            accelerator,
            data,
            device=device,
            version=BILEVEL_VERSION,
            bilevel=setting.config.recorded(),
            network=network,
        )
        for name, setting in SETTINGS.items()
    }


def read(recipes: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The lines of finished trainings of today's settings."""
    return (line for line in read_lines(LINES) if line["recipe"] == recipes.get(line["setting"]))


def _train(hyper_architecture: HyperArchitecture, data: Data, name: str, seed: int) -> HyperResult:
    """Train one supernet in a worker, without its warnings, whose reason its line of results shows."""
    with warnings.catch_warnings(action="ignore"):
        # no search or validation uses these seeds
        return train_hyper_architecture(
            hyper_architecture, data, SETTINGS[name].config, network=NETWORK, seed=500_000 + seed
        )


def describe(result: HyperResult) -> dict[str, Any]:
    """What is stored of a supernet: alphas, and effects on losses, of each epoch and of the sweep, in units of 1e-5."""

    def effects(seen: PathLosses) -> list[list[int]] | None:
        found = path_effects(seen, result.alpha.shape[1])
        return None if found is None else (found.value / UNIT).round().astype(int).tolist()

    return {
        "epochs": [effects(result.losses.part(epoch, epoch + 1)) for epoch in range(len(result.epochs))],
        "sweep": effects(result.sweep),
        "alpha": result.alpha.round(5).tolist(),
    }


class Supernets(NamedTuple):
    """All trainings of one setting on one hyper-architecture."""

    epochs: Array
    """Effects on the losses of the weight steps of each epoch, ``(R, E, d, w)``."""
    sweep: Array
    """Effects on the losses of the sweep, ``(R, d, w)``."""
    alpha: Array
    """Alphas ``(R, d, w)``."""


def collect() -> dict[tuple[str, str], Supernets]:
    """Supernets by table and setting."""
    lines: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in read(recipes_of(load_data(DATA), "cpu")):
        lines[line["table"], line["setting"]].append(line)
    return {
        key: Supernets(
            epochs=np.array([one["epochs"] for one in found]) * UNIT,
            sweep=np.array([one["sweep"] for one in found]) * UNIT,
            alpha=np.array([one["alpha"] for one in found]),
        )
        for key, found in lines.items()
    }


def pooled(values: Array, hyper_architecture: HyperArchitecture) -> Array:
    """Combined effects ``(d, w)`` of R trainings ``(R, d, w)``; pooled over rows if there are several trainings.

    A single training is not pooled, because the lines hold no standard errors.
    """
    error = np.full(values.shape[1:], 1e-9)
    return marginal_effects([Effects(value, error) for value in values], hyper_architecture).value


def cell_scores(supernets: Supernets, config: BilevelConfig, hyper_architecture: HyperArchitecture) -> dict[str, Array]:
    """Scores of cells ``(d, w)``, higher is better, by the losses or alphas that they come from."""
    effects = {"sweep": supernets.sweep}
    if config.paths == "fair":  # alphas may draw no path of some column in a whole epoch
        training = supernets.epochs.mean(axis=1)
        second_half = supernets.epochs[:, config.epochs // 2 :].mean(axis=1)
        # Both losses have the same weight, because the lines hold no standard errors.
        both = _standardized(training) + _standardized(supernets.sweep)
        effects |= {"training": training, "second half": second_half, "both": both}
    found = {name: -pooled(values, hyper_architecture) for name, values in effects.items()}
    # The mean of several trainings looks like a single one, which is not pooled.
    found["sweep, not pooled"] = -pooled(supernets.sweep.mean(axis=0, keepdims=True), hyper_architecture)
    if config.estimator == "straight-through":
        found["alphas"] = np.log(np.maximum(supernets.alpha.mean(axis=0), 1e-300))
    return found


def _standardized(effects: Array) -> Array:
    """Effects ``(R, d, w)``, those of each training divided by their standard deviation over its cells."""
    return effects / effects.std(axis=(1, 2), keepdims=True)


def mean_coefficients(supernets: Supernets, count: int, config: BilevelConfig, table: Table) -> dict[str, float]:
    """Spearman's coefficients of all scores, as means over all choices of so many supernets."""
    choices = map(list, itertools.combinations(range(len(supernets.sweep)), count))
    chosen = [Supernets(*(values[one] for values in supernets)) for one in choices]
    found = [cell_scores(one, config, table.hyper_architecture) for one in chosen]
    return {key: float(np.mean([rank(scores[key], table) for scores in found])) for key in found[0]}


def coefficients(setting: str, found: dict[tuple[str, str], Supernets], tables: dict[str, Table]) -> list[dict]:
    """Spearman's coefficients of each score, a list with one for each hyper-architecture, by number of supernets."""
    rows = []
    config = SETTINGS[setting].config
    known = [found[name, setting] for name in tables if (name, setting) in found]
    if len(known) < len(tables):
        return rows
    smallest = min(len(supernets.sweep) for supernets in known)
    for count in (k for k in (1, 2, 4) if k <= smallest):
        pairs = zip(known, tables.values(), strict=True)
        means = pd.DataFrame([mean_coefficients(supernets, count, config, table) for supernets, table in pairs])
        steps = count * config.steps(IMAGES)
        rows.append({"setting": setting, "supernets": count, "steps": steps, **means.to_dict("list")})
    return rows


def rank(scores: Array, table: Table) -> float:
    """Spearman's coefficient of from-scratch accuracy with sums over paths of scores ``(d, w)``."""
    return correlate(scores[np.arange(len(scores)), table.paths].sum(axis=1), table)


def correlate(scores: Array, table: Table) -> float:
    """Spearman's coefficient of from-scratch accuracy with scores ``(n,)``."""
    return coefficient(scores, table.ground_truth.test.mean(axis=1))


def report() -> None:
    """Print the table, and draw the figure."""
    tables = {name: load_table(name) for name in CHOOSING}
    found = collect()
    rows = [row for setting in SETTINGS for row in coefficients(setting, found, tables)]
    for name, table in tables.items():
        truth = table.ground_truth.test
        features: tuple[Any, ...] = operations, longest_path
        sizes = {f.__name__: np.array([sum(map(f, one)) for one in table.architectures]) for f in features}
        known = ", ".join(f"{key} {correlate(value, table):.2f}" for key, value in sizes.items())
        ceiling = noise_ceiling(truth) or float("nan")
        print(
            f"{name}: {len(table.paths)} paths, {len(set(table.architectures))} different architectures;",
            f"reliability {reliability(truth):.2f}, ceiling {ceiling:.2f}; {known}",
        )
    print(f"coefficients on {', '.join(tables)}:")
    print(pd.DataFrame(rows).map(_text).to_string(index=False, na_rep=""))
    figure = draw(rows)
    FIGURE.write_bytes(rendered(figure, "png"))


def _text(cell: Any) -> Any:
    return ", ".join(f"{value:.2f}" for value in cell) if isinstance(cell, list) else cell


def draw(rows: list[dict]) -> Figure:
    """Coefficients of pooled effects of the sweep against training steps, with a line for each setting."""
    figure = new_figure(
        7.5, 4, "Ranks by the losses of the final sweep, mean of the two hyper-architectures where settings are chosen"
    )
    ax = figure.subplots()
    for number, setting in enumerate(dict.fromkeys(row["setting"] for row in rows)):
        own = [row for row in rows if row["setting"] == setting]
        values = [np.mean(row["sweep"]) for row in own]
        style = "os"[number // len(COLORS) % 2] + "-"
        steps = [row["steps"] for row in own]
        ax.plot(steps, values, style, color=COLORS[number % len(COLORS)], markersize=4, label=setting)
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.set(
        xscale="log",
        xlabel="training steps of all supernets (1, 2 and 4 of them)",
        ylabel="Spearman coefficient",
    )
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_minor_formatter("")
    ax.set_xticks([2000, 5000, 10_000, 20_000])
    title = "learning rate 0.01 unless named;\n'straight-through': 24 epochs at 0.003"
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), title=title, title_fontsize=7)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "report"))
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each (default: 2)")
    arguments = parser.parse_args()
    train(arguments.workers) if arguments.what == "train" else report()
