"""The command ``fade``, which is also ``python -m fade_study``."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

COMMANDS = {
    "search": ("search", "SearchConfig"),
    "validate": ("validate_ranks", "ValidationConfig"),
    "compare": ("compare", "ComparisonConfig"),
    "evaluate": ("evaluate", "EvaluateConfig"),
    "train": ("train", "TrainConfig"),
    "analyze": ("analyze", "AnalyzeConfig"),
    "deliver": ("deliver", "DeliverConfig"),
    "benchmark": ("benchmark", "BenchmarkConfig"),
    "scale": ("scale", "ScaleConfig"),
}
"""By command: module of ``fade_study.studies``, whose function of this name is called, and class of its settings."""
STUDIES = Path(__file__).parent / "studies"


def main() -> None:
    """Run the command that the first argument names."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return
    if name not in COMMANDS:
        from fade_study.studies.options import meant

        hint = meant(name, COMMANDS) or " `fade --help` lists them"
        sys.exit(f"expected a command, one of {', '.join(COMMANDS)}, got {name!r};{hint}")
    from fade_study.studies import command, schemas

    sys.argv[1:] = arguments
    module, settings = COMMANDS[name]
    command.run_command(module, name, command.read_command(getattr(schemas, settings), name, _about(module)))


def _about(module: str) -> str:
    """The docstring of a module of studies, which is read and not imported, since that would take seconds."""
    return ast.get_docstring(ast.parse((STUDIES / f"{module}.py").read_text(encoding="utf-8"))) or ""


def _help() -> str:
    lines = ["usage: fade COMMAND [--preset NAME] [--setting value ...]", ""]
    lines += [f"  {command:10} {_about(module).splitlines()[0]}" for command, (module, _) in COMMANDS.items()]
    return "\n".join([*lines, "", "`fade COMMAND --help` lists the settings of a command, with its presets."])


if __name__ == "__main__":
    main()
