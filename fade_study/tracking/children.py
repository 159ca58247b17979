"""Child runs: trainings of hyper-architectures and from scratch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fade_study.architecture import HyperArchitecture
from fade_study.benchmarks import Scratch
from fade_study.tracking.runs import Run, active_runs, open_run
from fade_study.tracking.schema import ERROR, HYPER, KIND, NOTE
from fade_study.training import ScratchResult


@contextmanager
def start_hyper(
    generation: int, hyper_architecture: HyperArchitecture, seed: int, seconds: float = 0.0
) -> Iterator[Run]:
    """The child run of the training of a hyper-architecture, which began ``seconds`` ago if it is done.

    In a validation, which has no generations, ``generation`` is the number of the hyper-architecture.
    """
    name = f"hyper{generation}" if active_runs[-1].kind == "validation" else f"gen{generation} hyper"
    with open_run(name, {KIND: "hyper"}, seconds) as run:
        keys = hyper_architecture.keys
        cells = {f"cell/row{i}/column{j}": key for i, row in enumerate(keys) for j, key in enumerate(row)}
        run.params({"generation": generation, "seed": seed, **cells})
        run.json({"rows": keys}, HYPER)
        yield run


def log_scratch(
    architecture: str,
    recipe: str,
    seed: int,
    result: ScratchResult,
    generation: int | None = None,
    note: str | None = None,
) -> Scratch:
    """Write the child run of a finished training from scratch, and return what it holds of the result."""
    tags = {} if note is None else {NOTE: note}
    with _scratch_run(architecture, recipe, seed, generation, tags, result.seconds) as run:
        run.series(list(enumerate(result.epochs)), now=False)
        run.metrics(
            {
                "accuracy/test": result.test_accuracy,
                "parameters": result.parameters,
                "flops": result.flops,
                "seconds": result.seconds,
            },
            step=len(result.epochs) - 1,
        )
        return Scratch(result.test_accuracy, result.validation_accuracy, result.seconds)


def log_failed_scratch(
    architecture: str, recipe: str, seed: int, error: Exception, generation: int | None = None
) -> None:
    """Write the child run of a training from scratch that failed, with the error in the tag ``fade.error``."""
    tags = {ERROR: str(error), NOTE: f"**This training failed:** {error}"}
    with contextlib.suppress(type(error)), _scratch_run(architecture, recipe, seed, generation, tags):
        raise error


@contextmanager
def _scratch_run(
    architecture: str,
    recipe: str,
    seed: int,
    generation: int | None,
    tags: Mapping[str, str],
    seconds: float = 0.0,
) -> Iterator[Run]:
    params = {"architecture": architecture, "recipe": recipe, "seed": seed}
    name = f"scratch seed{seed}"
    if generation is not None:
        params, name = params | {"generation": generation}, f"gen{generation} {name}"
    with open_run(name, {KIND: "scratch", **tags}, seconds) as run:
        run.params(params, now=False)
        yield run
