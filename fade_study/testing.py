"""Checks that an extension of fade_study implements its protocol. Call them in your own tests.

An outer search also passes Optuna's test suite for samplers, ``optuna.testing.pytest_samplers``, because its base class
samples params that are not anchors. That suite never calls ``propose``, which only a FadeStudy does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fade_study.cells import CellSpace, DagSpace
from fade_study.samplers import RowSampler
from fade_study.study import FadeStudy, create_study

__all__ = ["check_cell_space", "check_row_sampler"]


def check_row_sampler(make: Callable[[int], RowSampler], *, generations: int = 4) -> None:
    """Check that an outer search is reproducible, resumes exactly, and has its anchors as the trials' params.

    Args:
        make: Function from a seed to a new sampler.
        generations: Number of generations to run.

    Raises:
        AssertionError: with a message that says which requirement is violated.
    """
    space = DagSpace(4)

    def run(study: FadeStudy, count: int) -> None:
        for _ in range(count):
            batch = study.ask()
            params = study.optuna_study.trials[-1].params
            assert np.array_equal(batch.anchors.ravel(), list(params.values())), (
                "Optuna must have the anchors as params"
            )
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
    resumed.optuna_study.sampler = make(0)  # like a new process, which has only the stored trials
    run(resumed, generations - generations // 2)
    assert np.array_equal(whole.trajectory(), resumed.trajectory()), "a resumed search must be the same search"


def check_cell_space(space: CellSpace) -> None:
    """Check that a space has unique keys, a stable order, points in [0, 1], and cells that are nearest to their points.

    Raises:
        AssertionError: with a message that says which requirement is violated.
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
        assert np.allclose(space.embed(nearest), point), "the cell nearest to the point of a cell must have that point"
        assert space.nearest(point).key == space.nearest(point).key, "without rng, nearest() must be deterministic"
