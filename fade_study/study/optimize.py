"""The loop of ``FadeStudy.optimize``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import optuna

from fade_study.exceptions import InvalidInputError
from fade_study.generation import Batch

if TYPE_CHECKING:
    from fade_study.study.study import FadeStudy


class Loop:
    """Asks, evaluates and tells until it is stopped."""

    def __init__(self) -> None:
        self.stopped = False
        self._running = False

    def run(
        self,
        study: FadeStudy,
        evaluate: Callable[[Batch], Any],
        n_generations: int | None,
        timeout: float | None,
        callbacks: Iterable[Callable[[FadeStudy, Batch], None]] | None,
        catch: type[Exception] | Iterable[type[Exception]],
        show_progress_bar: bool,
    ) -> None:
        """As :meth:`fade_study.study.FadeStudy.optimize`."""
        from tqdm.auto import tqdm

        if self._running:
            raise RuntimeError("expected one optimize() at a time, got one inside another; call ask and tell instead")
        caught = tuple(catch) if isinstance(catch, Iterable) else catch
        called = list(callbacks or ())
        self._running, self.stopped = True, False
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        try:
            with tqdm(total=n_generations, disable=not show_progress_bar, unit="generation") as bar:
                done = 0
                while not self.stopped and (n_generations is None or done < n_generations):
                    if time.monotonic() >= deadline:
                        break
                    batch = study.open_batch or study.ask()
                    try:
                        result = evaluate(batch)
                    except Exception as error:
                        if study.open_batch is not None:
                            study.fail(batch)
                        if not isinstance(error, caught):
                            raise
                        optuna.logging.get_logger(__name__).warning(f"generation {batch.number} failed: {error!r}")
                    else:  # if the study refuses the result, the generation stays open, so that its training is kept
                        _tell(study, batch, result)
                    for callback in called:
                        callback(study, batch)
                    done += 1
                    bar.update()
        finally:
            self._running = False

    def stop(self) -> None:
        """As :meth:`fade_study.study.FadeStudy.stop`."""
        if not self._running:
            raise RuntimeError("expected stop() inside optimize(), got it outside; leave your own loop instead")
        self.stopped = True


def _tell(study: FadeStudy, batch: Batch, result: Any) -> None:
    try:
        study.tell(batch, *result) if isinstance(result, tuple) else study.tell(batch, result)
    except (InvalidInputError, TypeError) as error:
        if study.open_batch is not None and batch.is_same(study.open_batch):
            error.add_note(
                f"Generation {batch.number} is still open: tell(study.open_batch, ...) with what was trained, or "
                "optimize() to evaluate it again"
            )
        raise
