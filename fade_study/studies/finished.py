"""Finished searches, whose architectures are trained later."""

from __future__ import annotations

from typing import NamedTuple

from fade_study import Architecture, Dag, tracking
from fade_study.builders import builders_of
from fade_study.exceptions import InvalidInputError
from fade_study.nn import check_operation
from fade_study.studies.schemas import SearchConfig
from fade_study.tracking import SearchRecord
from fade_study.training import Data
from fade_study.training.data import load_data


class Finished(NamedTuple):
    """The searches of a command, with what their trainings need."""

    records: dict[str, SearchRecord]
    """Records by run id."""
    configs: dict[str, SearchConfig]
    """Settings by run id."""
    data: Data


def read_finished(run_id: str) -> Finished:
    """Read the search of a run, or all searches of a run.

    Raises:
        InvalidInputError: (a ``ValueError``) if there is no such search, and if its images, its builders of cells or
            its operation are not there any more.
    """
    records = tracking.read_searches(run_id)
    configs = {one: SearchConfig(**tracking.read_config(one)) for one in records}
    data = load_data(next(iter(configs.values())).data)
    for one, config in configs.items():
        tracking.check_conditions(one, data, builders_of([Dag]))
        check_operation(config.network)
    return Finished(records, configs, data)


def winner(record: SearchRecord) -> Architecture:
    """The architecture of a search with the best validation accuracy from scratch.

    Raises:
        InvalidInputError: (a ``ValueError``) if none was trained from scratch.
    """
    if record.best is None:
        raise InvalidInputError(
            "expected a search with architectures trained from scratch, got one without; mlflow run . -e evaluate "
            "trains them"
        )
    return architecture_of(record.evaluated[record.best])


def architecture_of(key: str) -> Architecture:
    """The architecture of DAGs that has a key."""
    try:
        return Architecture.from_key(key)
    except ValueError as error:
        raise InvalidInputError(f"expected an architecture whose cells are graphs, got {key!r}: {error}") from None
