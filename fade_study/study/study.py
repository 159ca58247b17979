"""The study: ask for a hyper-architecture, tell its alphas.

One generation is one Optuna trial. Alphas are relative and so never a trial's value: a trial that has alphas alone ends
PRUNED, with the supernet's one-shot accuracy as its intermediate value.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import optuna
from numpy.typing import ArrayLike, NDArray
from optuna.trial import FrozenTrial, TrialState

from fade_study._optuna import id_of, storage_of
from fade_study.architecture import Architecture
from fade_study.arrays import to_number
from fade_study.cells import CellSpace
from fade_study.exceptions import InvalidInputError, OpenGenerationError
from fade_study.generation import ALPHA, DETAILS, Batch, Evaluation, OpenEvaluation, RowHistory, row_history
from fade_study.past import Past, identity_of, read_past
from fade_study.ranking import check_alpha
from fade_study.samplers import row_sampler
from fade_study.study.ownership import OpenTrial, claim, claim_evaluation
from fade_study.study.settings import plain_details
from fade_study.study.storage import retried
from fade_study.study.trials import Trials, details_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Evaluates", "FadeStudy"]

Evaluates = Literal["anchor", "best_ranked"]


class FadeStudy:
    """A search over chains of cells whose state lies in an Optuna study.

    Made by :func:`create_study` or :func:`load_study`.
    """

    def __init__(self, optuna_study: optuna.Study, space: CellSpace, settings: dict[str, Any]) -> None:
        self.optuna_study = optuna_study
        self.space = space
        self.depth: int = settings["depth"]
        self.evaluate: Evaluates = settings["evaluate"]
        """Which architecture of a generation its value is about."""
        self._trials = Trials(optuna_study, space, self.depth, self.evaluate)
        self._open: OpenTrial | None = None
        self._evaluating: dict[int, OpenTrial] = {}
        """By generation."""
        self._in_optimize = False
        self._stopped = False

    # --- ask and tell -----------------------------------------------------------------------------

    def ask(self) -> Batch:
        """The next hyper-architecture to train.

        After a crash the generation that was open is asked again: same anchors, same cells, same seed. Several
        processes may take turns on one study: a generation belongs to the process that asked it, as long as that lives.

        Raises:
            OpenGenerationError: (a ``RuntimeError``) while a generation is open in this object, or in another process.
            StorageError: (an ``OSError``) where the storage does not answer; call again when it is back.
        """
        if self._open is not None:
            number = self._open.asked.number
            raise OpenGenerationError(
                f"expected no open generation, but generation {number} is; study.tell(batch, alpha) it, "
                "or give it up with study.fail(batch)"
            )
        sampler = row_sampler(self.optuna_study)
        if sampler is not None:
            sampler.bind(self.space)

        def begin() -> OpenTrial:
            trial = claim(self.optuna_study)
            batch = self._trials.complete(trial)
            return OpenTrial(self.optuna_study, batch, f"generation {batch.number}", id_of(trial))

        self._open = retried(begin, self.optuna_study)
        return self._open.asked

    def tell(
        self,
        batch: Batch,
        alpha: ArrayLike,
        value: float | None = None,
        one_shot_accuracy: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Finish a generation.

        Args:
            batch: from :meth:`ask`.
            alpha: ``(d, w)``, after the softmax over columns.
            value: from-scratch accuracy of ``batch.architecture``, where it was trained. Never an alpha. A study that
                evaluates the best-ranked architecture takes it by :meth:`add_evaluation`.
            one_shot_accuracy: accuracy of the supernet, which Optuna keeps as the trial's intermediate value.
            details: whatever else to keep with the generation, as plain JSON values; :meth:`details` gives it back.

        Raises:
            InvalidInputError: (a ``ValueError``) for a batch that is not open, or that another process has taken over,
                and for alphas, numbers or details that are none; nothing is stored then.
            StorageError: (an ``OSError``) where the storage does not answer. The generation stays open: tell it again.
        """
        opened = self._opened(batch)
        array = check_alpha(alpha, batch.hyper_architecture.shape)
        if value is not None and self.evaluate == "best_ranked" and array.shape[1] > 1:
            raise InvalidInputError(
                "expected no value with the alphas, since this study evaluates the best-ranked architecture, which "
                f"they decide, got {value!r}; tell the alphas, then add_evaluation({batch.number}, value)"
            )
        value = None if value is None else _finite("value", value)
        one_shot_accuracy = None if one_shot_accuracy is None else _finite("one_shot_accuracy", one_shot_accuracy)
        attributes = {ALPHA: array.tolist(), DETAILS: plain_details(details)}
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        self._finish(opened, state, attributes, value, one_shot_accuracy)

    def fail(self, batch: Batch) -> None:
        """Give a generation up: the next ``ask`` repeats it with another seed.

        An outer search of ours proposes the same anchors again; Optuna's samplers draw new ones.

        Raises:
            InvalidInputError: (a ``ValueError``) for a batch that is not open, or that another process has taken over.
            StorageError: (an ``OSError``) where the storage does not answer. The generation stays open.
        """
        self._finish(self._opened(batch), TrialState.FAIL, {})

    # --- evaluations that come later than the alphas ----------------------------------------------

    def ask_evaluation(self, generations: Collection[int] | None = None) -> OpenEvaluation | None:
        """The first generation without a value that nobody evaluates, to train its architecture from scratch.

        So trainings from scratch may go on while the search does, and several processes may share them: an evaluation
        belongs to the process that asked it, as long as that lives, and so does its architecture, which other
        generations may have as well. (A second object in the same process would take it over.) It becomes a trial of
        its own, with the points of that architecture as its params, since Optuna's trials are final when told.

        Args:
            generations: none but these, among them the one that is open in this object, where anchors are evaluated;
                default all that were told.

        Returns:
            None where there is nothing to take: all have a value, or are evaluated, here or by another process. That
            may die: ask again as long as :meth:`evaluations` lacks one.

        Raises:
            StorageError: (an ``OSError``) where the storage does not answer; call again when it is back.
        """

        def begin() -> OpenTrial | None:
            past = read_past(self.optuna_study)
            trials = dict(enumerate(past.told))
            if generations is not None:
                opened = self._open if self.evaluate == "anchor" else None  # others are known by their alphas
                if opened is not None:
                    trials[opened.asked.number] = storage_of(self.optuna_study).get_trial(opened.trial_id)
                trials = {generation: trial for generation, trial in trials.items() if generation in generations}
            held = {opened.trial_id for opened in self._evaluating.values()}
            for generation in sorted(trials.keys() - past.values.keys() - self._evaluating.keys()):
                own, cells = self._trials.to_evaluate(trials[generation])
                trial = claim_evaluation(self.optuna_study, generation, own, cells, held)
                if trial is not None:
                    asked = OpenEvaluation(generation, trial.number, self._trials.architecture(trial))
                    name = f"the evaluation of generation {generation}"
                    return OpenTrial(self.optuna_study, asked, name, id_of(trial))
            return None

        opened = retried(begin, self.optuna_study)
        if opened is None:
            return None
        self._evaluating[opened.asked.generation] = opened
        return opened.asked

    def tell_evaluation(
        self, evaluation: OpenEvaluation, value: float, details: Mapping[str, Any] | None = None
    ) -> None:
        """Finish an evaluation, once its generation is told.

        Args:
            evaluation: from :meth:`ask_evaluation`.
            value: from-scratch accuracy of ``evaluation.architecture``.
            details: whatever else to keep with the evaluation, as plain JSON values.

        Raises:
            InvalidInputError: (a ``ValueError``) for an evaluation that is not open, that another process has taken
                over, or whose generation is not told, or has been told with a value; for a value or details that are
                none. Nothing is stored then.
            StorageError: (an ``OSError``) where the storage does not answer. The evaluation stays open: tell it again.
        """
        opened = self._evaluation(evaluation)
        value = _finite("value", value)
        kept = plain_details(details)
        told, number = self._past().told, evaluation.generation
        if number >= len(told) or self._trials.evaluated(told[number]) != evaluation.architecture:
            raise InvalidInputError(
                f"expected generation {number} to be told before its evaluation, got {len(told)} generations"
                f"{', that one with other anchors' if number < len(told) else ''}; tell it first, or fail_evaluation"
            )
        if told[number].state == TrialState.COMPLETE:
            raise InvalidInputError(
                f"expected generation {number} to have no value, but it was told with {told[number].value}; "
                "fail_evaluation gives this one back"
            )
        self._finish(opened, TrialState.COMPLETE, {DETAILS: kept}, value)

    def fail_evaluation(self, evaluation: OpenEvaluation) -> None:
        """Give an evaluation back: the next :meth:`ask_evaluation`, here or elsewhere, may take it.

        Raises:
            InvalidInputError: (a ``ValueError``) for one that is not open, or that another process has taken over.
            StorageError: (an ``OSError``) where the storage does not answer. The evaluation stays open.
        """
        self._finish(self._evaluation(evaluation), TrialState.FAIL, {})

    def add_evaluation(self, generation: int, value: float, details: Mapping[str, Any] | None = None) -> None:
        """Ask and tell the evaluation of a generation at once.

        Args:
            generation: that was told without a value.
            value: accuracy from scratch of the architecture that the study evaluates.
            details: as in :meth:`tell_evaluation`.

        Raises:
            InvalidInputError: (a ``ValueError``) for a generation that was not told, has a value, or is being evaluated
                by another process, and for a bad value.
            StorageError: (an ``OSError``) where the storage does not answer; call again when it is back.
        """
        value = _finite("value", value)
        plain_details(details)
        opened = self._evaluating.get(generation)
        was_told = generation in range(self.n_generations)
        evaluation = opened.asked if opened else self.ask_evaluation([generation] if was_told else [])
        if evaluation is None:
            past = self._past()
            raise InvalidInputError(
                f"expected a generation that was told without a value, and that no other process evaluates, got "
                f"{generation!r}; {len(past.told)} were told, {len(past.told) - len(past.values)} of them have none"
            )
        self.tell_evaluation(evaluation, value, details)

    def _evaluation(self, evaluation: OpenEvaluation) -> OpenTrial:
        """The open evaluation."""
        opened = self._evaluating.get(evaluation.generation)
        if opened is None or opened.asked != evaluation:
            raise InvalidInputError(
                f"expected an evaluation that is open, got that of generation {evaluation.generation} (trial "
                f"{evaluation.trial_number}), which was told or failed already, or belongs to another study; "
                "ask_evaluation() for the next one"
            )
        return opened

    # --- how a generation or an evaluation ends ---------------------------------------------------

    def _opened(self, batch: Batch) -> OpenTrial:
        """The open generation, if it is this batch's."""
        if self._open is None or not _same(self._open.asked, batch):
            raise InvalidInputError(
                f"expected the batch that is open, got generation {batch.number} (trial {batch.trial_number}), "
                "which was told or failed already, or belongs to another study; ask() for the next one"
            )
        return self._open

    def _finish(
        self, opened: OpenTrial, state: TrialState, attributes: Mapping[str, Any], *values: float | None
    ) -> None:
        try:
            self._stopped |= opened.finish(state, attributes, *values)
        finally:
            if opened.closed and opened is self._open:
                self._open = None
            elif opened.closed:
                del self._evaluating[opened.asked.generation]

    # --- the loop ---------------------------------------------------------------------------------

    def optimize(
        self,
        evaluate: Callable[[Batch], Any],
        n_generations: int | None = None,
        timeout: float | None = None,
        *,
        callbacks: Sequence[Callable[[FadeStudy, Batch], None]] = (),
        catch: type[Exception] | tuple[type[Exception], ...] | list[type[Exception]] = (),
        show_progress_bar: bool = False,
    ) -> None:
        """Ask, evaluate and tell, as ``optuna.Study.optimize`` does.

        Args:
            evaluate: from a batch to its alphas ``(d, w)``, or to ``(alpha, value)``, or to
                ``(alpha, value, one_shot_accuracy)``: what :meth:`tell` takes. Where it can't be taken, the generation
                stays open, for :meth:`tell` or the next ``optimize``.
            n_generations: how many more; None for no limit.
            timeout: seconds after which no generation is begun.
            callbacks: called with the study and the batch after each generation, told or failed.
            catch: exceptions of ``evaluate`` after which the search goes on. After any other the generation is failed
                and the exception raised. An interrupt, or a storage that does not answer, leaves the generation open:
                the next ``optimize``, or the next ``ask`` of a new process, goes on with it as it was.
            show_progress_bar: tqdm's.
        """
        if self._in_optimize:
            raise RuntimeError("expected one optimize() at a time, got one inside another; call ask and tell instead")
        caught = tuple(catch) if isinstance(catch, list) else catch
        self._in_optimize, self._stopped = True, False
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        try:
            with _progress_bar(n_generations, show_progress_bar) as bar:
                done = 0
                while not self._stopped and (n_generations is None or done < n_generations):
                    if time.monotonic() >= deadline:
                        break
                    batch = self._open.asked if self._open else self.ask()
                    try:
                        result = evaluate(batch)
                    except Exception as error:
                        if self._open is not None:
                            self.fail(batch)
                        if not isinstance(error, caught):
                            raise
                        optuna.logging.get_logger(__name__).warning(f"generation {batch.number} failed: {error!r}")
                    else:  # what was trained is worth more than a slip in what is told of it: never failed
                        self._tell_result(batch, result)
                    for callback in callbacks:
                        callback(self, batch)
                    done += 1
                    bar.update()
        finally:
            self._in_optimize = False

    def _tell_result(self, batch: Batch, result: Any) -> None:
        """What ``evaluate`` has returned; an error says that the generation stays open."""
        try:
            self.tell(batch, *result) if isinstance(result, tuple) else self.tell(batch, result)
        except (InvalidInputError, TypeError) as error:
            if self._open is not None and _same(self._open.asked, batch):
                error.add_note(
                    f"Generation {batch.number} is still open: tell(study.open_batch, ...) with what was trained, or "
                    "optimize() to evaluate it again"
                )
            raise

    def stop(self) -> None:
        """End :meth:`optimize` after the generation in hand; for callbacks and ``evaluate``."""
        if not self._in_optimize:
            raise RuntimeError("expected stop() inside optimize(), got it outside; leave your own loop instead")
        self._stopped = True

    # --- where the search stands; a StorageError where the storage does not answer -----------------

    @property
    def n_generations(self) -> int:
        """Number T of generations that were told."""
        return len(self._past().told)

    def trajectory(self) -> NDArray[np.float64]:
        """Anchors of all generations that were told, ``(T, d, f)``."""
        trials = self._past().told
        return np.array([self._trials.anchors(trial) for trial in trials]).reshape(
            -1, self.depth, len(self.space.features)
        )

    def history(self, row: int) -> RowHistory:
        """What a row has seen so far: points, cells and alphas of each generation that was told."""
        return row_history(self._past().told, row, tuple(self.space.features))

    @property
    def identity(self) -> str:
        """What tells this study from all others, made once and kept in its storage."""
        return str(retried(lambda: identity_of(self.optuna_study), self.optuna_study))

    @property
    def open_batch(self) -> Batch | None:
        """The batch that was asked in this object, and neither told nor failed yet; None where there is none."""
        return self._open.asked if self._open else None

    @property
    def anchors(self) -> NDArray[np.float64]:
        """Anchors of the newest generation, asked here or told, ``(d, f)``."""
        return self._open.asked.anchors if self._open else self._trials.anchors(self._newest())

    @property
    def architecture(self) -> Architecture:
        """The anchors' cells in the newest generation, asked here or told."""
        return self._open.asked.architecture if self._open else self._trials.architecture(self._newest())

    def architectures(self) -> list[Architecture]:
        """The anchors' cells in all generations that were told, T of them."""
        return [self._trials.architecture(trial) for trial in self._past().told]

    def evaluated_architectures(self) -> list[Architecture]:
        """What the study evaluates of each generation that was told, T of them: the anchor's, or the best-ranked."""
        return [self._trials.evaluated(trial) for trial in self._past().told]

    @property
    def best_architecture(self) -> Architecture:
        """Architecture with the best from-scratch accuracy told, among those that this study asked for.

        Raises:
            ValueError: as with Optuna's ``best_trial``, where no generation has a value.
        """
        evaluations = self.evaluations()
        if not evaluations:
            raise InvalidInputError(
                f"expected a generation with a from-scratch accuracy, got none in {self.n_generations} generations; "
                "tell a value, or add_evaluation(generation, value)"
            )
        return max(evaluations, key=lambda evaluation: evaluation.value).architecture

    def evaluations(self, known: Collection[int] = ()) -> list[Evaluation]:
        """From-scratch evaluations, by generation.

        Args:
            known: generations to leave out; a loop that looks for new ones then costs no more with every generation.
        """
        values = self._past().values
        return [
            Evaluation(generation, self._trials.architecture(trial), value, details_of(trial))
            for generation in sorted(values.keys() - known)
            if (value := (trial := values[generation]).value) is not None
        ]

    def batch(self, generation: int) -> Batch:
        """What was asked in a generation that was told.

        Raises:
            InvalidInputError: (a ``ValueError``) for another one.
        """
        trial = self._told_trial(generation)
        return retried(lambda: self._trials.batch(generation, trial), self.optuna_study)

    def details(self, generation: int) -> dict[str, Any]:
        """What was kept with a generation when it was told; empty where nothing was.

        Raises:
            InvalidInputError: (a ``ValueError``) for a generation that was not told.
        """
        return details_of(self._told_trial(generation))

    def _told_trial(self, generation: int) -> FrozenTrial:
        told = self._past().told
        if generation not in range(len(told)):
            raise InvalidInputError(
                f"expected a generation that was told, got {generation!r}; {len(told)} were told, counted from 0"
            )
        return told[generation]

    def trials_dataframe(self, **kwargs: Any) -> pd.DataFrame:
        """One line per trial, as ``optuna.Study.trials_dataframe``."""
        return self.optuna_study.trials_dataframe(**kwargs)

    def _past(self) -> Past:
        return retried(lambda: read_past(self.optuna_study), self.optuna_study)

    def _newest(self) -> FrozenTrial:
        told = self._past().told
        if not told:
            raise InvalidInputError("expected one or more generations, got none; ask() and tell() first")
        return told[-1]


def _finite(name: str, value: Any) -> float:
    number = to_number(value)
    if number is None:
        raise InvalidInputError(f"expected a finite {name}, got {value!r}; leave it out where there is none")
    return number


def _same(one: Batch, other: Batch) -> bool:
    """Whether two batches ask for the same, also where one of them went through a pickle."""
    return (one.trial_number, one.seed) == (other.trial_number, other.seed) and np.array_equal(one.points, other.points)


def _progress_bar(total: int | None, show: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, disable=not show, unit="generation")
