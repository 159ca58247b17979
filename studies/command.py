"""What every study's command does around the study itself."""

from __future__ import annotations

import shlex
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import optuna

from fade_study import FadeError, interrupt
from fade_study.config import parse_config
from fade_study.settings import masked

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
    interrupt.listen()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        study(parse_config(cls, None if presets is None else CONFIGS / presets))
    except FadeError as error:
        sys.exit(masked("\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])))
    except interrupt.Interrupted as end:
        print(f"Stopped by {signal.Signals(end.number).name}; what is trained is kept")
        raise


def again(study: str) -> str:
    """The command that continues a study."""
    named = any(word.split("=")[0] == "--study" for word in sys.argv[1:])
    return shlex.join(["python", "-m", "studies.search", *sys.argv[1:], *([] if named else ["--study", study])])
