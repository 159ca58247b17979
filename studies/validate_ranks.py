"""Do FaDE-ranks predict from-scratch accuracy (paper section 3.1), how surely, and better than what else?

mlflow run . -e validate
mlflow run . -e validate -P preset=smoke
python -m studies.validate_ranks --help
"""

from __future__ import annotations

from fade_study.seeding import CHOICE, VALIDATION
from studies.command import read_command, run_command
from studies.schemas import ValidationConfig

if __name__ == "__main__":  # before the imports that take seconds
    CONFIG = read_command(ValidationConfig, "validate")

import csv
import dataclasses
import io
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from analysis import correlation as figures
from fade_study import Architecture, Dag, HyperArchitecture, tracking
from fade_study.benchmarks import Scratch, Table, Trainings, load_table
from fade_study.cells import distant_cells
from fade_study.cells.features import longest_path, operations
from fade_study.config import BilevelConfig, NetworkConfig, ScratchConfig
from fade_study.effects import losses_needed
from fade_study.exceptions import InvalidInputError, WorkerDiedError
from fade_study.execution import completed, open_executor
from fade_study.nn import Network, flops, parameters
from fade_study.statistics import ranks
from fade_study.statistics.ranks import (
    FEWEST,
    Audit,
    Estimate,
    RankReport,
    independence_audit,
    mean_estimate,
    partial_spearman,
    rank_report,
    spearman,
)
from fade_study.training import Data, HyperResult, combined_alpha, recipe
from fade_study.training.alphas import fair_paths
from fade_study.training.bilevel import check_schedule
from fade_study.training.data import load_data
from fade_study.training.proxies import PROXIES
from fade_study.training.session import open_accelerator, session
from studies.predictors import Evidence, Measured, cell_effects, early, names, predict
from studies.trainings import ScratchTrainings, is_truth, repetition_seeds, train_hyper

EARLY_SEED = 1000
"""Of the short trainings: none of the ground truth's, whose noise they must not share."""
PROXY_IMAGES = 64
CHUNK = 25
"""Architectures whose zero-cost proxies are one task."""


Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """A hyper-architecture on which predictors are judged."""

    name: str
    hyper_architecture: HyperArchitecture
    paths: NDArray[np.int64]
    """``(n, d)``"""
    table: Table | None
    """With its ground truth, where that is there already."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What came out for a case."""

    case: Case
    evidence: Evidence
    truth: Trainings
    """Of the architectures along the evidence's paths."""
    report: RankReport
    entries: dict[str, figures.Entry]
    partial: Estimate | None
    audit: Audit | None
    rows: list[float | None]
    missing: dict[str, str]
    """Why predictors are not available."""


def validate(config: ValidationConfig) -> list[Judged]:
    """Train supernets and ground truth, compare, report."""
    begin = time.perf_counter()
    predictors = names(config.early_epochs, config.predictors)
    data = load_data(config.data)
    cases = open_cases(config, data)
    for case in cases:
        for training in (config.bilevel, config.straight_through):
            if training is not None:
                check_schedule(training, data, case.hyper_architecture.shape)
    tracking.check_server()
    device = str(open_accelerator().device)
    with open_executor(config.executor) as executor, tracking.start_study("validation", config, device, data) as run:
        judged = []
        for number, case in enumerate(cases):
            print(f"{case.name}: hyper-architecture {number + 1} of {len(cases)}, {len(case.paths)} architectures")
            judged.append(judge(number, case, predictors, config, data, executor, run))
        report(judged, predictors, config, run)
        one_shot = float(np.mean([result.accuracy for one in judged for result in one.evidence.supernets]))
        run.metrics({"one_shot_accuracy": one_shot, "seconds": time.perf_counter() - begin})
        print(f"One-shot accuracy of the supernets: {one_shot:.2f} (chance {data.chance:.2f})")
        print(f"Look at run {run.id}: {tracking.ui_command()}")
    return judged


def open_cases(config: ValidationConfig, data: Data) -> list[Case]:
    """Those of the tables; without any, cells of one size that are the same in every row, to be trained from scratch.

    Raises:
        InvalidInputError: (a ``ValueError``) for a table of other images, or other trainings from scratch.
    """
    if not config.tables:
        cells = distant_cells(config.space.open(), config.cells, config.operations)
        hyper_architecture = HyperArchitecture((cells,) * config.depth)
        paths = all_paths(hyper_architecture.shape)
        return [Case("equal cells", hyper_architecture, _chosen(paths, config), None)]
    cases = []
    for name in config.tables:
        table = load_table(name)
        if not is_truth(table, data, config.scratch, config.network):
            wanted = recipe(data, config.scratch, config.network, device=table.device)
            raise InvalidInputError(
                f"expected a table of trainings by the recipe {wanted} of these images, network and scratch settings, "
                f"got {name} with {table.recipe}, trained with {dict(table.ground_truth.settings)}; give that one's "
                "images and settings, or leave tables empty to train the ground truth"
            )
        cases.append(Case(name, table.hyper_architecture, _chosen(table.paths, config), table))
    return cases


def judge(
    number: int,
    case: Case,
    predictors: Sequence[str],
    config: ValidationConfig,
    data: Data,
    executor: Executor,
    run: tracking.Run,
) -> Judged:
    """Train what the predictors of one hyper-architecture need, and compare them with its ground truth."""

    def supernets(bilevel: BilevelConfig, repetitions: int, paths: NDArray[np.int64]) -> list[HyperResult]:
        seeds = repetition_seeds(VALIDATION.seed(config.seed, number), repetitions)
        return train_hyper(
            number, case.hyper_architecture, data, bilevel, config.network, seeds, executor, paths.tolist()
        )

    trained = supernets(config.bilevel, config.repetitions, case.paths)
    compared = []
    if config.straight_through is not None and any(name.startswith("straight_through") for name in predictors):
        compared = supernets(config.straight_through, config.straight_through_repetitions, case.paths[:0])
    short = [epochs for epochs in config.early_epochs if early(epochs) in predictors]
    table, complete = train_scratch(case, short, data, config, executor)
    if case.table is None:
        run.text(table.to_json(), "ground_truth.json")
    paths, architectures = table.paths, table.architectures
    single = measure(architectures, predictors, data, config, executor)
    for epochs, trainings in zip(short, list(table.trainings.values())[1:], strict=True):
        single[early(epochs)] = Measured(trainings.validation[:, 0], trainings.seconds * len(paths))
    steps = config.repetitions * config.bilevel.steps(data.weight.steps(config.bilevel.batch_size))
    evidence = Evidence(
        hyper_architecture=case.hyper_architecture,
        paths=paths,
        estimator=config.bilevel.estimator,
        supernets=[dataclasses.replace(result, path_accuracies=result.path_accuracies[complete]) for result in trained],
        straight_through=compared,
        single=single,
        by_cell=designed(case.hyper_architecture, steps, predictors, data, config, executor),
    )
    return compare(case, evidence, table.ground_truth, predictors, config)


def designed(
    hyper_architecture: HyperArchitecture,
    steps: int,
    predictors: Sequence[str],
    data: Data,
    config: ValidationConfig,
    executor: Executor,
) -> dict[str, Measured]:
    """What short trainings of their own tell of the cells, ``(d, w)``, for as many steps as the supernets have had.

    ``short_trainings`` are of fair paths, an epoch each, whose validation accuracies are regressed on the columns;
    ``chains`` are of d times the same cell.
    """
    depth, width = hyper_architecture.shape
    epoch = data.weight.steps(config.scratch.batch_size)
    found = {}
    if "short_trainings" in predictors:
        count = max(losses_needed((depth, width), 1), steps // epoch)
        paths = np.array(fair_paths(count, (depth, width), torch.Generator().manual_seed(config.seed)))
        architectures = [hyper_architecture.architecture(path) for path in paths.tolist()]
        values, seconds = train_short(architectures, 1, data, config, executor)
        found["short_trainings"] = Measured(cell_effects(paths, values, hyper_architecture), seconds)
    if "chains" in predictors:
        cells = {cell.key: cell for row in hyper_architecture.rows for cell in row}
        epochs = max(1, steps // (epoch * len(cells)))
        chains = [Architecture((cell,) * depth) for cell in cells.values()]
        values, seconds = train_short(chains, epochs, data, config, executor)
        by_key = dict(zip(cells, values, strict=True))
        table = np.array([[by_key[cell.key] for cell in row] for row in hyper_architecture.rows])
        found["chains"] = Measured(table, seconds)
    return found


def train_short(
    architectures: Sequence[Architecture], epochs: int, data: Data, config: ValidationConfig, executor: Executor
) -> tuple[Array, float]:
    """Validation accuracies ``(n,)`` of short trainings from scratch, and their seconds."""
    scratch = dataclasses.replace(config.scratch, epochs=epochs)
    wanted = [(architecture, EARLY_SEED) for architecture in architectures]
    found = ScratchTrainings(wanted, data, scratch, config.network, executor).collect()
    results = [found[architecture.key, EARLY_SEED] for architecture in architectures]
    return np.array([one.validation for one in results]), sum(one.seconds for one in results)


def all_paths(shape: tuple[int, int]) -> NDArray[np.int64]:
    """All w^d paths, ``(w^d, d)``."""
    depth, width = shape
    return np.indices((width,) * depth).reshape(depth, -1).T


def _chosen(paths: NDArray[np.int64], config: ValidationConfig) -> NDArray[np.int64]:
    return choose_paths(paths, config.half, config.architectures, config.seed)


def choose_paths(paths: NDArray[np.int64], half: str, count: int | Literal["all"], seed: int) -> NDArray[np.int64]:
    """Some of the paths ``(n, d)`` of a hyper-architecture.

    Args:
        paths: from which they are chosen.
        half: ``both``, or ``selection`` or ``report``: two halves that are the same whatever the seed.
        count: of them, such that all columns of a row are as equally frequent as can be.
        seed: of the choice.

    Raises:
        InvalidInputError: (a ``ValueError``) for more than there are.
    """
    shuffled = np.random.default_rng(0).permutation(len(paths))
    middle = len(paths) // 2
    index = {"both": shuffled, "selection": shuffled[:middle], "report": shuffled[middle:]}[half]
    if count != "all":
        if count > len(index):
            raise InvalidInputError(f"architectures: expected up to {len(index)}, got {count}; there are no more")
        index = CHOICE.rng(seed).permutation(index)
        depth = paths.shape[1]
        frequency, chosen, left = np.zeros((depth, paths.max() + 1)), [], np.ones(len(index), dtype=bool)
        for _ in range(count):
            crowded = np.where(left, frequency[np.arange(depth), paths[index]].sum(axis=1), np.inf)
            best = int(crowded.argmin())
            left[best] = False
            chosen.append(index[best])
            frequency[np.arange(depth), paths[index[best]]] += 1
        index = np.array(chosen)
    return paths[np.sort(index)]


def train_scratch(
    case: Case, short: Sequence[int], data: Data, config: ValidationConfig, executor: Executor
) -> tuple[Table, list[int]]:
    """Ground truth, and trainings over fewer or more epochs that may predict it, of a case's architectures.

    Returns:
        A table, the ground truth first, of those architectures of which no training failed; and which these are.
    """
    architectures = [case.hyper_architecture.architecture(path) for path in case.paths.tolist()]
    seeds = range(config.scratch_seeds) if case.table is None else case.table.ground_truth.seeds
    plans = [(config.scratch, tuple(seeds))]
    plans += [(dataclasses.replace(config.scratch, epochs=epochs), (EARLY_SEED,)) for epochs in short]
    trainings = [
        ScratchTrainings(
            [(a, seed) for seed in seeds for a in architectures], data, scratch, config.network, executor, case.table
        )
        for scratch, seeds in plans
    ]
    known = sum(one.known for one in trainings)
    different = len({architecture.key for architecture in architectures})  # rows may hold a cell twice
    wanted = different * sum(len(seeds) for _, seeds in plans)
    print(f"From scratch: {known} of {wanted} trainings were done before")
    collected = [one.collect() for one in trainings]
    complete = [
        i
        for i, a in enumerate(architectures)
        if all((a.key, seed) in found for found, (_, seeds) in zip(collected, plans, strict=True) for seed in seeds)
    ]
    if len(complete) < FEWEST:
        raise WorkerDiedError(
            f"expected {FEWEST} architectures or more with all their trainings, got {len(complete)} of "
            f"{len(architectures)}; "
            "the same command repeats only those that are missing"
        )
    keys = [architectures[i].key for i in complete]
    made = Table(
        hyper_architecture=case.hyper_architecture,
        paths=case.paths[complete],
        recipe=trainings[0].recipe,
        trainings={
            one.recipe: as_trainings(found, keys, seeds, scratch, config.network)
            for one, found, (scratch, seeds) in zip(trainings, collected, plans, strict=True)
        },
        images=(len(data.test), len(data.alpha)),
        commit=tracking.commit(),
        device=open_accelerator().device.type,
    )
    return made, complete


def as_trainings(
    found: dict[tuple[str, int], Scratch],
    keys: Sequence[str],
    seeds: tuple[int, ...],
    scratch: ScratchConfig,
    network: NetworkConfig,
) -> Trainings:
    """Evaluations as arrays."""
    results = np.array([[found[key, seed] for seed in seeds] for key in keys])  # (n, S, 3)
    return Trainings(
        settings={"scratch": dataclasses.asdict(scratch), "network": dataclasses.asdict(network)},
        seeds=seeds,
        test=results[..., 0],
        validation=results[..., 1],
        seconds=float(np.median(results[..., 2])),  # other work on the machine counts little
    )


def measure(
    architectures: Sequence[Architecture],
    predictors: Sequence[str],
    data: Data,
    config: ValidationConfig,
    executor: Executor,
) -> dict[str, Measured]:
    """What architectures show before they are trained: sizes, and those zero-cost proxies that are compared."""
    proxies = [name for name in PROXIES if name in predictors]
    chunks = [architectures[i : i + CHUNK] for i in range(0, len(architectures), CHUNK)]
    tasks = [executor.submit(_untrained, chunk, proxies, data, config.network, config.seed) for chunk in chunks]
    for _ in completed(tasks, unit="chunk"):
        pass
    measured = {
        name: Measured(
            np.concatenate([task.result()[name].values for task in tasks]),
            sum(task.result()[name].seconds for task in tasks),
        )
        for name in tasks[0].result()
    }
    for feature in (operations, longest_path):
        values = [sum(feature(c) for c in architecture if isinstance(c, Dag)) for architecture in architectures]
        measured[feature.__name__] = Measured(np.array(values), 0.0)
    return measured


def _untrained(
    architectures: Sequence[Architecture], proxies: Sequence[str], data: Data, config: NetworkConfig, seed: int
) -> dict[str, Measured]:
    """Sizes and zero-cost proxies of some architectures, in a worker."""
    images, labels = data.weight.images[:PROXY_IMAGES], data.weight.labels[:PROXY_IMAGES]
    functions = {name: lambda network, name=name: PROXIES[name](network, images, labels) for name in proxies}
    functions |= {"parameters": parameters, "flops": lambda network: flops(network, data.image_shape)}
    measured = {}
    with session(seed, 1):
        for name, function in functions.items():
            values, begin = [], time.perf_counter()
            for architecture in architectures:
                torch.manual_seed(seed)
                network = Network(architecture, data.image_shape, data.classes, config)
                try:
                    values.append(float(function(network)))
                except (ValueError, np.linalg.LinAlgError):  # a network that passes nothing on; NaN is refused later
                    values.append(float("nan"))
            measured[name] = Measured(np.array(values), time.perf_counter() - begin)
    return measured


def compare(
    case: Case, evidence: Evidence, truth: Trainings, predictors: Sequence[str], config: ValidationConfig
) -> Judged:
    """All predictors against the ground truth of one hyper-architecture."""
    accuracies = truth.test
    options: dict[str, Any] = {"resamples": config.resamples, "seed": config.seed}
    fade = predict("fade", evidence, config.resamples, config.seed)
    variants = {"replicates": fade.replicates, "permuted": fade.permuted}
    try:
        report = rank_report(fade.scores, accuracies, top=config.top, **variants, **options)
    except InvalidInputError as error:
        raise InvalidInputError(f"there are no FaDE-ranks to report on in {case.name}: {error}") from None
    entries = {"fade": figures.Entry(report.spearman, fade.seconds)}
    missing: dict[str, str] = {}
    for name in predictors:
        if name == "fade":
            continue
        try:
            scores, seconds, replicates, permuted = predict(name, evidence, config.resamples, config.seed)
            estimate = spearman(scores, accuracies, replicates=replicates, permuted=permuted, **options)
        except InvalidInputError as error:
            missing[name] = str(error)
        else:
            entries[name] = figures.Entry(estimate, seconds)
    covariates = np.column_stack([evidence.single[name].values for name in ("operations", "longest_path")])
    try:
        audit = independence_audit(accuracies, evidence.paths)
    except InvalidInputError as error:
        audit, missing["audit"] = None, str(error)
    return Judged(
        case=case,
        evidence=evidence,
        truth=truth,
        report=report,
        entries=entries,
        partial=partial_spearman(fade.scores, accuracies, covariates, **variants, **options),
        audit=audit,
        rows=row_coefficients(
            combined_alpha(evidence.supernets, config.bilevel.estimator, case.hyper_architecture),
            evidence.paths,
            accuracies.mean(axis=1),
        ),
        missing=missing,
    )


def report(judged: Sequence[Judged], predictors: Sequence[str], config: ValidationConfig, run: tracking.Run) -> None:
    """Means over all hyper-architectures, and each: metrics, tables, figures, and a summary on the terminal."""
    entries = {
        name: figures.Entry(
            mean_estimate([one.entries[name].estimate for one in judged], config.seed),
            sum(one.entries[name].seconds for one in judged),
        )
        for name in predictors
        if all(name in one.entries for one in judged)
    }
    missing = {name: reason for one in judged for name, reason in one.missing.items()}
    partials = [one.partial for one in judged if one.partial is not None]
    partial = mean_estimate(partials, config.seed) if len(partials) == len(judged) else None
    run.metrics(headline(judged, entries, partial))
    text = summary(judged, entries, partial, missing)
    print("\n" + text)
    run.text(text + "\n", "report.txt")
    write_tables(judged, entries, missing, run)
    ceilings = [one.report.ceiling for one in judged if one.report.ceiling is not None]
    ceiling = float(np.mean(ceilings)) if ceilings else None
    cost = sum(one.truth.seconds * one.truth.test.size for one in judged)
    run.figure(figures.draw_predictors(entries, ceiling, cost), "figures/predictors.png")
    run.figure(
        figures.draw_ranks(
            {
                one.case.name: (predict("fade", one.evidence, 0, config.seed).scores, one.truth.test.mean(axis=1),
                                one.report.spearman)
                for one in judged
            }
        ),
        "figures/ranks.png",
    )  # fmt: skip
    curves = {one.case.name: repetition_curve(one, config) for one in judged}
    run.figure(figures.draw_repetitions(curves), "figures/repetitions.png")
    mean_curve = np.mean([curve.median for curve in curves.values()], axis=0)
    counts = range(1, len(mean_curve) + 1)
    run.series([(k, {"curve/repetitions/spearman": v}) for k, v in zip(counts, mean_curve.tolist(), strict=True)])
    for one in judged:
        alphas = np.stack([result.alpha for result in one.evidence.supernets])
        keys = [[cell.key for cell in row] for row in one.case.hyper_architecture.rows]
        run.figure(figures.draw_marginals(alphas, keys), f"figures/alphas_{one.case.name.replace(' ', '_')}.png")


def repetition_curve(one: Judged, config: ValidationConfig) -> ranks.Curve:
    """Coefficient of FaDE-ranks from 1 .. R supernets."""

    def coefficient(chosen: Sequence[int]) -> float:
        supernets = [one.evidence.supernets[i] for i in chosen]
        evidence = dataclasses.replace(one.evidence, supernets=supernets)
        scores = predict("fade", evidence, 0, config.seed).scores
        return ranks.coefficient(scores, one.truth.test.mean(axis=1))

    return ranks.repetition_curve(coefficient, len(one.evidence.supernets), config.seed)


def row_coefficients(alpha: Array, paths: NDArray[np.int64], accuracies: Array) -> list[float | None]:
    """For each row, Spearman's coefficient of its alphas with the mean accuracies of the architectures of its cells.

    None where all cells of a row have the same alpha or accuracy.

    Args:
        alpha: ``(d, w)``.
        paths: ``(n, d)``.
        accuracies: means over seeds ``(n,)``.
    """
    coefficients: list[float | None] = []
    for row, columns in zip(alpha, paths.T, strict=True):
        seen = np.unique(columns)
        means = np.array([accuracies[columns == column].mean() for column in seen])
        value = ranks.coefficient(row[seen], means)
        coefficients.append(None if np.isnan(value) else value)
    return coefficients


def headline(judged: Sequence[Judged], entries: dict[str, figures.Entry], partial: Estimate | None) -> dict[str, float]:
    """The figures by which runs are compared, means over hyper-architectures; what is not available is left out."""
    reports = [one.report for one in judged]

    def mean(values: Sequence[float | None]) -> float | None:
        return None if any(value is None for value in values) else float(np.mean(values))  # pyright: ignore

    metrics: dict[str, float | None] = {
        "fade/kendall": mean([report.kendall.value for report in reports]),
        "fade/ceiling": mean([report.ceiling for report in reports]),
        "fade/relative": mean([report.relative for report in reports]),
        "ground_truth/reliability": mean([report.reliability for report in reports]),
        "ground_truth/architectures": float(sum(report.architectures for report in reports)),
        "ground_truth/seeds": mean([report.seeds for report in reports]),
        "ground_truth/hyper_architectures": float(len(reports)),
        "audit/additive_r2": mean([None if one.audit is None else one.audit.additive_r2 for one in judged]),
        "audit/additive_spearman": mean([None if one.audit is None else one.audit.additive_spearman for one in judged]),
    }
    for prefix, estimate in (
        ("fade/spearman", entries["fade"].estimate),
        ("fade/partial_spearman", partial),
        ("straight_through/spearman", entries["straight_through"].estimate if "straight_through" in entries else None),
    ):
        if estimate is not None:
            metrics |= {prefix: estimate.value, f"{prefix}_low": estimate.low, f"{prefix}_high": estimate.high,
                        f"{prefix}_p": estimate.p}  # fmt: skip
    for k in reports[0].precision:
        metrics |= {
            f"fade/precision_{k}": mean([report.precision.get(k) for report in reports]),
            f"fade/regret_{k}": mean([report.regret.get(k) for report in reports]),
            f"fade/best_rank_{k}": mean([report.best_rank.get(k) for report in reports]),
        }
    for i in range(max(len(one.rows) for one in judged)):
        metrics[f"fade/row{i}/spearman"] = mean([one.rows[i] if i < len(one.rows) else None for one in judged])
    for name, (estimate, seconds) in entries.items():
        metrics |= {f"predictor/{name}/spearman": estimate.value, f"predictor/{name}/seconds": seconds}
    return {name: float(value) for name, value in metrics.items() if value is not None}


def summary(
    judged: Sequence[Judged],
    entries: dict[str, figures.Entry],
    partial: Estimate | None,
    missing: dict[str, str],
) -> str:
    """The report as text."""
    lines = ["FaDE-ranks against from-scratch test accuracy"]
    for one in judged:
        lines += [f"\n{one.case.name}:", str(one.report)]
        if one.audit is not None:
            lines.append(
                f"accuracy as a sum over rows: adjusted R² {one.audit.additive_r2:.2f}; such a sum, fitted to the "
                f"others, ranks each with {one.audit.additive_spearman:.2f}"
            )
        cells = ", ".join("not available" if coefficient is None else f"{coefficient:.2f}" for coefficient in one.rows)
        lines.append(f"row by row, alphas against the mean accuracies of their cells: {cells}")
    lines.append(f"\npartial    {partial or 'not available because operations and longest path explain all'}"
                 " (given operations and longest path)")  # fmt: skip
    over = f"mean over {len(judged)} hyper-architectures, " if len(judged) > 1 else ""
    lines.append(f"\n{'predictor':24} Spearman, {over}[95 %], p{'':10} core-seconds")
    for name, (estimate, seconds) in sorted(entries.items(), key=lambda item: -abs(item[1].estimate.value)):
        lines.append(f"{name:24} {estimate!s:38} {seconds:.4g}")
    lines += [f"{name:24} not available because {reason}" for name, reason in missing.items()]
    return "\n".join(lines)


def write_tables(
    judged: Sequence[Judged], entries: dict[str, figures.Entry], missing: dict[str, str], run: tracking.Run
) -> None:
    """Predictors and architectures, as tables that the MLflow UI shows, and as CSV."""

    def numbers(estimate: Estimate) -> dict[str, float]:
        return {name: getattr(estimate, name) for name in ("value", "low", "high", "p")}

    predictors = [
        {
            "predictor": name,
            **numbers(estimate),
            "seconds": seconds,
            **{one.case.name: one.entries[name].estimate.value for one in judged},
            "note": "",
        }
        for name, (estimate, seconds) in entries.items()
    ]
    nothing = dict.fromkeys(("value", "low", "high", "p", "seconds", *(one.case.name for one in judged)))
    predictors += [
        {"predictor": name, **nothing, "note": f"not available because {reason}"} for name, reason in missing.items()
    ]
    architectures = []
    for one in judged:
        scores = predict("fade", one.evidence, 0, 0).scores
        shots = np.mean([result.path_accuracies for result in one.evidence.supernets], axis=0)
        columns = (one.evidence.paths.tolist(), scores, one.truth.test, one.truth.validation, shots)
        architectures += [
            {
                "hyper_architecture": one.case.name,
                "path": "".join(map(str, path)),
                "fade_rank": float(np.exp(score)),
                "test_mean": float(test.mean()),
                "test_sd": float(test.std(ddof=1)) if len(test) > 1 else None,
                "validation_mean": float(validation.mean()),
                "one_shot": float(one_shot),
            }
            for path, score, test, validation, one_shot in zip(*columns, strict=True)
        ]
    for name, rows in (("predictors", predictors), ("architectures", architectures)):
        run.table({column: [row[column] for row in rows] for column in rows[0]}, f"{name}.json")
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        run.text(text.getvalue(), f"{name}.csv")


if __name__ == "__main__":
    run_command(validate, CONFIG)
