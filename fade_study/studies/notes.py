"""Descriptions of runs, in Markdown, which MLflow's user interface shows first.

Each begins with one bold sentence on what came out, since MLflow shows few lines of a long description at once. Then
come pictures, tables, caveats, and what can be done next.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fade_study.statistics.arena import FEWEST, summary_table
from fade_study.statistics.resampling import p_text
from fade_study.studies.command import again, further
from fade_study.tracking.pictures import small_path
from fade_study.tracking.schema import RECORD, THIS_RUN
from fade_study.training.bilevel import untrained
from fade_study.urls import place

if TYPE_CHECKING:
    from fade_study import FadeStudy, HyperArchitecture
    from fade_study.statistics.arena import Standing
    from fade_study.studies.answer import Difference
    from fade_study.studies.report_ranks import Judged
    from fade_study.studies.schemas import ComparisonConfig, SearchConfig, ValidationConfig
    from fade_study.studies.searchers import Outcome
    from fade_study.tracking import Run, SearchRecord
    from fade_study.training import Data, HyperResult, ScratchResult

PICTURES = ("best_architecture", "finals", "best", "ranks", "predictors", "trajectory", "accuracy", "alpha", "costs")
"""Names of the figures that descriptions show, in this order, where a run has them."""
MOST_ROWS = 40
"""Largest number of rows of a table, since MLflow cuts descriptions off after 8,000 characters."""


def search(
    study: FadeStudy,
    config: SearchConfig,
    data: Data,
    record: SearchRecord,
    finals: Sequence[NDArray[np.float64]],
    gain: Difference | None,
    lead: Difference | None,
    run: Run,
) -> str:
    """Description of a finished search; ``finals``, ``gain`` and ``lead`` are as in :class:`SearchLog`."""
    name, last = study.optuna_study.study_name, study.generation(study.n_generations - 1)
    depth, width = last.alpha.shape
    what = f"study `{name}`: {study.n_generations} generations of {depth} × {width} cells on {data.name}"
    evaluation = study.best_evaluation
    if evaluation is None:
        train = f"`{further('evaluate', run_id=THIS_RUN)}` trains its architectures from scratch."
        return _note(
            f"No architecture was trained from scratch; {what}.",
            _pictures(run.pictures),
            train,
            _next(config, name, run),
        )
    number, best, validation, _ = evaluation
    chosen, begun = (record.tests.get(t, []) for t in (number, 0))
    answer, first = finals if len(finals) else (chosen, begun)
    headline = (
        f"Winner: test accuracy {_mean(answer)}, chance {data.chance:.2f}, first generation {_mean(first)}; {what}."
    )
    rows = [("chosen by: validation accuracy", f"{validation:.3f}"), ("its test accuracy then", _mean(chosen))]
    caveats = []
    if len(finals):
        rows += [
            ("trained anew, with seeds that chose nothing: test accuracy", _mean(answer)),
            ("the first generation's anchor architecture, likewise", _mean(first)),
            ("gain, with 95 % interval", "unknown" if gain is None else str(gain)),
        ]
        if gain is None or not gain.low > 0:
            caveats.append("The winner is not significantly better than where the search began.")
        if lead is not None:
            rows.append(("lead over random searches for the same training steps, with 95 % interval", str(lead)))
            if not lead.low > 0:
                caveats.append("The winner is not significantly better than random searches for the same price.")
    else:
        caveats.append(
            "The winner was chosen among several by the same trainings; `-P final_seeds=5` would train it anew."
        )
    one_shot = last.details["one_shot_accuracy"]
    rows += [("chance", f"{data.chance:.3f}"), ("one-shot accuracy of the last supernet", f"{one_shot:.3f}")]
    if untrained(one_shot, data.chance) is not None:
        caveats.append("The last supernet has hardly trained, so that its alphas and ranks mean nothing.")
    if len(answer) < 2:
        caveats.append("One training of the winner says nothing of its spread.")
    epochs = 2 * config.scratch.epochs
    train = further("train", run_id=THIS_RUN, epochs=epochs)
    return _note(
        headline,
        f"Winner, of generation {number}: {_cells(best.key)}",
        _pictures(run.pictures),
        table(("winner", ""), rows),
        _list("Caveats", caveats),
        _next(config, name, run),
        _list(
            "Use the winner",
            [
                *([f'Load: `mlflow.pytorch.load_model("runs:/{THIS_RUN}/best")`'] if "best" in run.models else []),
                f"Train it for {epochs} epochs, and keep it as a model: `{train}`",
                f"Evaluate more generations: `{further('evaluate', run_id=THIS_RUN)}`",
            ],
        ),
    )


def unfinished(name: str) -> str:
    """Description of a search while it runs, and for ever if it is stopped."""
    return _note(f"Study `{name}` is searching, or was stopped.", f"To go on with it: `{again(name)}`")


def searches(
    names: Mapping[str, str],
    records: Mapping[str, SearchRecord],
    config: SearchConfig,
    text: str,
    experiment: str,
    figures: Collection[str],
) -> str:
    """Description of several searches of one command; names of studies and records by id of their runs."""
    tests = {run_id: _best(record) for run_id, record in records.items()}
    known = [np.mean(found) for found in tests.values() if found]
    rows = [(f"[{names[i]}](#/experiments/{experiment}/runs/{i})", _mean(found)) for i, found in tests.items()]
    ids = json.dumps(list(records), separators=(",", ":")).replace('"', "%22")
    return _note(
        f"{len(records)} searches: test accuracy of the winners {_mean(known, 'searches')}; studies `{config.study}-…` "
        f"on {config.data.name}.",
        _pictures(figures),
        table(("search", "test accuracy of its winner"), rows),
        f"[Compare them side by side](#/compare-runs?runs={ids}&experiments=%5B%22{experiment}%22%5D)",
        _code(text),
    )


def analysis(command: str, run_id: str, records: Sequence[SearchRecord], text: str, figures: Collection[str]) -> str:
    """Description of an analysis (``analyze``), or of a later evaluation (``evaluate``), of searches."""
    tests = [np.mean(found) for record in records if (found := _best(record))]
    return _note(
        f"Searches of run `{run_id}`: test accuracy of the winners {_mean(tests, 'searches')}; "
        f"{sum(len(record.evaluations) for record in records)} generations evaluated.",
        _pictures(figures),
        _code(text),
        f"Repeat: `{further(command, run_id=run_id)}`",
    )


def validation(
    judged: Sequence[Judged],
    coefficients: Mapping[str, tuple[Any, float]],
    config: ValidationConfig,
    figures: Collection[str],
) -> str:
    """Description of a validation of ranks; ``coefficients`` are means over hyper-architectures, with core-seconds."""
    reports = [one.report for one in judged]
    ceilings = [report.ceiling for report in reports if report.ceiling is not None]
    ceiling = f"limit {np.mean(ceilings):.2f}" if ceilings else "limit unknown"
    ordered = sorted(coefficients.items(), key=lambda item: -abs(item[1][0].value))
    rows = [
        (name, f"{one.value:.2f}", f"[{one.low:.2f}, {one.high:.2f}]", p_text(one.p), f"{seconds:.3g}")
        for name, (one, seconds) in ordered
    ]
    warned = [result.warning for one in judged for result in one.evidence.supernets if result.warning is not None]
    caveats = [f"{len(warned)} supernets: {warned[0]}"] if warned else []
    if len(judged) == 1:
        caveats.append("One hyper-architecture: others may rank better or worse.")
    if any(report.seeds == 1 for report in reports):
        caveats.append("One training per architecture: the noise of the ground truth is unknown.")
    count = "one hyper-architecture" if len(judged) == 1 else f"{len(judged)} hyper-architectures"
    return _note(
        f"Spearman correlation of FaDE-ranks with accuracy from scratch: {coefficients['fade'][0]} ({ceiling}); "
        f"{sum(report.architectures for report in reports)} architectures of {count} on {config.data.name}.",
        _pictures(figures),
        table(("predictor", "Spearman", "95 %", "p", "core-seconds"), rows),
        _list("Caveats", caveats),
        _list(
            "Load",
            [
                f'All predictors: `mlflow.load_table("predictors.json", run_ids=["{THIS_RUN}"])`',
                f'All architectures: `mlflow.load_table("architectures.json", run_ids=["{THIS_RUN}"])`',
            ],
        ),
        "Compare with other validations: select them in the table of runs, and press *Compare*; the metric "
        "`fade/spearman` has the bounds `fade/spearman_low` and `fade/spearman_high`.",
    )


def comparison(
    standings: Sequence[Standing], controls: Collection[str], config: ComparisonConfig, figures: Collection[str]
) -> str:
    """Description of a comparison of searchers, best first; a control is not called the best one."""
    real = [row for row in standings if row.searcher not in controls] or standings
    best = real[0]
    ends = f" [{best.low:.3f}, {best.high:.3f}]" if best.seeds >= FEWEST else ""
    base = next(row for row in standings if row.searcher == config.baseline)
    different = [row.searcher for row in standings if row.p_holm is not None and row.p_holm < 0.05]
    return _note(
        f"Best of {len(real)} searchers: {best.searcher}, final test accuracy {best.final:.3f}{ends}; "
        f"{base.searcher} {base.final:.3f}; {config.seeds} paired seeds, {config.budget} steps.",
        _pictures(figures),
        _code(summary_table(standings)),
        _list(
            "Caveats",
            [
                f"Significantly different from {base.searcher} (Holm, 5 %): {', '.join(different) or 'none'}.",
                f"With {config.seeds} seeds, no p-value is below {2 / 2**config.seeds:.2g} before the correction.",
            ],
        ),
        "Each search of each searcher is a child run; select several in the table of runs, and press *Compare*.",
    )


def outcome(found: Outcome, name: str, seed: int) -> str:
    """Description of a finished search within a comparison."""
    return _note(
        f"Final test accuracy {found.final:.3f} of {name} with seed {seed}, after {found.spent[-1]} training steps.",
        f"Final architecture: {_cells(found.best)}",
        f"The step of the metrics is the number of training steps. The trajectory is in `{RECORD}`.",
    )


def hyper(hyper_architecture: HyperArchitecture, result: HyperResult, chance: float, figures: Collection[str]) -> str:
    """Description of the training of a hyper-architecture."""
    rows = []
    for i, (cells, alpha) in enumerate(zip(hyper_architecture.rows, result.alpha, strict=True)):
        best = int(alpha.argmax())
        rows.append((str(i), f"{alpha[0]:.3f}", f"`{cells[0].key}`", f"{alpha[best]:.3f}", f"`{cells[best].key}`"))
    depth, width = result.alpha.shape
    return _note(
        f"One-shot accuracy {result.accuracy:.3f}, chance {chance:.2f}: a supernet of {depth} × {width} cells, "
        f"trained for {len(result.epochs)} epochs in {result.seconds:.1f} s.",
        _pictures(figures),
        _list("Caveats", [] if result.warning is None else [result.warning]),
        table(("row", "alpha of the anchor", "its cell", "largest alpha", "its cell"), rows),
    )


def scratch(architecture: str, seed: int, result: ScratchResult, chance: float) -> str:
    """Description of a training from scratch."""
    return _note(
        f"Test accuracy {result.test_accuracy:.3f}, chance {chance:.2f}: a network of {result.parameters:,} weights, "
        f"trained from scratch for {len(result.epochs)} epochs in {result.seconds:.1f} s (seed {seed}).",
        f"Architecture: {_cells(architecture)}",
        f"Validation accuracy {result.validation_accuracy:.3f}; {result.flops:,} floating point operations per image. "
        "The same architecture, recipe and seed are not trained again: this result is looked up.",
    )


def training(architecture: str, accuracies: Sequence[float], epochs: int, run_id: str, run: Run) -> str:
    """Description of the training of an architecture with several seeds, whose best network is kept."""
    load = f'Load: `mlflow.pytorch.load_model("runs:/{THIS_RUN}/best")`, the network with the best validation accuracy'
    return _note(
        f"Test accuracy {_mean(accuracies)} after {epochs} epochs.",
        f"Architecture: {_cells(architecture)}, with the images and settings of run `{run_id}`",
        *([load] if "best" in run.models else []),
    )


def benchmark(title: str, measured: str, figures: Collection[str]) -> str:
    """Description of measurements of costs, with a table in Markdown."""
    return _note(f"{title}.", _pictures(figures), measured)


# --- parts ------------------------------------------------------------------------------------------------------------


def _note(headline: str, *parts: str) -> str:
    return "\n\n".join([f"**{headline}**", *filter(None, parts)])


def _pictures(figures: Collection[str]) -> str:
    """Those of :data:`PICTURES` that the run has."""
    shown = [name for name in PICTURES if f"figures/{name}.png" in figures]
    paths = {name: small_path(f"figures/{name}.png") for name in shown}
    return "\n\n".join(f"![{name}](get-artifact?path={paths[name]}&run_uuid={THIS_RUN})" for name in shown)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, of up to :data:`MOST_ROWS` rows."""
    wide = [[f"{cell}&emsp;" for cell in row] for row in rows[:MOST_ROWS]]  # MLflow leaves no room between columns
    lines = [header, ["---"] * len(header), *wide]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(title: str, items: Sequence[str]) -> str:
    return "\n".join([f"**{title}**", "", *(f"- {item}" for item in items)]) if items else ""


def _code(text: str) -> str:
    return f"```\n{text}\n```"


def _next(config: SearchConfig, name: str, run: Run) -> str:
    """How to continue, load and compare a search."""
    charts = (
        f"#/experiments/{run.experiment}/runs?workflowType=machine_learning&compareRunsMode=CHART"
        "&searchFilter=tags.%60fade.kind%60%20%3D%20%27search%27"
    )
    return _list(
        "Next",
        [
            f"Continue with more generations: `{again(name)}` with `generations={2 * config.generations}`",
            f"Load the study: `fade_study.load_study(study_name={name!r}, storage={place(config.storage)!r})`",
            f"Compare with other searches: [charts of all]({charts}), or select runs in the table and press *Compare*.",
        ],
    )


def _cells(key: str) -> str:
    """The key of an architecture as a chain of cells, without the separator that would end a column of a table."""
    return " → ".join(f"`{cell}`" for cell in key.split("|"))


def _mean(values: Sequence[Any] | NDArray[np.float64], of: str = "seeds") -> str:
    """Mean, with the standard deviation of several values."""
    if len(values) == 0:
        return "not evaluated"
    spread = f" ± {np.std(values, ddof=1):.3f} (sd of {len(values)} {of})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def _best(record: SearchRecord) -> list[float]:
    """Test accuracies of the architecture with the best validation accuracy."""
    return [] if record.best is None else record.tests[record.best]
