"""The state of the code, for the record."""

from __future__ import annotations

import os
import subprocess


def commit() -> str:
    """Commit of the code, with ``-dirty`` if it has changed since; ``unknown`` unless git tracks this file.

    The check matters for an installed package, whose environment may lie inside an unrelated repository.
    """
    folder, name = os.path.split(os.path.abspath(__file__))

    def git(*arguments: str) -> str:
        command = ["git", "-C", folder, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", name)
        return git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
