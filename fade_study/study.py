"""The study: ask for a hyper-architecture, tell its alphas (DESIGN in one picture: README, "How it works").

One generation is one Optuna trial. Its params are the d·f anchor coordinates and its value, where there is one, is the
from-scratch accuracy of the anchor architecture. Alphas are relative and never a value: a trial that has alphas alone
ends PRUNED, with the supernet's one-shot accuracy as its intermediate value.
"""

from __future__ import annotations

import copy
import json
import math
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import optuna
from numpy.typing import ArrayLike, NDArray
from optuna.trial import FrozenTrial, TrialState

from fade_study import samplers
from fade_study.architecture import Architecture, HyperArchitecture
from fade_study.arrays import to_integer
from fade_study.cells import Cell, CellSpace
from fade_study.exceptions import InvalidInputError, OpenGenerationError
from fade_study.past import ALPHA, GENERATION, IDENTITY, Past, identity_of, read_past
from fade_study.ranking import check_alpha, top_k
from fade_study.samplers._base import (
    CELLS,
    POINTS,
    STUDY,
    RowHistory,
    RowSampler,
    anchor_names,
    row_history,
    row_sampler,
)
from fade_study.settings import check_same, describe_sampler, describe_space, plain
from fade_study.storage import (
    Beat,
    claim,
    claim_evaluation,
    is_mine,
    open_storage,
    owner_name,
    retried,
    retried_on,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Batch",
    "CellTrial",
    "Evaluation",
    "FadeStudy",
    "OpenEvaluation",
    "create_study",
    "delete_study",
    "load_study",
]

Evaluates = Literal["anchor", "best_ranked"]
DETAILS = "fade:details"
"""Attribute of a trial: what the caller wants to be kept with it."""


@dataclass(frozen=True, slots=True, eq=False)
class CellTrial:
    """One candidate cell of a row, and the point for which it stands."""

    row: int
    column: int
    point: NDArray[np.float64]
    """``(f,)``."""
    cell: Cell


class Evaluation(NamedTuple):
    """A from-scratch accuracy of an architecture of a generation."""

    generation: int
    architecture: Architecture
    value: float
    details: dict[str, Any] = {}  # noqa: RUF012 - evaluations() gives each its own
    """As told with the value."""


@dataclass(frozen=True, slots=True)
class OpenEvaluation:
    """What a study asks for: an architecture whose from-scratch accuracy it wants to be told."""

    generation: int
    trial_number: int
    """Number of the Optuna trial."""
    architecture: Architecture
    """The generation's anchor architecture, or its best-ranked one: what the study evaluates."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What a study asks for: one hyper-architecture whose alphas it wants to be told."""

    number: int
    """Generation, from 0."""
    trial_number: int
    """Number of the Optuna trial."""
    seed: int
    """For the training; the same where the same generation is asked again after a crash, another after a ``fail``."""
    trials: tuple[tuple[CellTrial, ...], ...]
    """d rows of w."""

    @cached_property
    def points(self) -> NDArray[np.float64]:
        """``(d, w, f)``."""
        return np.array([[trial.point for trial in row] for row in self.trials])

    @property
    def anchors(self) -> NDArray[np.float64]:
        """``(d, f)``."""
        return self.points[:, 0]

    @cached_property
    def hyper_architecture(self) -> HyperArchitecture:
        """Its rows hold the cells of all neighborhoods."""
        return HyperArchitecture(tuple(tuple(trial.cell for trial in row) for row in self.trials))

    @property
    def architecture(self) -> Architecture:
        """The anchors' cells."""
        return self.hyper_architecture.architecture([0] * len(self.trials))


@dataclass(slots=True)
class _Open:
    """A generation, or an evaluation, that is open in this object."""

    asked: Any
    """The batch or the evaluation."""
    name: str
    """In messages."""
    trial_id: int
    beat: Beat
    tried: bool = False
    """Whether to finish it was tried: the storage may have done so, though its answer was lost."""


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
        self._names = anchor_names(self.depth, space.features)
        self._cells = {cell.key: cell for cell in space}
        self._open: _Open | None = None
        self._evaluating: dict[int, _Open] = {}
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

        def begin() -> _Open:
            trial = claim(self.optuna_study)
            batch = self._complete(trial)
            return _Open(batch, f"generation {batch.number}", trial._trial_id, Beat(trial.storage, trial._trial_id))

        self._open = retried(begin, self.optuna_study)
        return self._open.asked

    def _complete(self, trial: optuna.Trial) -> Batch:
        """The batch of a trial; draws and stores what the storage doesn't hold yet."""
        past = read_past(self.optuna_study)
        generation = len(past.told)
        # Not kept in this object: of two processes that create a study at the same moment, the last draws the seed.
        seed = self.optuna_study.user_attrs[STUDY]["seed"]
        anchors = [[trial.suggest_float(name, 0.0, 1.0) for name in row] for row in self._names]
        # From the storage, since the trial does not notice what its sampler writes; a copy, as memory gives its own.
        stored = dict(trial.storage.get_trial_user_attrs(trial._trial_id))
        sampler = row_sampler(self.optuna_study)
        if POINTS not in stored and sampler is not None:  # all coordinates are fixed, so Optuna has not asked it
            stored[POINTS] = sampler.neighborhoods(self.optuna_study).tolist()
        points = np.array(stored.get(POINTS, [[anchor] for anchor in anchors]))  # (d, w, f); w = 1 with Optuna's own
        if CELLS not in stored and sampler is not None and not np.array_equal(points[:, 0], anchors):
            points = np.stack([sampler.surround(np.array(a), row) for a, row in zip(anchors, points, strict=True)])
            points[:, 0] = anchors  # to the last bit: there is one truth about an anchor
        if CELLS not in stored:
            trial.set_user_attr(POINTS, points.tolist())
            rngs = [np.random.default_rng([seed, row, generation, 1]) for row in range(self.depth)]
            stored[CELLS] = [
                [self.space.nearest(point, rng).key for point in row] for row, rng in zip(points, rngs, strict=True)
            ]
            trial.set_user_attr(GENERATION, generation)
            trial.set_user_attr(CELLS, stored[CELLS])
        return self._batch(generation, trial.number, points, stored[CELLS], seed, past)

    def _batch(
        self,
        generation: int,
        trial_number: int,
        points: NDArray[np.float64],
        cells: list[list[str]],
        seed: int,
        past: Past,
    ) -> Batch:
        """A batch of points ``(d, w, f)`` and keys of cells ``(d, w)``, by the study's seed."""
        # A trial that another process was faster to begin failed, too, but before it got a generation.
        attempt = past.failures[generation]
        return Batch(
            number=generation,
            trial_number=trial_number,
            seed=int(np.random.SeedSequence([seed, generation, attempt, 2]).generate_state(1)[0]),
            trials=tuple(
                tuple(
                    CellTrial(row, column, _read_only(points[row, column]), self._cells[key])
                    for column, key in enumerate(keys)
                )
                for row, keys in enumerate(cells)
            ),
        )

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
        value = None if value is None else _number("value", value)
        one_shot_accuracy = None if one_shot_accuracy is None else _number("one_shot_accuracy", one_shot_accuracy)
        attributes = {ALPHA: array.tolist(), DETAILS: _plain_details(details)}
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

        def begin() -> _Open | None:
            past = read_past(self.optuna_study)
            trials = dict(enumerate(past.told))
            if generations is not None:
                opened = self._open if self.evaluate == "anchor" else None  # others are known by their alphas
                if opened is not None:
                    trials[opened.asked.number] = self.optuna_study._storage.get_trial(opened.trial_id)
                trials = {generation: trial for generation, trial in trials.items() if generation in generations}
            held = {opened.trial_id for opened in self._evaluating.values()}
            for generation in sorted(trials.keys() - past.values.keys() - self._evaluating.keys()):
                own, cells = self._to_evaluate(trials[generation])
                trial = claim_evaluation(self.optuna_study, generation, own, cells, held)
                if trial is not None:
                    asked = OpenEvaluation(generation, trial.number, self._architecture(trial))
                    beat = Beat(self.optuna_study._storage, trial._trial_id)
                    return _Open(asked, f"the evaluation of generation {generation}", trial._trial_id, beat)
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
        value = _number("value", value)
        kept = _plain_details(details)
        told, number = self._past().told, evaluation.generation
        wanted = self._to_evaluate(told[number])[1] if number < len(told) else []
        if wanted != [cell.key for cell in evaluation.architecture]:
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
            value: its from-scratch accuracy.
            details: as in :meth:`tell_evaluation`.

        Raises:
            InvalidInputError: (a ``ValueError``) for a generation that was not told, has a value, or is evaluated by
                another process, or a bad value.
            StorageError: (an ``OSError``) where the storage does not answer; call again when it is back.
        """
        value = _number("value", value)
        _plain_details(details)
        opened = self._evaluating.get(generation)
        was_told = generation in range(len(self._past().told))
        evaluation = opened.asked if opened else self.ask_evaluation([generation] if was_told else [])
        if evaluation is None:
            past = self._past()
            raise InvalidInputError(
                f"expected a generation that was told without a value, and that no other process evaluates, got "
                f"{generation!r}; {len(past.told)} were told, {len(past.told) - len(past.values)} of them have none"
            )
        self.tell_evaluation(evaluation, value, details)

    def _to_evaluate(self, trial: FrozenTrial) -> tuple[FrozenTrial, list[str]]:
        """What is evaluated of a generation: its cells, and the trial with the params of their points."""
        rows = trial.user_attrs[CELLS]
        path = [0] * self.depth
        if self.evaluate == "best_ranked":
            path = top_k(trial.user_attrs[ALPHA], 1)[0][0].tolist()
        points = [row[column] for row, column in zip(trial.user_attrs[POINTS], path, strict=True)]
        own = copy.copy(trial)
        own.params = {
            name: value
            for names, point in zip(self._names, points, strict=True)
            for name, value in zip(names, point, strict=True)
        }
        return own, [row[column] for row, column in zip(rows, path, strict=True)]

    def _evaluation(self, evaluation: OpenEvaluation) -> _Open:
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

    def _opened(self, batch: Batch) -> _Open:
        """The open generation, if it is this batch's."""
        if self._open is None or not _same(self._open.asked, batch):
            raise InvalidInputError(
                f"expected the batch that is open, got generation {batch.number} (trial {batch.trial_number}), "
                "which was told or failed already, or belongs to another study; ask() for the next one"
            )
        return self._open

    def _finish(
        self,
        opened: _Open,
        state: TrialState,
        attributes: dict[str, Any],
        value: float | None = None,
        one_shot_accuracy: float | None = None,
    ) -> None:
        """Store how it ends. The state comes last and closes it, so nothing is ever half told."""
        storage, trial_id = self.optuna_study._storage, opened.trial_id

        def store() -> None:
            stored = storage.get_trial(trial_id)
            missing = {name: x for name, x in attributes.items() if stored.user_attrs.get(name, {}) != x}
            if opened.tried and is_mine(stored) and stored.state == state and not missing:
                return  # an attempt before, whose answer was lost
            self._check_open(stored, opened)
            opened.tried = True
            try:
                for name, x in missing.items():
                    storage.set_trial_user_attr(trial_id, name, x)
                if one_shot_accuracy is not None:
                    storage.set_trial_intermediate_value(trial_id, 0, one_shot_accuracy)
                if opened is self._open:
                    self.optuna_study.tell(stored.number, value, state)
                else:  # of which its sampler need not hear before it reads the history
                    storage.set_trial_state_values(trial_id, state, None if value is None else [value])
            except (optuna.exceptions.UpdateFinishedTrialError, ValueError):  # Optuna's, of a trial that has ended
                self._check_open(storage.get_trial(trial_id), opened)  # by another process, a moment ago
                raise
            except RuntimeError as error:  # of a sampler's hook, which Optuna calls once all is stored
                if storage.get_trial(trial_id).state != state:
                    raise
                self._stopped = True  # as GridSampler asks for, once its grid is exhausted
                warnings.warn(f"{opened.name} is told; then its sampler raised {error!r}", stacklevel=2)

        retried(store, self.optuna_study)
        self._close(opened)

    def _check_open(self, stored: FrozenTrial, opened: _Open) -> None:
        """Raise unless a trial in the storage is this process's still."""
        if stored.state.is_finished():
            self._close(opened)
            raise InvalidInputError(
                f"expected {opened.name} to be open, but another session has finished it; ask for another"
            )
        if not is_mine(stored):
            self._close(opened)
            raise InvalidInputError(
                f"expected {opened.name} to be this process's, but {owner_name(stored)} has taken it over; "
                "ask for another"
            )

    def _close(self, opened: _Open) -> None:
        opened.beat.stop()
        if opened is self._open:
            self._open = None
        else:
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
        return np.array([self._anchors(trial) for trial in trials]).reshape(-1, self.depth, len(self.space.features))

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
        return self._open.asked.anchors if self._open else self._anchors(self._newest())

    @property
    def architecture(self) -> Architecture:
        """The anchors' cells in the newest generation, asked here or told."""
        return self._open.asked.architecture if self._open else self._architecture(self._newest())

    def architectures(self) -> list[Architecture]:
        """The anchors' cells in all generations that were told, T of them."""
        return [self._architecture(trial) for trial in self._past().told]

    def evaluated_architectures(self) -> list[Architecture]:
        """What the study evaluates of each generation that was told, T of them: the anchor's, or the best-ranked."""
        cells = [self._to_evaluate(trial)[1] for trial in self._past().told]
        return [Architecture(tuple(self._cells[key] for key in keys)) for keys in cells]

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
            Evaluation(generation, self._architecture(trial), value, _details(trial))
            for generation in sorted(values.keys() - known)
            if (value := (trial := values[generation]).value) is not None
        ]

    def batch(self, generation: int) -> Batch:
        """What was asked in a generation that was told.

        Raises:
            InvalidInputError: (a ``ValueError``) for another one.
        """
        trial = self._told_trial(generation)
        seed = retried(lambda: self.optuna_study.user_attrs[STUDY]["seed"], self.optuna_study)
        points, cells = np.array(trial.user_attrs[POINTS]), trial.user_attrs[CELLS]
        return self._batch(generation, trial.number, points, cells, seed, self._past())

    def details(self, generation: int) -> dict[str, Any]:
        """What was kept with a generation when it was told; empty where nothing was.

        Raises:
            InvalidInputError: (a ``ValueError``) for a generation that was not told.
        """
        return _details(self._told_trial(generation))

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

    def _anchors(self, trial: FrozenTrial) -> NDArray[np.float64]:
        return np.array([[trial.params[name] for name in row] for row in self._names])

    def _architecture(self, trial: FrozenTrial) -> Architecture:
        return Architecture(tuple(self._cells[row[0]] for row in trial.user_attrs[CELLS]))


# --- making and finding studies -------------------------------------------------------------------


def create_study(
    *,
    space: CellSpace,
    depth: int,
    sampler: optuna.samplers.BaseSampler | None = None,
    study_name: str | None = None,
    storage: str | optuna.storages.BaseStorage | None = None,
    load_if_exists: bool = False,
    seed: int | None = None,
    evaluate: Evaluates = "anchor",
    conditions: Mapping[str, Any] | None = None,
) -> FadeStudy:
    """A new study, or with ``load_if_exists`` the one of that name.

    Args:
        space: the cells and their features.
        depth: number of rows d, 1 or more.
        sampler: an outer search of ours, or any sampler of Optuna's; default :class:`PseudoGradientSampler`.
        study_name: generated by Optuna where None.
        storage: an Optuna storage or its URL; None keeps the study in memory.
        load_if_exists: continue a study of this name; its space, depth and sampler settings must be the same.
        seed: root of the batches' seeds and of ties between cells; default the sampler's seed, else a fresh one.
        evaluate: which architecture of a generation its value is about: the ``anchor``'s (the paper's), or the
            ``best_ranked`` of all its hyper-architecture holds.
        conditions: whatever else must stay the same for the study's values to be comparable, such as the data's digest
            and the training's settings, as plain values; compared when the study is continued.

    Raises:
        InvalidInputError: (a ``ValueError``) for a bad depth, or a study that exists with other settings.
        optuna.exceptions.DuplicatedStudyError: where it exists, without ``load_if_exists``.
        StorageError: (an ``OSError``) where the storage can't be opened.
    """
    rows = to_integer(depth)
    if rows is None or rows < 1:
        raise InvalidInputError(f"expected a depth of 1 or more, got {depth!r}; it is the number of cells in a chain")
    if evaluate not in get_args(Evaluates):
        raise InvalidInputError(f"expected evaluate to be one of {', '.join(get_args(Evaluates))}, got {evaluate!r}")
    sampler = samplers.PseudoGradientSampler(seed=seed) if sampler is None else sampler
    settings = plain(
        {
            "space": describe_space(space),
            "depth": rows,
            "sampler": describe_sampler(sampler),
            "seed": _first(seed, getattr(sampler, "seed", None)),
            "evaluate": evaluate,
            "conditions": conditions or {},
        }
    )
    opened = open_storage(storage)

    def create() -> FadeStudy:
        optuna_study = optuna.create_study(
            study_name=study_name,
            storage=opened,
            sampler=sampler,
            direction="maximize",
            load_if_exists=load_if_exists,
        )
        # Trials first: a process that creates the same study at the same moment writes its settings before any trial.
        others = optuna_study.get_trials(deepcopy=False)
        stored = optuna_study.user_attrs.get(STUDY)
        if stored is None:
            if others or optuna_study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
                raise InvalidInputError(
                    f"expected a study of fade_study, got {study_name!r}, another one; choose a name"
                )
            stored = settings | {"seed": _first(settings["seed"], np.random.SeedSequence().generate_state(1).item())}
            optuna_study.set_user_attr(IDENTITY, uuid.uuid4().hex)
            optuna_study.set_user_attr(STUDY, stored)
        check_same(stored, settings, optuna_study.study_name)
        return FadeStudy(optuna_study, space, stored)

    return retried_on(opened, study_name, create)


def load_study(
    *,
    study_name: str,
    storage: str | optuna.storages.BaseStorage,
    space: CellSpace,
    sampler: optuna.samplers.BaseSampler | None = None,
    conditions: Mapping[str, Any] | None = None,
) -> FadeStudy:
    """A study that exists, to go on with it.

    Args:
        study_name: its name.
        storage: an Optuna storage or its URL.
        space: the space it was created with.
        sampler: the outer search it was created with; None rebuilds one of ours from the stored settings.
        conditions: as in :func:`create_study`; None, to look at a study, compares none.

    Raises:
        KeyError: where there is no such study.
        InvalidInputError: (a ``ValueError``) where it has another space or sampler settings.
        StorageError: (an ``OSError``) where the storage can't be opened.
    """
    opened = open_storage(storage)

    def load() -> tuple[optuna.Study, Any]:
        try:
            optuna_study = optuna.load_study(study_name=study_name, storage=opened, sampler=sampler)
        except KeyError:
            there = sorted(optuna.get_all_study_names(opened))
            raise KeyError(f"expected a study that exists, got {study_name!r}; there are {there}") from None
        return optuna_study, optuna_study.user_attrs.get(STUDY)

    optuna_study, stored = retried_on(opened, study_name, load)
    if stored is None:
        raise InvalidInputError(f"expected a study of fade_study, got {study_name!r}, another one; choose its name")
    if sampler is None:
        sampler = _rebuild_sampler(stored["sampler"])
        optuna_study.sampler = sampler
    settings = stored | plain({"space": describe_space(space), "sampler": describe_sampler(sampler)})
    if conditions is not None:
        settings["conditions"] = plain(conditions)
    check_same(stored, settings, study_name)
    return FadeStudy(optuna_study, space, stored)


def delete_study(*, study_name: str, storage: str | optuna.storages.BaseStorage) -> None:
    """Delete a study and all its trials; a ``KeyError`` where there is none."""
    optuna.delete_study(study_name=study_name, storage=open_storage(storage))


def _number(name: str, number: Any) -> float:
    """A finite number, of whatever type: Python's, NumPy's, or a tensor of one element."""
    try:
        value = math.nan if isinstance(number, str | bytes | bool) else float(number)
    except (TypeError, ValueError, RuntimeError):
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInputError(f"expected a finite {name}, got {number!r}; leave it out where there is none")
    return value


def _plain_details(details: Mapping[str, Any] | None) -> dict[str, Any]:
    """Details as a storage gives them back, or an ``InvalidInputError``."""
    try:
        kept = plain(dict(details or {}))
        json.dumps(kept, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"expected details as a mapping of plain JSON values, got {details!r}: {error}; "
            "leave out what can't be stored, and numbers that are not finite"
        ) from error
    return kept


def _details(trial: FrozenTrial) -> dict[str, Any]:
    return copy.deepcopy(trial.user_attrs.get(DETAILS, {}))


def _rebuild_sampler(settings: dict[str, Any]) -> RowSampler:
    arguments = dict(settings)
    name = arguments.pop("type")
    if name not in samplers.__all__:
        raise InvalidInputError(f"expected the sampler of this study, got None; pass your {name}(...)")
    return getattr(samplers, name)(**arguments)


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _same(one: Batch, other: Batch) -> bool:
    """Whether two batches ask for the same, also where one of them went through a pickle."""
    return (one.trial_number, one.seed) == (other.trial_number, other.seed) and np.array_equal(one.points, other.points)


def _read_only(array: NDArray[np.float64]) -> NDArray[np.float64]:
    array = array.copy()
    array.setflags(write=False)
    return array


def _progress_bar(total: int | None, show: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, disable=not show, unit="generation")
