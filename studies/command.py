"""What every study's command does around the study itself."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import optuna

from fade_study import FadeError
from fade_study.config import parse_config

T = TypeVar("T")
CONFIGS = Path(__file__).parent / "configs"
"""Where presets lie, in a folder for each study."""


def command(study: Callable[[T], Any], cls: type[T], presets: str | None = None) -> None:
    """Run a study as the command line describes it; a refused one leaves nothing behind.

    Args:
        study: takes the configuration.
        cls: the configuration's class.
        presets: name of the folder of its YAML files, where it has any.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that runs end, and end KILLED
    sys.unraisablehook = _signal_again
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        study(parse_config(cls, None if presets is None else CONFIGS / presets))
    except FadeError as error:
        sys.exit("\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])]))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _signal_again(unraisable: Any) -> None:
    """What a signal raises within a weak reference's callback is ignored by Python: then it is sent once more."""
    signals = {SystemExit: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}
    if unraisable.exc_type in signals:
        threading.Timer(0.1, os.kill, (os.getpid(), signals[unraisable.exc_type])).start()
    else:
        sys.__unraisablehook__(unraisable)
