"""The state of the code, for the record."""

from __future__ import annotations

import functools
import os
import subprocess


@functools.cache
def commit() -> str:
    """Commit of the code, with ``-dirty`` if it has changed since; ``unknown`` unless git tracks this file.

    It is that of the first call, since the files may change while a study runs, not least by its own results. The check
    matters for an installed package, whose environment may lie inside an unrelated repository.
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
