"""The study: ask for a hyper-architecture, tell its alphas.

One generation is one Optuna trial. Alphas are relative, so they are never a trial's value: a trial that has alphas only
ends PRUNED, with the supernet's one-shot accuracy as its intermediate value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from html import escape
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
from fade_study.study.optimize import Loop
from fade_study.study.ownership import OpenTrial, claim, claim_evaluation
from fade_study.study.settings import plain_details
from fade_study.study.storage import retried
from fade_study.study.trials import Generation, Trials, details_of

if TYPE_CHECKING:
    import pandas as pd

Evaluates = Literal["anchor", "best_ranked"]


class FadeStudy:
    """A search over chains of cells whose state lies in an Optuna study.

    Made by :func:`create_study` or :func:`load_study`. Every method and property that reads the storage raises a
    ``StorageError`` (an ``OSError``) where the storage does not answer; nothing is lost then, so call it again. Use an
    object in one thread at a time; other processes can load the study and share its evaluations.
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
        """Evaluations that this object has open, by generation."""
        self._loop = Loop()

    def __repr__(self) -> str:
        return f"FadeStudy({self.optuna_study.study_name!r}, depth={self.depth}, sampler={self.optuna_study.sampler!r})"

    def _repr_html_(self) -> str:
        """Where the search stands, as a table for Jupyter."""
        told, best = self.n_generations, self.best_evaluation
        facts = {"generations told": str(told)}
        if best is not None:
            facts[f"best architecture, {best.value:.4g} in generation {best.generation}"] = (
                best.architecture._repr_svg_()
            )
        for i, anchor in enumerate(self.anchors if told or self._open else ()):
            pairs = zip(self.space.features, anchor, strict=True)
            facts[f"anchor of row {i}"] = escape(", ".join(f"{name} {value:.2f}" for name, value in pairs))
        rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in facts.items())
        return f"<table><caption>Study {escape(self.optuna_study.study_name)}</caption>{rows}</table>"

    # --- ask and tell -----------------------------------------------------------------------------

    def ask(self) -> Batch:
        """The next hyper-architecture to train.

        After a crash, the generation that was open is asked again: same anchors, same cells, same seed. Several
        processes may take turns on one study: a generation belongs to the process that asked it while that is alive.

        Raises:
            OpenGenerationError: (a ``RuntimeError``) while a generation is open in this object or in another process.
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

    def generations(self, n_generations: int) -> Iterator[Batch]:
        """Batches until the study has so many generations; for a loop that tells or fails each of them.

        The first one is asked at once, before the loop begins. A batch that was failed comes again with another seed.

        Args:
            n_generations: number of generations that the study has at the end, earlier ones included.

        Raises:
            OpenGenerationError: (a ``RuntimeError``) as in :meth:`ask`.
        """
        first = self.ask() if self.n_generations < n_generations else None

        def batches() -> Iterator[Batch]:
            if first is not None:
                yield first
            while self.n_generations < n_generations:
                yield self.ask()

        return batches()

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
            batch: The batch from :meth:`ask`.
            alpha: Alphas ``(d, w)``, after the softmax over columns.
            value: Accuracy from scratch of ``batch.architecture``, where it was trained; never an alpha. A study that
                evaluates the best-ranked architecture takes it by :meth:`add_evaluation`.
            one_shot_accuracy: Accuracy of the supernet, which Optuna keeps as the trial's intermediate value.
            details: Anything else to keep with the generation, as plain JSON values; see :meth:`generation`.

        Raises:
            InvalidInputError: (a ``ValueError``) for a batch that is not open or that another process has taken over,
                and for alphas, numbers or details that can't be stored. Nothing is stored then.
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

        A :class:`~fade_study.samplers.RowSampler` proposes the same anchors again; Optuna's samplers draw new ones.

        Raises:
            InvalidInputError: (a ``ValueError``) for a batch that is not open or that another process has taken over.
        """
        self._finish(self._opened(batch), TrialState.FAIL, {})

    def _opened(self, batch: Batch) -> OpenTrial:
        if self._open is None or not batch.is_same(self._open.asked):
            raise InvalidInputError(
                f"expected the batch that is open, got generation {batch.number} (trial {batch.trial_number}), "
                "which was told or failed already, or belongs to another study; ask() for the next one"
            )
        return self._open

    def _finish(
        self, opened: OpenTrial, state: TrialState, attributes: Mapping[str, Any], *values: float | None
    ) -> None:
        try:
            if opened.finish(state, attributes, *values):
                self._loop.stopped = True  # not by |=, which would undo a stop() within finish
        finally:
            if opened.closed and opened is self._open:
                self._open = None
            elif opened.closed:
                del self._evaluating[opened.asked.generation]

    # --- evaluations that come later than the alphas ----------------------------------------------

    def ask_evaluation(self, generations: Collection[int] | None = None) -> OpenEvaluation | None:
        """The first generation without a value that nobody evaluates, to train its architecture from scratch.

        Trainings from scratch can go on while the search does, and several processes can share them. An evaluation
        belongs to the process that asked it while that is alive, and so does its architecture, which other generations
        may have as well. (A second study object in the same process would take it over.) An evaluation is a trial of
        its own, since Optuna's trials are final when told; its params are the points of the architecture's cells.

        Args:
            generations: The generations to choose from; default all that were told. Where the study evaluates anchors,
                the generation that is open in this object may be among them.

        Returns:
            None where there is nothing to take: all have a value or are being evaluated, here or by another process.
            That process may die, so ask again as long as :meth:`evaluations` lacks one.
        """

        def begin() -> OpenTrial | None:
            past = read_past(self.optuna_study)
            trials = dict(enumerate(past.told))
            if generations is not None:
                opened = self._open if self.evaluate == "anchor" else None  # the best-ranked is not known before alphas
                if opened is not None:
                    trials[opened.asked.number] = storage_of(self.optuna_study).get_trial(opened.trial_id)
                trials = {generation: trial for generation, trial in trials.items() if generation in generations}
            held = {opened.trial_id for opened in self._evaluating.values()}
            for generation in sorted(trials.keys() - past.values.keys() - self._evaluating.keys()):
                params, cells = self._trials.to_evaluate(trials[generation])
                trial = claim_evaluation(self.optuna_study, generation, params, cells, held)
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
        """Finish an evaluation, after its generation was told.

        Args:
            evaluation: The evaluation from :meth:`ask_evaluation`.
            value: Accuracy from scratch of ``evaluation.architecture``.
            details: Anything else to keep with the evaluation, as plain JSON values.

        Raises:
            InvalidInputError: (a ``ValueError``) for an evaluation that is not open or that another process has taken
                over, whose generation was not told or was told with a value, and for a value or details that can't be
                stored. Nothing is stored then.
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
            InvalidInputError: (a ``ValueError``) for one that is not open or that another process has taken over.
        """
        self._finish(self._evaluation(evaluation), TrialState.FAIL, {})

    def add_evaluation(self, generation: int, value: float, details: Mapping[str, Any] | None = None) -> None:
        """Ask and tell the evaluation of a generation at once.

        Args:
            generation: Number of a generation that was told without a value.
            value: Accuracy from scratch of the architecture that the study evaluates.
            details: As in :meth:`tell_evaluation`.

        Raises:
            InvalidInputError: (a ``ValueError``) for a generation that was not told, has a value, or is being evaluated
                by another process, and for a bad value.
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
        opened = self._evaluating.get(evaluation.generation)
        if opened is None or opened.asked != evaluation:
            raise InvalidInputError(
                f"expected an evaluation that is open, got that of generation {evaluation.generation} (trial "
                f"{evaluation.trial_number}), which was told or failed already, or belongs to another study; "
                "ask_evaluation() for the next one"
            )
        return opened

    # --- the loop ---------------------------------------------------------------------------------

    def optimize(
        self,
        evaluate: Callable[[Batch], Any],
        n_generations: int | None = None,
        timeout: float | None = None,
        *,
        callbacks: Iterable[Callable[[FadeStudy, Batch], None]] | None = None,
        catch: type[Exception] | Iterable[type[Exception]] = (),
        show_progress_bar: bool = False,
    ) -> None:
        """Ask, evaluate and tell, as ``optuna.Study.optimize`` does.

        Args:
            evaluate: Function from a batch to its alphas ``(d, w)``, or to ``(alpha, value)``, or to
                ``(alpha, value, one_shot_accuracy)``. If :meth:`tell` refuses what it returns, the generation stays
                open, for :meth:`tell` or the next ``optimize``.
            n_generations: Number of further generations; None for no limit.
            timeout: Seconds after which no generation is begun.
            callbacks: Functions called with the study and the batch after each generation, told or failed.
            catch: Exceptions of ``evaluate`` after which the search goes on. After any other exception, the generation
                is failed and the exception raised. An interrupt, or a storage that does not answer, leaves the
                generation open: the next ``optimize``, or the next ``ask`` of a new process, goes on with it.
            show_progress_bar: Whether to show a progress bar of tqdm.
        """
        self._loop.run(self, evaluate, n_generations, timeout, callbacks, catch, show_progress_bar)

    def stop(self) -> None:
        """End :meth:`optimize` after the current generation; for callbacks and ``evaluate``."""
        self._loop.stop()

    # --- where the search stands ------------------------------------------------------------------

    @property
    def identity(self) -> str:
        """Identifier of this study, drawn when it was created and kept in its storage."""
        return str(retried(lambda: identity_of(self.optuna_study), self.optuna_study))

    @property
    def n_generations(self) -> int:
        """Number T of generations that were told."""
        return len(self._past().told)

    @property
    def open_batch(self) -> Batch | None:
        """The batch that was asked in this object and neither told nor failed yet; None where there is none."""
        return self._open.asked if self._open else None

    @property
    def anchors(self) -> NDArray[np.float64]:
        """Anchors of the newest generation, asked here or told, ``(d, f)``."""
        return self._open.asked.anchors if self._open else self._trials.anchors(self._newest())

    @property
    def architecture(self) -> Architecture:
        """The anchors' cells in the newest generation, asked here or told."""
        return self._open.asked.architecture if self._open else self._trials.architecture(self._newest())

    @property
    def best_architecture(self) -> Architecture:
        """Architecture with the best accuracy from scratch, among those that this study asked for.

        Raises:
            ValueError: where no generation has a value, as Optuna's ``best_trial`` does.
        """
        best = self.best_evaluation
        if best is None:
            raise InvalidInputError(
                f"expected a generation with a from-scratch accuracy, got none in {self.n_generations} generations; "
                "tell a value, or add_evaluation(generation, value)"
            )
        return best.architecture

    @property
    def best_evaluation(self) -> Evaluation | None:
        """Evaluation with the best accuracy from scratch; None before the first one."""
        return max(self.evaluations(), key=lambda evaluation: evaluation.value, default=None)

    def generation(self, number: int) -> Generation:
        """Everything about a generation that was told.

        Raises:
            InvalidInputError: (a ``ValueError``) for another one.
        """
        past = self._past()
        if number not in range(len(past.told)):
            raise InvalidInputError(
                f"expected a generation that was told, got {number!r}; {len(past.told)} were told, counted from 0"
            )
        return retried(lambda: self._trials.generation(number, past), self.optuna_study)

    def history(self, row: int) -> RowHistory:
        """What a row has seen so far: points, cells and alphas of each generation that was told."""
        return row_history(self._past().told, row, tuple(self.space.features))

    def trajectory(self) -> NDArray[np.float64]:
        """Anchors of all generations that were told, ``(T, d, f)``."""
        anchors = [self._trials.anchors(trial) for trial in self._past().told]
        return np.array(anchors).reshape(-1, self.depth, len(self.space.features))

    def architectures(self) -> list[Architecture]:
        """The anchors' cells of the T generations that were told."""
        return [self._trials.architecture(trial) for trial in self._past().told]

    def evaluated_architectures(self) -> list[Architecture]:
        """What the study evaluates of the T generations that were told: the anchors' or the best-ranked ones."""
        return [self._trials.evaluated(trial) for trial in self._past().told]

    def evaluations(self, known: Collection[int] = ()) -> list[Evaluation]:
        """Evaluations from scratch, by generation.

        Args:
            known: Generations to leave out; a loop that looks for new ones then takes no longer with every generation.
        """
        values = self._past().values
        return [
            Evaluation(generation, self._trials.architecture(trial), value, details_of(trial))
            for generation in sorted(values.keys() - known)
            if (value := (trial := values[generation]).value) is not None
        ]

    def trials_dataframe(self, **kwargs: Any) -> pd.DataFrame:
        """One line per trial, as ``optuna.Study.trials_dataframe``."""
        return retried(lambda: self.optuna_study.trials_dataframe(**kwargs), self.optuna_study)

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
