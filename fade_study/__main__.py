"""The command ``fade``, which is also ``python -m fade_study``."""

from __future__ import annotations

import ast
import difflib
import runpy
import sys
from pathlib import Path

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "search": "search",
    "validate": "validate_ranks",
    "compare": "compare",
    "evaluate": "evaluate",
    "train": "train",
    "analyze": "analyze",
    "deliver": "deliver",
    "benchmark": "benchmark",
    "scale": "scale",
}
"""Modules of ``fade_study.studies`` by command."""
STUDIES = Path(__file__).parent / "studies"


def main() -> None:
    """Run the command that the first argument names, as ``python -m`` would run its module."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"did you mean {close[0]}?" if close else "`fade --help` lists them"
        sys.exit(f"expected a command, one of {', '.join(COMMANDS)}, got {name!r}; {meant}")
    sys.argv[1:] = arguments
    runpy.run_module(f"fade_study.studies.{COMMANDS[name]}", run_name="__main__", alter_sys=True)


def _help() -> str:
    lines = ["usage: fade COMMAND [--preset NAME] [--setting value ...]", ""]
    for command, module in COMMANDS.items():
        # The module is read and not imported, which would take seconds.
        code = (STUDIES / f"{module}.py").read_text(encoding="utf-8")
        lines.append(f"  {command:10} {(ast.get_docstring(ast.parse(code)) or '').splitlines()[0]}")
    return "\n".join([*lines, "", "`fade COMMAND --help` lists the settings of a command, with its presets."])


if __name__ == "__main__":
    main()
