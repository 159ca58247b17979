"""Deliver records to MLflow that were kept while its server was away.

fade deliver
"""

from __future__ import annotations

import sys

from fade_study import interrupt, tracking
from fade_study.studies.schemas import DeliverConfig


def deliver(_: DeliverConfig) -> None:
    """Deliver all records that dead processes left in this folder for the current tracking server."""
    tracking.check_server()
    if left := tracking.deliver():
        interrupt.check()
        sys.exit(f"{left} records could not be delivered; they are kept, try again later")
    print("All delivered")
