"""Do FaDE-ranks predict from-scratch accuracy (paper section 3.1), how surely, and better than what else?

mlflow run . -e validate
mlflow run . -e validate -P preset=smoke
python -m studies.validate_ranks --help
"""

from __future__ import annotations

import csv
import dataclasses
import io
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from analysis import correlation as figures
from fade_study import Architecture, Dag, HyperArchitecture, tracking
from fade_study.benchmarks import Scratch, Table, Trainings, load_table
from fade_study.config import NetworkConfig, ScratchConfig, ValidationConfig
from fade_study.correlation import (
    FEWEST,
    Audit,
    Estimate,
    RankReport,
    independence_audit,
    partial_spearman,
    rank_report,
    spearman,
)
from fade_study.exceptions import InvalidInputError, WorkerDiedError
from fade_study.execution import completed, open_executor
from fade_study.nn import Network, flops, parameters
from fade_study.space import distant_cells, longest_path, operations
from fade_study.training import Data
from fade_study.training.bilevel import check_schedule
from fade_study.training.data import load_data
from fade_study.training.proxies import PROXIES
from fade_study.training.session import open_accelerator, session
from studies.command import command
from studies.predictors import Evidence, Measured, early, names, predict
from studies.trainings import ScratchTrainings, repetition_seeds, train_hyper

EARLY_SEED = 1000
"""Of the short trainings: none of the ground truth's, whose noise they must not share."""
PROXY_IMAGES = 64
FEW = 16
"""Architectures that the paper's validation has."""
CHUNK = 25
"""Architectures whose zero-cost proxies are one task."""


Array = NDArray[np.float64]


def validate(config: ValidationConfig) -> RankReport:
    """Train supernets and ground truth, compare, report."""
    begin = time.perf_counter()
    predictors = names(config.early_epochs, config.predictors)
    table = None if config.table is None else load_table(config.table)
    data = load_data(config.data)
    check_schedule(config.bilevel, data, (config.depth, config.cells))
    tracking.check_server()
    cells = distant_cells(config.space.open(), config.cells, config.operations)
    hyper_architecture = HyperArchitecture((cells,) * config.depth)
    paths = choose_paths(hyper_architecture.shape, config.half, config.architectures, config.seed)
    device = str(open_accelerator().device)
    with open_executor(config.executor) as executor, tracking.start_study("validation", config, device, data) as run:
        results = train_hyper(
            0,
            hyper_architecture,
            data,
            config.bilevel,
            config.network,
            repetition_seeds(config.seed, config.repetitions),
            executor,
            paths.tolist(),
        )
        short = [epochs for epochs in config.early_epochs if early(epochs) in predictors]
        truth, complete = train_scratch(hyper_architecture, paths, short, data, config, executor, table)
        paths, architectures = truth.paths, truth.architectures
        single = measure(architectures, predictors, data, config, executor)
        for epochs, trainings in zip(short, list(truth.trainings.values())[1:], strict=True):
            single[early(epochs)] = Measured(trainings.validation[:, 0], trainings.seconds * len(paths))
        evidence = Evidence(
            paths=paths,
            history=np.stack([result.alpha_history for result in results]),
            one_shot=np.stack([result.path_accuracies for result in results])[:, complete],
            hyper_seconds=sum(result.seconds for result in results),
            one_shot_seconds=sum(result.path_seconds for result in results),
            single=single,
        )
        run.text(truth.to_json(), "ground_truth.json")
        report = compare(predictors, evidence, truth.ground_truth, config, run)
        run.figure(figures.draw_marginals(evidence.history[:, -1], [cell.key for cell in cells]), "figures/alphas.png")
        one_shot = float(np.mean([result.accuracy for result in results]))
        run.metrics({"one_shot_accuracy": one_shot, "seconds": time.perf_counter() - begin})
        print(f"One-shot accuracy of the supernets: {one_shot:.2f} (chance {data.chance:.2f})")
        print(f"Look at run {run.id}: {tracking.ui_command()}")
    return report


def choose_paths(shape: tuple[int, int], half: str, count: int | Literal["all"], seed: int) -> NDArray[np.int64]:
    """Paths of a hyper-architecture to train from scratch, ``(n, d)``.

    Args:
        shape: ``(d, w)``.
        half: ``both``, or ``selection`` or ``report``: two halves that are the same whatever the seed.
        count: of them, such that all columns of a row are as equally frequent as can be.
        seed: of the choice.
    """
    depth, width = shape
    paths = np.indices((width,) * depth).reshape(depth, -1).T
    shuffled = np.random.default_rng(0).permutation(len(paths))
    middle = len(paths) // 2
    index = {"both": shuffled, "selection": shuffled[:middle], "report": shuffled[middle:]}[half]
    if count != "all":
        index = np.random.default_rng([seed, 4]).permutation(index)
        frequency, chosen, left = np.zeros(shape), [], np.ones(len(index), dtype=bool)
        for _ in range(count):
            crowded = np.where(left, frequency[np.arange(depth), paths[index]].sum(axis=1), np.inf)
            best = int(crowded.argmin())
            left[best] = False
            chosen.append(index[best])
            frequency[np.arange(depth), paths[index[best]]] += 1
        index = np.array(chosen)
    return paths[np.sort(index)]


def train_scratch(
    hyper_architecture: HyperArchitecture,
    paths: NDArray[np.int64],
    short: Sequence[int],
    data: Data,
    config: ValidationConfig,
    executor: Executor,
    table: Table | None,
) -> tuple[Table, list[int]]:
    """Ground truth, and trainings over fewer or more epochs that may predict it, of the architectures along paths.

    Returns:
        A table, the ground truth first, of those architectures of which no training failed; and which these are.
    """
    architectures = [hyper_architecture.architecture(path) for path in paths.tolist()]
    plans = [(config.scratch, tuple(range(config.scratch_seeds)))]
    plans += [(dataclasses.replace(config.scratch, epochs=epochs), (EARLY_SEED,)) for epochs in short]
    trainings = [
        ScratchTrainings(
            [(a, seed) for seed in seeds for a in architectures], data, scratch, config.network, executor, table
        )
        for scratch, seeds in plans
    ]
    known = sum(one.known for one in trainings)
    print(f"From scratch: {known} of {len(paths) * sum(len(seeds) for _, seeds in plans)} trainings were done before")
    collected = [one.collect() for one in trainings]
    complete = [
        i
        for i, a in enumerate(architectures)
        if all((a.key, seed) in found for found, (_, seeds) in zip(collected, plans, strict=True) for seed in seeds)
    ]
    if len(complete) < FEWEST:
        raise WorkerDiedError(
            f"expected {FEWEST} architectures or more with all their trainings, got {len(complete)} of {len(paths)}; "
            "the same command repeats only those that are missing"
        )
    keys = [architectures[i].key for i in complete]
    made = Table(
        hyper_architecture=hyper_architecture,
        paths=paths[complete],
        recipe=trainings[0].recipe,
        trainings={
            one.recipe: as_trainings(found, keys, seeds, scratch, config.network)
            for one, found, (scratch, seeds) in zip(trainings, collected, plans, strict=True)
        },
        images=(len(data.test), len(data.alpha)),
        commit=tracking.commit(),
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
        seconds=float(results[..., 2].mean()),
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
    predictors: Sequence[str], evidence: Evidence, truth: Trainings, config: ValidationConfig, run: tracking.Run
) -> RankReport:
    """All predictors against the ground truth: tables, figures, metrics, and a summary on the terminal."""
    accuracies, mean = truth.test, truth.test.mean(axis=1)
    options = {"resamples": config.resamples, "seed": config.seed}
    fade = predict("fade", evidence, config.resamples, config.seed)
    variants = {"replicates": fade.replicates, "permuted": fade.permuted}
    try:
        report = rank_report(fade.scores, accuracies, top=config.top, **variants, **options)
    except InvalidInputError as error:
        raise InvalidInputError(f"there are no FaDE-ranks to report on: {error}") from None
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
    partial = partial_spearman(fade.scores, accuracies, covariates, **variants, **options)
    try:
        audit = independence_audit(accuracies, evidence.paths)
    except InvalidInputError as error:
        audit, missing["audit"] = None, str(error)
    rows = row_coefficients(evidence.history[:, -1].mean(axis=0), evidence.paths, mean)
    samples = figures.sample_curves(fade.scores, accuracies, config.seed)

    run.metrics(headline(report, partial, audit, rows, entries))
    text = summary(report, partial, audit, rows, samples[report.seeds], entries, missing)
    print("\n" + text)
    run.text(text + "\n", "report.txt")
    write_tables(entries, missing, evidence, fade.scores, truth, run)
    run.figure(figures.draw_ranks(fade.scores, mean, report.spearman, report.seeds), "figures/ranks.png")
    cost = truth.seconds * accuracies.size
    run.figure(figures.draw_predictors(entries, report.ceiling, cost), "figures/predictors.png")
    epochs = figures.epoch_curve(evidence.history, evidence.paths, mean)
    repetitions = figures.repetition_curve(evidence.history[:, -1], evidence.paths, mean, config.seed)
    run.figure(figures.draw_curves(epochs, repetitions, samples), "figures/curves.png")
    for name, curve in (("epoch", epochs), ("repetitions", repetitions)):
        points = zip(curve.x.tolist(), curve.median.tolist(), strict=True)
        run.series([(x, {f"curve/{name}/spearman": value}) for x, value in points])
    return report


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
        if min(np.ptp(row[seen]), np.ptp(means)) == 0:
            coefficients.append(None)
        else:
            result: Any = stats.spearmanr(row[seen], means)
            coefficients.append(float(result.statistic))
    return coefficients


def headline(
    report: RankReport,
    partial: Estimate | None,
    audit: Audit | None,
    rows: Sequence[float | None],
    entries: dict[str, figures.Entry],
) -> dict[str, float]:
    """The figures by which runs are compared; what is not available is left out."""
    metrics: dict[str, float | None] = {
        "fade/spearman": report.spearman.value,
        "fade/spearman_low": report.spearman.low,
        "fade/spearman_high": report.spearman.high,
        "fade/spearman_p": report.spearman.p,
        "fade/kendall": report.kendall.value,
        "fade/sparse_kendall": None if report.sparse_kendall is None else report.sparse_kendall.value,
        "fade/ceiling": report.ceiling,
        "fade/relative": report.relative,
        "fade/partial_spearman": None if partial is None else partial.value,
        "ground_truth/reliability": report.reliability,
        "ground_truth/architectures": report.architectures,
        "ground_truth/seeds": report.seeds,
        "audit/additive_r2": None if audit is None else audit.additive_r2,
        "audit/pairwise_r2": None if audit is None else audit.pairwise_r2,
        "audit/additive_spearman": None if audit is None else audit.additive_spearman,
    }
    for k in report.precision:
        metrics |= {f"fade/precision_{k}": report.precision[k], f"fade/regret_{k}": report.regret[k]}
        metrics[f"fade/best_rank_{k}"] = report.best_rank[k]
    metrics |= {f"fade/row{i}/spearman": coefficient for i, coefficient in enumerate(rows)}
    for name, (estimate, seconds) in entries.items():
        metrics |= {f"predictor/{name}/spearman": estimate.value, f"predictor/{name}/seconds": seconds}
    return {name: float(value) for name, value in metrics.items() if value is not None}


def summary(
    report: RankReport,
    partial: Estimate | None,
    audit: Audit | None,
    rows: Sequence[float | None],
    sample: figures.Curve,
    entries: dict[str, figures.Entry],
    missing: dict[str, str],
) -> str:
    """The report as text."""
    lines = ["FaDE-ranks against from-scratch test accuracy", str(report)]
    lines.append(f"partial    {partial or 'not available because operations and longest path explain all'}"
                 " (given operations and longest path)")  # fmt: skip
    if audit is not None:
        pairs = "" if audit.pairwise_r2 is None else f", with all pairs of rows {audit.pairwise_r2:.2f}"
        lines.append(f"accuracy as a sum over rows: adjusted R² {audit.additive_r2:.2f}{pairs}; "
                     f"such a sum, fitted to the others, ranks each with {audit.additive_spearman:.2f}")  # fmt: skip
    cells = ", ".join("not available" if coefficient is None else f"{coefficient:.2f}" for coefficient in rows)
    lines.append(f"row by row, alphas against the mean accuracies of their cells: {cells}")
    for n, low, high in zip(sample.x.tolist(), sample.low, sample.high, strict=True):
        if n == FEW:
            lines.append(f"of samples of {n} of these architectures, 95 % give between {low:.2f} and {high:.2f}")
    lines.append(f"\n{'predictor':16} Spearman [95 %], p{'':20} core-seconds")
    for name, (estimate, seconds) in sorted(entries.items(), key=lambda item: -abs(item[1].estimate.value)):
        lines.append(f"{name:16} {estimate!s:38} {seconds:.4g}")
    lines += [f"{name:16} not available because {reason}" for name, reason in missing.items()]
    return "\n".join(lines)


def write_tables(
    entries: dict[str, figures.Entry],
    missing: dict[str, str],
    evidence: Evidence,
    scores: Array,
    truth: Trainings,
    run: tracking.Run,
) -> None:
    """Predictors and architectures, as tables that the MLflow UI shows, and as CSV."""
    predictors = [
        {"predictor": name, **dataclasses.asdict(estimate), "seconds": seconds, "note": ""}
        for name, (estimate, seconds) in entries.items()
    ]
    nothing = dict.fromkeys(("value", "low", "high", "p", "seconds"))
    predictors += [
        {"predictor": name, **nothing, "note": f"not available because {reason}"} for name, reason in missing.items()
    ]
    architectures = [
        {
            "path": "".join(map(str, path)),
            "fade_rank": float(score),
            "test_mean": float(test.mean()),
            "test_sd": float(test.std(ddof=1)) if len(test) > 1 else None,
            "validation_mean": float(validation.mean()),
            "one_shot": float(one_shot),
        }
        for path, score, test, validation, one_shot in zip(
            evidence.paths.tolist(), scores, truth.test, truth.validation, evidence.one_shot.mean(axis=0), strict=True
        )
    ]
    for name, rows in (("predictors", predictors), ("architectures", architectures)):
        run.table({column: [row[column] for row in rows] for column in rows[0]}, f"{name}.json")
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        run.text(text.getvalue(), f"{name}.csv")


if __name__ == "__main__":
    command(validate, ValidationConfig, "validate")
