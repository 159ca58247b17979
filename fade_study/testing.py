"""Checks that an extension of fade_study keeps its protocol. Call them in your own tests.

An outer search also passes Optuna's suite for samplers, ``optuna.testing.pytest_samplers``, by what its base class does
for params that are no anchors; that says nothing about ``propose``, which is called on a FadeStudy alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fade_study.cells import CellSpace, DagSpace
from fade_study.samplers import RowSampler
from fade_study.study import FadeStudy, create_study

__all__ = ["check_cell_space", "check_row_sampler"]


def check_row_sampler(make: Callable[[int], RowSampler], *, generations: int = 4) -> None:
    """Check an outer search: its anchors are the trials' params, reproducible, resumed as if never interrupted.

    Args:
        make: from a seed to a new sampler.
        generations: how long to run it.

    Raises:
        AssertionError: that says which promise is broken.
    """
    space = DagSpace(4)

    def run(study: FadeStudy, count: int) -> None:
        for _ in range(count):
            batch = study.ask()
            params = study.optuna_study.trials[-1].params
            assert np.array_equal(batch.anchors.ravel(), list(params.values())), "Optuna must hold the anchors"
            utility = batch.points.sum(axis=-1)
            study.tell(batch, np.exp(utility) / np.exp(utility).sum(axis=1, keepdims=True))

    def study(seed: int) -> FadeStudy:
        return create_study(space=space, depth=2, sampler=make(seed))

    whole, again = study(0), study(0)
    for one in (whole, again):
        run(one, generations)
    assert np.array_equal(whole.trajectory(), again.trajectory()), "the same seed must give the same trajectory"

    resumed = study(0)
    run(resumed, generations // 2)
    # What a new process does: a fresh sampler on the stored trials.
    resumed.optuna_study.sampler = make(0)
    run(resumed, generations - generations // 2)
    assert np.array_equal(whole.trajectory(), resumed.trajectory()), "a resumed search must be the same search"


def check_cell_space(space: CellSpace) -> None:
    """Check a space of cells: unique keys, a stable order, points in the box, and cells nearest to themselves.

    Raises:
        AssertionError: that says which promise is broken.
    """
    cells = list(space)
    assert len(cells) == len(space) > 0, "len() must count the cells"
    keys = [cell.key for cell in cells]
    assert len(set(keys)) == len(keys), "keys must be unique"
    assert keys == [cell.key for cell in space], "the order of cells must be stable"
    assert len(set(space.features)) == len(space.features) > 0, "features must have different names"
    for cell in cells:
        point = space.embed(cell)
        assert point.shape == (len(space.features),), "embed() must give one number per feature"
        assert ((point >= 0) & (point <= 1)).all(), "points must lie in [0, 1]"
        nearest = space.nearest(point, np.random.default_rng(0))
        assert np.allclose(space.embed(nearest), point), "the cell nearest to a cell's point must lie on that point"
        assert space.nearest(point).key == space.nearest(point).key, "without rng, nearest() must be deterministic"
