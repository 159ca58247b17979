"""Deliver records to MLflow that were kept while its server was away.

fade deliver
"""

from __future__ import annotations

import argparse
import sys

from fade_study import FadeError, tracking


def main() -> None:
    """Deliver all records that dead processes left in this folder for the current tracking server."""
    tracking.check_server()
    left = tracking.deliver(tracking.DELIVERY_SECONDS)
    if left:
        sys.exit(f"{left} records could not be delivered; they are kept, try again later")
    print("All delivered")


if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    try:
        main()
    except FadeError as error:
        sys.exit(f"{type(error).__name__}: {error}")
