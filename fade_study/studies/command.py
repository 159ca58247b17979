"""The command line around every study: configuration, signals, processes, and error messages."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import shlex
import signal
import sys
import uuid
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import optuna
import psutil

from fade_study import FadeError, InvalidInputError, interrupt
from fade_study.execution import end_with_parent
from fade_study.studies.options import NULL, parse_config
from fade_study.studies.repeated_warnings import count_repeated_warnings
from fade_study.urls import masked

T = TypeVar("T")
CONFIGS = Path(__file__).parent / "configs"
"""Folder of presets, with a subfolder for each study."""
TYPED = "FADE_TYPED"
"""Environment variable that passes the command that the user typed, such as ``mlflow run .``, as a JSON list."""


def read_command(cls: type[T], name: str, about: str = "") -> T:
    """Read the configuration of the command ``name``, whose presets lie in the folder of that name, if there are any.

    This comes before PyTorch and MLflow are imported, so that a misspelled setting is refused at once.
    """
    go_to_caller()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # An ASCII terminal must not make a search fail, and a log file is to be read while it grows.
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    if {"-h", "--help"} & {*sys.argv}:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # so that `fade search --help | head` ends without an error
    with _told():
        folder = CONFIGS / name
        return parse_config(cls, folder if folder.is_dir() else None, about=about)


def run_command(module: str, name: str, config: Any) -> None:
    """Run a function of a module of studies; a study that is refused leaves no files behind."""
    launched = "RANK" in os.environ
    main = os.environ.get("RANK", "0") == "0"
    interrupt.handle_signals(twice=not launched)
    if launched:
        end_with_parent()  # a process must not go on training without its launcher
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    if not main:
        warnings.simplefilter("ignore")  # the main process gives the same warnings
    with _told(), count_repeated_warnings():
        try:
            check_launcher()
            if hasattr(config, "network"):
                from fade_study.nn import check_operation

                check_operation(config.network)
            processes = getattr(config, "processes", None)
            if launched and processes is None and os.environ.get("WORLD_SIZE", "1") != "1":
                raise InvalidInputError(
                    f"expected one process, got {os.environ['WORLD_SIZE']} of a launcher; of all studies, search alone "
                    "trains over several"
                )
            if processes is not None and processes > 1 and not launched:
                sys.exit(launch(processes))
            getattr(import_module(f"fade_study.studies.{module}"), name)(config)
        except interrupt.Interrupted:
            if main:
                # The signal is not named, since MLflow turns Ctrl-C into SIGTERM.
                print("Stopped; what is trained is kept")
            raise


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """End the process with the message of our own errors, without a traceback and once on each machine."""
    try:
        yield
    except FadeError as error:
        text = masked("\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])]))
        sys.exit(text if os.environ.get("LOCAL_RANK", "0") == "0" else 1)


def go_to_caller() -> None:
    """Change to the folder of the process that called ``mlflow run``, where studies, checkpoints and data lie.

    MLflow starts a project in the project's folder, which is a temporary clone for a git URI.
    """
    if os.environ.pop("FADE_PROJECT", None) is None:  # set by the commands in MLproject
        return
    with contextlib.suppress(psutil.Error):
        caller = psutil.Process().parent()
        if caller is not None and os.path.basename(caller.cmdline()[0]) in ("bash", "sh"):  # MLproject's command
            caller = caller.parent()
        if caller is None:
            return
        words, folder = caller.cmdline(), caller.cwd()
        typed = next((i for i, word in enumerate(words) if os.path.basename(word) == "mlflow"), None)
        if typed is not None:
            os.environ[TYPED] = json.dumps(["mlflow", *words[typed + 1 :]])
        paths = [os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # so that processes started later can import the studies
        os.chdir(folder)


def check_launcher() -> None:
    """Check that ``accelerate launch`` has started all processes: without GPUs it starts only one.

    Raises:
        InvalidInputError: (a ``ValueError``) if it has started fewer than it was asked for.
    """
    parent = psutil.Process().parent()
    if "ACCELERATE_MIXED_PRECISION" not in os.environ or "WORLD_SIZE" in os.environ or parent is None:
        return
    with contextlib.suppress(psutil.Error):
        asked = re.search(r"--num_processes[= ](\d+)", " ".join(parent.cmdline()))
        if asked and int(asked[1]) > 1:
            raise InvalidInputError(
                f"expected {asked[1]} processes, as accelerate launch was asked for, got one: without as many GPUs it "
                f"starts no more. Use --processes {asked[1]} instead, or torchrun --nproc_per_node {asked[1]}"
            )


def launch(processes: int) -> int:
    """Run this command in several processes on this machine, as ``torchrun`` does, and return the exit code.

    If one of them dies, all are ended.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from fade_study.training.session import check_gpus

    if not check_gpus(processes):
        os.environ |= {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the main process reports errors itself
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "fade_study", "search", *sys.argv[1:])
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code  # the shell's exit code for a signal
    except SignalException as error:
        return 128 + error.sigval
    return 0


def further(command: str, **settings: Any) -> str:
    """Another command, for the user to type in the way in which this one was typed."""
    if typed := os.environ.get(TYPED):
        words = json.loads(typed)[:3]  # mlflow run URI
        return " ".join([*words, "-e", command, *(f"-P {name}={value}" for name, value in settings.items())])
    return " ".join(["fade", command, *(f"--{name} {value}" for name, value in settings.items())])


def again(study: str) -> str:
    """The command that continues a study."""
    if typed := os.environ.get(TYPED):
        words = _with_name(json.loads(typed), study)
        named = any(word.removeprefix("-P").startswith("study=") for word in words)
        return shlex.join(words if named else [*words, "-P", f"study={study}"])
    given = _with_name(sys.argv[1:], study)
    options = {word.split("=")[0] for word in given}
    together = os.environ.get("WORLD_SIZE", "1") != "1" and "--processes" not in options
    words = shlex.join([*given, *([] if "--study" in options else ["--study", study])])
    return f"{'torchrun … -m fade_study' if together else 'fade'} search {words}"


def _with_name(words: Sequence[str], study: str) -> list[str]:
    """Words of a command, with the name of the study where they say null, which would begin a new one."""
    named = []
    for before, word in zip(["", *words], words, strict=False):
        option, _, value = word.rpartition("=")
        if before == "--study" and word in NULL:
            named.append(study)
        elif option in ("--study", "study", "-Pstudy") and value in NULL:
            named.append(f"{option}={study}")
        else:
            named.append(word)
    return named
