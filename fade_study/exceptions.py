"""The errors of fade_study, which share one root and are also of the built-in type that a caller would expect.

Every message says what was expected, what it got instead, and what to do. Nothing is stored before an error is raised.
"""

from collections.abc import Sequence


class FadeError(Exception):
    """Root of all errors that fade_study raises on purpose."""


class InvalidInputError(FadeError, ValueError):
    """An argument has the wrong shape, range or type."""


class DataError(FadeError, ValueError):
    """A data set is missing or cannot be used."""


class StorageError(FadeError, OSError):
    """A study's storage, a tracking server or a disk does not accept data."""


class DivergedError(FadeError, FloatingPointError):
    """A loss or gradient of a training became NaN or infinite."""


class OpenGenerationError(FadeError, RuntimeError):
    """``ask`` was called while a generation is open, here or in another process; ``tell`` or ``fail`` it first."""


class WorkerDiedError(FadeError, RuntimeError):
    """A worker process was killed or its GPU ran out of memory, and so it was where its task was retried."""


class ClusterError(FadeError, ConnectionError):
    """Workers cannot be reached, on a Dask cluster or here, or one of them would give different results."""


class ConfigError(FadeError, ValueError):
    """A configuration has problems, which are all listed.

    Args:
        problems: One sentence for each problem.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(f"{count} in the configuration:\n" + "\n".join(f"  - {problem}" for problem in self.problems))
