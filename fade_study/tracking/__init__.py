"""The record of runs in MLflow; no other package of fade_study uses MLflow.

Each study command makes a parent run; each training of a hyper-architecture or from scratch is a child of it.
:mod:`fade_study.tracking.schema` names everything that runs hold.
"""

from fade_study.tracking import schema
from fade_study.tracking.children import log_failed_scratch, log_scratch, start_hyper
from fade_study.tracking.delivery import OUTBOX, deliver
from fade_study.tracking.git import commit
from fade_study.tracking.reading import (
    check_conditions,
    find_outcomes,
    find_scratch,
    read_config,
    read_searches,
    read_times,
)
from fade_study.tracking.record import SearchRecord
from fade_study.tracking.runs import Run, adopt, open_run, start_study
from fade_study.tracking.server import check_server, look_at, redirected

__all__ = [
    "OUTBOX",
    "Run",
    "SearchRecord",
    "adopt",
    "check_conditions",
    "check_server",
    "commit",
    "deliver",
    "find_outcomes",
    "find_scratch",
    "log_failed_scratch",
    "log_scratch",
    "look_at",
    "open_run",
    "read_config",
    "read_searches",
    "read_times",
    "redirected",
    "schema",
    "start_hyper",
    "start_study",
]
