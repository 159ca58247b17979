"""The report of a rank validation: predictors against the ground truth, as metrics, tables, figures and text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fade_study import Dag, tracking
from fade_study.analysis import correlation as figures
from fade_study.benchmarks import Trainings
from fade_study.builders import describe_network
from fade_study.exceptions import InvalidInputError
from fade_study.statistics import ranks
from fade_study.studies import notes
from fade_study.studies.answer import regime_settings
from fade_study.studies.predictors import Evidence, predict
from fade_study.studies.schemas import ValidationConfig
from fade_study.training import Data, combined_alpha

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judged:
    """What came out for one hyper-architecture."""

    name: str
    evidence: Evidence
    truth: Trainings
    """Ground truth of the architectures along the evidence's paths."""
    scores: Array
    """Logarithms of the FaDE-ranks, ``(n,)``."""
    report: ranks.RankReport
    entries: dict[str, figures.Entry]
    """Available predictors by name."""
    missing: dict[str, str]
    """Reason for each predictor that is not available."""
    partial: ranks.Estimate | None
    """Coefficient of FaDE-ranks given operations and longest path; None if these explain everything."""
    audit: ranks.Audit | None
    rows: list[float | None]
    """Coefficients of single rows from :func:`row_coefficients`."""


def judge(
    name: str, evidence: Evidence, truth: Trainings, predictors: Sequence[str], config: ValidationConfig
) -> Judged:
    """Compare all predictors with the ground truth of one hyper-architecture."""
    options: dict[str, Any] = {"resamples": config.resamples, "seed": config.seed}
    fade = predict("fade", evidence, config.resamples, config.seed)
    variants = {"replicates": fade.replicates, "permuted": fade.permuted}
    try:
        report = ranks.rank_report(fade.scores, truth.test, top=config.top, **variants, **options)
    except InvalidInputError as error:
        raise InvalidInputError(f"there are no FaDE-ranks to report on in {name}: {error}") from None
    entries, missing = {"fade": figures.Entry(report.spearman, fade.seconds)}, {}
    for predictor in predictors:
        if predictor == "fade":
            continue
        try:
            scores, seconds, replicates, permuted = predict(predictor, evidence, config.resamples, config.seed)
            estimate = ranks.spearman(scores, truth.test, replicates=replicates, permuted=permuted, **options)
            entries[predictor] = figures.Entry(estimate, seconds)
        except InvalidInputError as error:
            missing[predictor] = str(error)
    audit = None
    try:
        audit = ranks.independence_audit(truth.test, evidence.paths)
    except InvalidInputError as error:
        missing["audit"] = str(error)
    covariates = np.column_stack(
        [evidence.along_paths(evidence.by_cell[size].values) for size in ("operations", "longest_path")]
    )
    alpha = combined_alpha(evidence.supernets, evidence.estimator, evidence.hyper_architecture)
    return Judged(
        name=name,
        evidence=evidence,
        truth=truth,
        scores=fade.scores,
        report=report,
        entries=entries,
        missing=missing,
        partial=ranks.partial_spearman(fade.scores, truth.test, covariates, **variants, **options),
        audit=audit,
        rows=row_coefficients(alpha, evidence.paths, truth.test.mean(axis=1)),
    )


def row_coefficients(alpha: Array, paths: NDArray[np.int64], accuracies: Array) -> list[float | None]:
    """For each row, Spearman's coefficient of its alphas with the mean accuracies of its cells' architectures.

    Alphas are ``(d, w)``, paths ``(n, d)`` and accuracies ``(n,)``. None if all cells of a row have the same alpha or
    accuracy.
    """
    coefficients: list[float | None] = []
    for row, columns in zip(alpha, paths.T, strict=True):
        seen = np.unique(columns)
        means = np.array([accuracies[columns == column].mean() for column in seen])
        value = ranks.coefficient(row[seen], means)
        coefficients.append(None if np.isnan(value) else value)
    return coefficients


def report(
    judged: Sequence[Judged], predictors: Sequence[str], config: ValidationConfig, data: Data, run: tracking.Run
) -> None:
    """Report each hyper-architecture and the means over all."""
    entries = {
        name: figures.Entry(
            ranks.mean_estimate([one.entries[name].estimate for one in judged]),
            sum(one.entries[name].seconds for one in judged),
        )
        for name in predictors
        if all(name in one.entries for one in judged)
    }
    missing = {name: reason for one in judged for name, reason in one.missing.items()}
    partials = [one.partial for one in judged if one.partial is not None]
    partial = ranks.mean_estimate(partials) if len(partials) == len(judged) else None
    run.metrics(headline(judged, entries, partial))
    text = summary(judged, entries, partial, missing)
    print("\n" + text)
    run.text(text + "\n", "report.txt")
    for name, rows in (
        ("predictors", predictor_table(judged, entries, missing)),
        ("architectures", architecture_table(judged)),
    ):
        run.rows(rows, f"{name}.json")
        run.text(pd.DataFrame(rows).to_csv(index=False), f"{name}.csv")
    run.text("".join(json.dumps(line) + "\n" for line in regimes(judged, entries, config, data)), "regimes.jsonl")
    draw(judged, entries, config, run)
    run.tag(tracking.schema.RUN_NAME, f"validate {config.data.name} ρ={entries['fade'].estimate.value:.2f}")
    run.note(notes.validation(judged, entries, config, run.pictures))


def regimes(
    judged: Sequence[Judged], entries: dict[str, figures.Entry], config: ValidationConfig, data: Data
) -> Iterator[dict[str, Any]]:
    """What was found of each estimator, as a later search with these settings may want to know it."""

    def numbers(name: str) -> list[float] | None:
        found = entries[name].estimate if name in entries else None
        return None if found is None else [round(one, 2) for one in (found.value, found.low, found.high)]

    trained = {
        "fade": (config.bilevel, config.repetitions),
        "straight_through": (config.straight_through, config.straight_through_repetitions),
    }
    architectures = sum(one.report.architectures for one in judged)
    for name, (bilevel, repetitions) in trained.items():
        if bilevel is not None and name in entries:
            yield {
                "data": data.digest,
                "network": describe_network(config.network, [Dag]),
                "settings": regime_settings(config, bilevel, repetitions)
                | {"depth": judged[0].evidence.hyper_architecture.depth},  # of a table, which may have another one
                "spearman": numbers(name),
                "operations": numbers("operations"),
                "of": f"{architectures} architectures of {len(judged)} hyper-architectures, {repetitions} supernets of "
                f"{bilevel.epochs} epochs",
                "commit": tracking.commit(),
            }


def headline(
    judged: Sequence[Judged], entries: dict[str, figures.Entry], partial: ranks.Estimate | None
) -> dict[str, float]:
    """Metrics by which runs are compared, as means over hyper-architectures, without those that are not available."""
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
        "audit/additive_r2": mean([one.audit and one.audit.additive_r2 for one in judged]),
        "audit/additive_spearman": mean([one.audit and one.audit.additive_spearman for one in judged]),
    }
    estimates = {name: entry.estimate for name, entry in entries.items() if name in ("fade", "straight_through")}
    for prefix, estimate in (*((f"{name}/spearman", one) for name, one in estimates.items()),
                             ("fade/partial_spearman", partial)):  # fmt: skip
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
    first = ("fade/spearman", "fade/spearman_low", "fade/spearman_high")  # as MLflow shows metrics in their order
    ordered = {name: metrics[name] for name in (*first, *metrics)}
    return {name: float(value) for name, value in ordered.items() if value is not None}


def summary(
    judged: Sequence[Judged],
    entries: dict[str, figures.Entry],
    partial: ranks.Estimate | None,
    missing: dict[str, str],
) -> str:
    """The report as text."""
    lines = ["FaDE-ranks against from-scratch test accuracy"]
    for one in judged:
        lines += [f"\n{one.name}:", str(one.report)]
        if one.audit is not None:
            lines += [
                f"additive   adjusted R² {one.audit.additive_r2:.2f} of accuracy as a sum over rows",
                f"additive   Spearman {one.audit.additive_spearman:.2f} of such a sum, fitted without the architecture "
                "that it ranks",
            ]
        lines += [
            f"row {i:<6} {'not available' if value is None else f'{value:.2f}'} "
            "(Spearman of its alphas with the mean accuracies of its cells)"
            for i, value in enumerate(one.rows)
        ]
    lines.append(f"\npartial    {partial or 'not available because operations and longest path explain everything'}"
                 " (given operations and longest path)")  # fmt: skip
    over = f"mean over {len(judged)} hyper-architectures, " if len(judged) > 1 else ""
    lines.append(f"\n{'predictor':24} Spearman, {over}[95 %], p{'':10} core-seconds")
    for name, (estimate, seconds) in sorted(entries.items(), key=lambda item: -abs(item[1].estimate.value)):
        lines.append(f"{name:24} {estimate!s:38} {seconds:.4g}")
    lines += [f"{name:24} not available because {reason}" for name, reason in missing.items()]
    return "\n".join(lines)


def predictor_table(
    judged: Sequence[Judged], entries: dict[str, figures.Entry], missing: dict[str, str]
) -> list[dict[str, Any]]:
    """A row for each predictor, with its coefficient in each hyper-architecture and their mean."""
    numbers = ("value", "low", "high", "p")
    available = [
        {
            "predictor": name,
            **{number: getattr(estimate, number) for number in numbers},
            "seconds": seconds,
            **{one.name: one.entries[name].estimate.value for one in judged},
            "note": "",
        }
        for name, (estimate, seconds) in entries.items()
    ]
    nothing = dict.fromkeys((*numbers, "seconds", *(one.name for one in judged)))
    return available + [
        {"predictor": name, **nothing, "note": f"not available because {reason}"} for name, reason in missing.items()
    ]


def architecture_table(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """A row for each architecture."""
    rows = []
    for one in judged:
        one_shot = np.mean([result.path_accuracies for result in one.evidence.supernets], axis=0)
        test, validation = one.truth.test, one.truth.validation
        rows += [
            {
                "hyper_architecture": one.name,
                "path": "".join(map(str, path)),
                "fade_rank": float(np.exp(one.scores[i])),
                "test_mean": float(test[i].mean()),
                "test_sd": float(test[i].std(ddof=1)) if len(test[i]) > 1 else None,
                "validation_mean": float(validation[i].mean()),
                "one_shot": float(one_shot[i]),
            }
            for i, path in enumerate(one.evidence.paths.tolist())
        ]
    return rows


def draw(
    judged: Sequence[Judged], entries: dict[str, figures.Entry], config: ValidationConfig, run: tracking.Run
) -> None:
    """All figures, and the curve over repetitions as metrics."""
    ceilings = [one.report.ceiling for one in judged if one.report.ceiling is not None]
    ceiling = float(np.mean(ceilings)) if ceilings else None
    cost = sum(one.truth.seconds * one.truth.test.size for one in judged)
    run.figure(figures.draw_predictors(entries, ceiling, cost), "figures/predictors.png")
    points = {one.name: (one.scores, one.truth.test.mean(axis=1), one.report.spearman) for one in judged}
    run.figure(figures.draw_ranks(points), "figures/ranks.png")
    curves = {one.name: repetition_curve(one, config.seed) for one in judged}
    run.figure(figures.draw_repetitions(curves), "figures/repetitions.png")
    means = np.mean([curve.median for curve in curves.values()], axis=0).tolist()
    run.series([(k, {"curve/repetitions/spearman": value}) for k, value in enumerate(means, start=1)])
    for one in judged:
        alphas = np.stack([result.alpha for result in one.evidence.supernets])
        keys = one.evidence.hyper_architecture.keys
        run.figure(figures.draw_marginals(alphas, keys), f"figures/alphas_{one.name.replace(' ', '_')}.png")


def repetition_curve(one: Judged, seed: int) -> ranks.Curve:
    """Coefficient of the FaDE-ranks from 1 .. R supernets."""
    supernets, accuracies = one.evidence.supernets, one.truth.test.mean(axis=1)

    def coefficient(chosen: Sequence[int]) -> float:
        evidence = dataclasses.replace(one.evidence, supernets=[supernets[i] for i in chosen])
        return ranks.coefficient(predict("fade", evidence, 0, seed).scores, accuracies)

    return ranks.repetition_curve(coefficient, len(supernets), seed)
