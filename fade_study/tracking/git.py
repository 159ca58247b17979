"""The state of the code, for the record."""

from __future__ import annotations

import functools
import os
import subprocess


@functools.cache
def commit() -> str:
    """Commit of the code, with ``-dirty`` if more than results has changed; ``unknown`` unless git tracks this file.

    It is that of the first call, since the files may change while a study runs, not least by its own results. The check
    matters for an installed package, whose environment may lie inside an unrelated repository.
    """
    folder, name = os.path.split(os.path.abspath(__file__))

    def git(*arguments: str) -> str:
        command = ["git", "-C", folder, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", name)
        head = git("describe", "--always", "--abbrev=40")
        # Results that grow while they are made, and that are committed later, do not change the code.
        code = (":/", ":(top,exclude)fade_study/benchmarks/*-*.jsonl")
        return f"{head}-dirty" if git("status", "--porcelain", "--untracked-files=no", "--", *code) else head
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
