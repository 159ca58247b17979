"""Analyze how finished searches moved and whether they got better (paper section 3.2).

It reads runs and trains nothing.

fade analyze --run_id ID
mlflow run . -e analyze -P run_id=ID
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fade_study import Architecture, tracking
from fade_study.analysis import cells, trajectory
from fade_study.exceptions import InvalidInputError
from fade_study.statistics import trend
from fade_study.studies import notes
from fade_study.studies.command import further
from fade_study.studies.schemas import AnalyzeConfig
from fade_study.tracking import SearchRecord

MOST_COLUMNS = 16
"""Largest number of generations whose architectures are drawn; of a longer search, they are evenly spaced."""


def analyze(config: AnalyzeConfig) -> None:
    """Analyze the search of a run, or all searches of a run together."""
    tracking.check_server()
    searches = list(tracking.read_searches(config.run_id).values())
    if not any(record.evaluations for record in searches):
        raise InvalidInputError(
            f"expected a search whose anchors were trained from scratch, got {config.run_id}, which has none; "
            f"{further('evaluate', run_id=config.run_id)} trains them"
        )
    tags = {tracking.schema.ANALYZED: config.run_id}
    with tracking.start_study("analysis", config, "cpu", tags=tags, name=f"analyze {config.run_id[:8]}") as run:
        text = report(searches, run)
        print(text)
        run.note(notes.analysis("analyze", config.run_id, searches, text, run.pictures))
        print(tracking.look_at(run.experiment, run.id))


def report(searches: Sequence[SearchRecord], run: tracking.Run) -> str:
    """Log trend, movement and coverage of searches as metrics and figures of a run, and return them as text."""
    features = searches[0].features
    trajectories = [record.anchors for record in searches]
    run.figure(trajectory.draw_trajectories(trajectories, features), "figures/trajectory.png")
    if len(searches) == 1:
        run.series(list(enumerate(movement_metrics(searches[0]))))
        draw_architectures(searches[0], run)
    if max(map(len, trajectories)) > 1:
        moves = [trend.movement(one) for one in trajectories]
        title, distance = "length of the anchors' steps", "distance (scaled features)"
        run.figure(trajectory.draw_rows(moves, 1, title, distance), "figures/movement.png")
        coverages = [trend.coverage(record.cells, record.space) for record in searches]
        title, share = "cells that a row has held so far", "share of all cells"
        run.figure(trajectory.draw_rows(coverages, 0, title, share), "figures/coverage.png")
    series = [record.trend for record in searches if record.evaluations]
    try:
        pooled = trend.pooled_trend(series)
    except InvalidInputError:
        return summary(searches)
    run.figure(trajectory.draw_trend(series, tests=searches[0].tests), "figures/accuracy.png")
    metrics = {"trend/slope": pooled.slope.value, "trend/slope_low": pooled.slope.low,
               "trend/slope_high": pooled.slope.high, "trend/gain": pooled.gain.value,
               "trend/evaluations": pooled.evaluations,
               "trend/pearson": None if pooled.pearson is None else pooled.pearson.value}  # fmt: skip
    if len(series) == 1:
        alone = trend.trend(*series[0])
        metrics["trend/kendall_p"] = alone.mann_kendall_p
    else:
        metrics["trend/signs_p"] = pooled.signs_p
    run.metrics({name: value for name, value in metrics.items() if value is not None})
    return summary(searches)


def summary(searches: Sequence[SearchRecord]) -> str:
    """Movement, coverage and trend of searches as text."""
    lines = [movement_lines(searches)] if any(len(record.cells) > 1 for record in searches) else []
    series = [record.trend for record in searches if record.evaluations]
    if not series:
        return "\n".join([*lines, "No trend: no anchor was trained from scratch"])
    try:
        pooled = trend.pooled_trend(series)
        lines.append(str(trend.trend(*series[0]) if len(series) == 1 else pooled))
    except InvalidInputError as error:
        lines.append(f"No trend: {error}")
    return "\n".join(lines)


def movement_metrics(record: SearchRecord) -> list[dict[str, float]]:
    """For each generation, means over rows: movement of anchors, distance to their cells, revisits and coverage."""
    anchors = [[row[0] for row in generation] for generation in record.cells]
    series = {
        "movement": np.concatenate([np.zeros((1, len(anchors[0]))), trend.movement(record.anchors)]),
        "snap_distance": trend.snap_distance(record.anchors, record.embedded),
        "revisited": trend.revisited(anchors).astype(float),
        "coverage": trend.coverage(record.cells, record.space),
    }
    return [{name: float(values[t].mean()) for name, values in series.items()} for t in range(len(anchors))]


def movement_lines(records: Sequence[SearchRecord]) -> str:
    """Movement and coverage, one fact per line."""
    anchors = [[[row[0] for row in generation] for generation in record.cells] for record in records]
    moved = np.mean([trend.moved(cells).mean() for cells in anchors if len(cells) > 1])
    again = np.mean([trend.revisited(cells)[1:].mean() for cells in anchors if len(cells) > 1])
    collisions = np.mean([1 - len(set(row)) / len(row) for record in records for g in record.cells for row in g])
    snapped = np.mean([trend.snap_distance(r.anchors, r.embedded).mean() for r in records])
    ways = np.concatenate([trend.straightness(r.anchors) for r in records])
    straight = ways[np.isfinite(ways)]  # rows that never moved have no straightness
    return (
        f"An anchor's cell changed in {moved:.0%} of steps ({again:.0%} back to an earlier one)\n"
        f"{collisions:.0%} of a row's cells repeat another\n"
        f"Anchors are {snapped:.2f} from their cells\n"
        f"The distance from first to last anchor is {straight.mean() if len(straight) else 0:.2f} of the path's length"
    )


def draw_architectures(record: SearchRecord, run: tracking.Run) -> None:
    """Log a figure of the architectures that the search evaluates, by generation, with the best one framed."""
    count, winner = len(record.evaluated), record.best
    spaced: list[int] = np.linspace(0, count - 1, min(count, MOST_COLUMNS)).round().astype(int).tolist()
    shown = sorted({*spaced} if winner is None else {*spaced, winner})
    architectures = {generation: Architecture.from_key(record.evaluated[generation]) for generation in shown}
    figure = cells.draw_generations(architectures, record.tests, winner, "evaluated architectures by generation")
    run.figure(figure, "figures/generations.png")
