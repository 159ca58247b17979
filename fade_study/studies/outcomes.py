"""Outcomes of trained searches on record: in MLflow, and in a JSON Lines file that can be kept in a repository."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fade_study import Dag, tracking
from fade_study.benchmarks import FOLDER
from fade_study.builders import describe_network
from fade_study.exceptions import DataError
from fade_study.studies import notes
from fade_study.studies.json_lines import append_line, read_lines
from fade_study.studies.schemas import ComparisonConfig
from fade_study.studies.searchers import SEARCHERS, Outcome
from fade_study.study.settings import describe_sampler, plain
from fade_study.tracking import SearchRecord
from fade_study.training import Data
from fade_study.training.session import open_accelerator, surroundings

ARENA_VERSION = 4
"""Raised when a change of the code changes the result of a search."""


def recipe_of(name: str, config: ComparisonConfig, data: Data | None) -> str:
    """Hash of everything but the seed that a searcher's outcomes depend on."""
    alphas = SEARCHERS[name].alphas
    paper = config.straight_through if alphas == "straight-through" else None
    settings = {
        "version": ARENA_VERSION,
        "searcher": name,
        "sampler": describe_sampler(SEARCHERS[name].make(config.sampler, 0)),
        "data": None if data is None else {"digest": data.digest, **surroundings(open_accelerator())},
        "bilevel": None if alphas == "none" else (paper or config.bilevel).recorded(),
        "budget": config.budget,
        "depth": config.depth,
        "final_seeds": config.final_seeds,
        "space": dataclasses.asdict(config.space),
        "features": None,  # searchers that embedded cells by features of their own are gone
        "evaluate": SEARCHERS[name].evaluate,
        **({} if SEARCHERS[name].trained == 1 else {"trained": SEARCHERS[name].trained}),
        **({"table": config.table} if alphas == "oracle" else {}),
        "repetitions": None if alphas == "none" else config.repetitions,
        "network": describe_network(config.network, [Dag]),
        "scratch": dataclasses.asdict(config.scratch),
    }
    return hashlib.sha256(json.dumps(plain(settings), sort_keys=True).encode()).hexdigest()[:16]


def find(
    recipes: Mapping[str, str], wanted: Collection[tuple[str, int]], file: str | None
) -> dict[tuple[str, int], Outcome]:
    """Outcomes on record by searcher and seed: in MLflow, in the file, and in those that are shipped.

    What MLflow or the file does not have yet is copied there.
    """
    logged = {
        (name, seed): _outcome(content, record)
        for name, recipe in recipes.items()
        for seed, (content, record) in tracking.find_outcomes(recipe).items()
    }
    written = {} if file is None else _read(file, recipes)
    known = logged | written
    for shipped in sorted(FOLDER.glob("arena-*.jsonl")):
        known |= _read(shipped, recipes)
    found = {one: known[one] for one in wanted if one in known}
    for (name, seed), outcome in found.items():
        if (name, seed) not in logged:
            log(outcome, name, seed, recipes[name])
        if (name, seed) not in written:
            write(outcome, name, seed, recipes[name], file)
    return found


def log(outcome: Outcome, name: str, seed: int, recipe: str) -> None:
    """Log a finished search as a child run."""
    tests, validations = accuracies(outcome)
    steps = zip(outcome.spent, tests, validations, best_so_far(validations, tests), strict=True)
    tags = {tracking.schema.KIND: "search", tracking.schema.SEARCHER: name}
    with tracking.open_run(f"{name} seed{seed}", tags, outcome.seconds) as run:
        run.params({"searcher": name, "seed": seed, "recipe": recipe})
        run.series(
            [
                (spent, {"accuracy/test": test, "accuracy/validation": validation, "best/test_accuracy": best})
                for spent, test, validation, best in steps
            ],
            now=False,
        )
        run.metrics({"final_accuracy": outcome.final, "seconds": outcome.seconds}, step=outcome.spent[-1])
        run.tag(tracking.schema.BEST, outcome.best)
        run.note(notes.outcome(outcome, name, seed))
        run.text(outcome.record.to_json(), tracking.schema.RECORD)
        run.json(_content(outcome), tracking.schema.OUTCOME)


def write(outcome: Outcome, name: str, seed: int, recipe: str, file: str | None) -> None:
    """Append a finished search to the file, if there is one."""
    if file is None:
        return
    line = {"recipe": recipe, "searcher": name, "seed": seed, **_content(outcome)}
    append_line(file, line | {"record": json.loads(outcome.record.to_json())})


def _read(file: str | Path, recipes: Mapping[str, str]) -> dict[tuple[str, int], Outcome]:
    """Outcomes in the file by these recipes."""
    found = {}
    for number, line in enumerate(read_lines(file), start=1):
        try:
            if recipes.get(line["searcher"]) == line["recipe"]:
                record = SearchRecord.from_json(json.dumps(line["record"]))
                found[line["searcher"], line["seed"]] = _outcome(line, record)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"expected the outcome of a search in line {number} of {file}, got {type(error).__name__}: {error}; "
                "delete that line, and its search is repeated"
            ) from None
    return found


def _content(outcome: Outcome) -> dict[str, Any]:
    """An outcome without its record."""
    content = {"spent": outcome.spent, "best": outcome.best, "final": outcome.final, "seconds": outcome.seconds}
    return {"commit": outcome.commit or tracking.commit(), **content}


def _outcome(content: Mapping[str, Any], record: SearchRecord) -> Outcome:
    """The inverse."""
    spent, commit = tuple(content["spent"]), content.get("commit", "unknown")  # earlier versions did not log it
    return Outcome(record, spent, content["best"], content["final"], content["seconds"], commit)


def accuracies(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Test and validation accuracies ``(n,)`` of the trainings from scratch, one per generation."""
    trainings = [scratch for (scratch,) in outcome.record.evaluations.values()]
    return np.array([scratch.test for scratch in trainings]), np.array([scratch.validation for scratch in trainings])


def best_so_far(validations: np.ndarray, tests: np.ndarray) -> np.ndarray:
    """Test accuracy of the training with the best validation accuracy so far, ``(n,)``."""
    return tests[[int(validations[:n].argmax()) for n in range(1, len(validations) + 1)]]
