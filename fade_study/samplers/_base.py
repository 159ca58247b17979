"""The base of all outer searches, which connects them with Optuna; a search itself is one method, ``propose``.

A study runs d independent searches, one per row (section 2.4). All state is in the study's storage: the history of a
row is read from the finished trials, and random numbers come from :data:`fade_study.seeding.PROPOSALS`. A proposal
therefore depends on nothing that ran before in this process, and a resumed search is the same search.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from fade_study._optuna import id_of, inner_sampler, storage_of
from fade_study.arrays import to_integer
from fade_study.cells import CellSpace
from fade_study.exceptions import InvalidInputError
from fade_study.generation import POINTS, STUDY, RowHistory, anchor_names, row_history
from fade_study.past import read_past
from fade_study.seeding import PROPOSALS


class RowSampler(optuna.samplers.RandomSampler, abc.ABC):
    """Base of all outer searches; a subclass implements :meth:`propose`.

    Public attributes are the settings of the search. They are stored with the study, which can be continued with the
    same settings only, so name them like the constructor's arguments. Params other than the anchors, of which a
    FadeStudy has none, are drawn at random.

    Args:
        seed: Root of all random numbers; None takes the study's seed.
    """

    def __init__(self, *, seed: int | None = None) -> None:
        super().__init__(seed)
        self.seed = seed
        self._space: CellSpace | None = None
        self._embedded: dict[str, NDArray[np.float64]] = {}

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({settings})"

    @property
    def space(self) -> CellSpace:
        """The space of cells; known once a study uses this sampler, and therefore in :meth:`propose`."""
        if self._space is None:
            raise InvalidInputError(
                f"expected a study that uses this {type(self).__name__}, got none yet; "
                "the space is known in propose, or after bind(space)"
            )
        return self._space

    def bind(self, space: CellSpace) -> None:
        """Set the space; a study does this before it asks."""
        if space is not self._space:
            self._space = space
            self._embedded = {cell.key: space.embed(cell) for cell in space}

    def embed(self, keys: Sequence[str]) -> NDArray[np.float64]:
        """Points ``(n, f)`` of cells by their keys. A proposed point usually differs from that of its nearest cell."""
        return np.array([self._embedded[key] for key in keys])

    @abc.abstractmethod
    def propose(self, history: RowHistory, rng: np.random.Generator) -> NDArray[np.float64]:
        """Propose the points of a row's next neighborhood.

        Args:
            history: The row's past, which is empty in the first generation.
            rng: Generator that depends on seed, row and generation only.

        Returns:
            Points ``(w, f)``, the next anchor first; w is the same for all rows. They are clipped to [0, 1].
        """

    def surround(self, anchor: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points of a neighborhood ``(w, f)`` around an anchor ``(f,)`` that the user has enqueued or fixed.

        By default, the proposed points are moved along with their anchor.
        """
        return np.clip(points + (anchor - points[0]), 0.0, 1.0)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The d·f anchor coordinates; nothing for a study that does not belong to a :class:`~fade_study.FadeStudy`."""
        settings = study.user_attrs.get(STUDY)
        if settings is None:
            return {}
        names = anchor_names(settings["depth"], settings["space"]["features"])
        return {name: FloatDistribution(0.0, 1.0) for row in names for name in row}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose points for all rows, store them with the trial, and return the anchors as its params."""
        settings = study.user_attrs.get(STUDY)
        if settings is None or not search_space:
            return {}
        names = anchor_names(settings["depth"], settings["space"]["features"])
        points = self.neighborhoods(study)
        storage_of(study).set_trial_user_attr(id_of(trial), POINTS, points.tolist())
        return {
            name: float(x)
            for row, point in zip(names, points[:, 0], strict=True)
            for name, x in zip(row, point, strict=True)
            if name in search_space  # PartialFixedSampler removes the params that it fixes
        }

    def neighborhoods(self, study: Study) -> NDArray[np.float64]:
        """Points ``(d, w, f)`` of all rows in the study's next generation."""
        settings = study.user_attrs[STUDY]
        features = tuple(settings["space"]["features"])
        past = read_past(study).told
        seed = next(s for s in (self.seed, settings["sampler"].get("seed"), settings["seed"]) if s is not None)
        proposals = [
            self.propose(row_history(past, row, features), PROPOSALS.rng(seed, row, len(past)))
            for row in range(settings["depth"])
        ]
        return self._checked(proposals, len(features))

    def _checked(self, proposals: Sequence[Any], features: int) -> NDArray[np.float64]:
        """Points ``(d, w, f)`` of all rows, clipped to the box, or an error."""
        arrays = [np.asarray(points, dtype=float) for points in proposals]
        for array in arrays:
            if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] != features or not np.isfinite(array).all():
                raise InvalidInputError(
                    f"expected {type(self).__name__}.propose to return finite points of shape (w, {features}), "
                    f"got shape {array.shape}; return one row per point, the anchor first"
                )
        widths = [len(array) for array in arrays]
        if len(set(widths)) > 1:
            raise InvalidInputError(
                f"expected {type(self).__name__}.propose to return as many points for every row, got {widths}"
            )
        return np.clip(np.stack(arrays), 0.0, 1.0)


def row_sampler(study: Study) -> RowSampler | None:
    """The row sampler of a study, also inside a wrapper such as ``PartialFixedSampler``; None if it has none."""
    sampler: Any = study.sampler
    while sampler is not None and not isinstance(sampler, RowSampler):
        sampler = inner_sampler(sampler)
    return sampler


def check_width(width: int) -> int:
    """The width as an ``int``, or an error if it is not an integer of 2 or more."""
    number = to_integer(width)
    if number is None or number < 2:
        raise InvalidInputError(f"expected a width of 2 or more, got {width!r}; it counts the anchor and its neighbors")
    return number
