import numpy as np
import pytest

from fade_study import DagSpace, create_study
from fade_study.samplers import RowSampler
from fade_study.testing import check_row_sampler


class Champion(RowSampler):
    """The best cell of the last generation against random challengers."""

    def __init__(self, width=5, *, seed=None):
        super().__init__(seed=seed)
        self.width = width

    def propose(self, history, rng):
        challengers = rng.random((self.width, len(history.features)))
        if len(history) > 0:
            last = history[-1]
            challengers[0] = last.points[last.alpha.argmax()]
        return challengers


def tell(study, batch, value=None):
    alpha = np.ones(batch.hyper_architecture.shape)
    alpha[:, -1] = 3
    study.tell(batch, alpha / alpha.sum(axis=1, keepdims=True), value)


def test_a_new_outer_search_is_one_small_class():
    check_row_sampler(lambda seed: Champion(seed=seed))
    study = create_study(space=DagSpace(4), depth=2, sampler=Champion(3, seed=0))
    first = study.ask()
    assert first.hyper_architecture.shape == (2, 3)
    tell(study, first)
    np.testing.assert_array_equal(study.ask().anchors, first.points[:, -1])


def test_history_is_the_rows_own_past():
    seen = {}

    class Recorder(Champion):
        def propose(self, history, rng):
            seen[history.row, len(history)] = history
            return super().propose(history, rng)

    study = create_study(space=DagSpace(4), depth=2, sampler=Recorder(3, seed=0))
    batches = [study.ask()]
    tell(study, batches[0], 0.5)
    batches.append(study.ask())
    tell(study, batches[1])
    study.ask()
    history = seen[1, 2]
    assert history.features == study.space.features
    for generation, batch in zip(history, batches, strict=True):
        np.testing.assert_array_equal(generation.points, batch.points[1])
        np.testing.assert_array_equal(generation.anchor, batch.anchors[1])
        assert list(generation.cells) == [trial.cell.key for trial in batch.trials[1]]
        np.testing.assert_allclose(generation.alpha, [0.2, 0.2, 0.6])
    assert [generation.value for generation in history] == [0.5, None]


def test_random_numbers_depend_on_seed_row_and_generation_alone():
    drawn = []

    class Drawer(Champion):
        def propose(self, history, rng):
            drawn.append((history.row, len(history), rng.random()))
            return super().propose(history, rng)

    study = create_study(space=DagSpace(4), depth=2, sampler=Drawer(seed=7))
    tell(study, study.ask())
    study.ask()
    expected = [(row, t, np.random.default_rng([7, row, t]).random()) for t in (0, 1) for row in (0, 1)]
    assert drawn == expected


def test_points_are_clipped_to_the_box():
    class Outside(RowSampler):
        def propose(self, history, rng):
            return np.array([[-1.0, 0.5, 2.0]])

    study = create_study(space=DagSpace(3), depth=1, sampler=Outside(seed=0))
    np.testing.assert_array_equal(study.ask().points, [[[0.0, 0.5, 1.0]]])


@pytest.mark.parametrize("points", [np.zeros(3), np.zeros((0, 3)), np.zeros((2, 4)), np.full((2, 3), np.nan)])
def test_bad_proposals_are_refused(points):
    class Bad(RowSampler):
        def propose(self, history, rng):
            return points

    study = create_study(space=DagSpace(3), depth=1, sampler=Bad(seed=0))
    with pytest.raises(ValueError, match=r"Bad\.propose to return finite points of shape \(w, 3\)"):
        study.ask()


def test_rows_of_different_width_are_refused():
    class Ragged(RowSampler):
        def propose(self, history, rng):
            return np.zeros((history.row + 1, 3))

    study = create_study(space=DagSpace(3), depth=2, sampler=Ragged(seed=0))
    with pytest.raises(ValueError, match=r"as many points for every row, got \[1, 2\]"):
        study.ask()


def test_a_sampler_knows_the_space_once_a_study_uses_it():
    class Cells(Champion):
        def propose(self, history, rng):
            assert len(self.space) == 9
            if len(history) > 0:
                cells = {cell.key: cell for cell in self.space}
                expected = [self.space.embed(cells[key]) for key in history[-1].cells]
                np.testing.assert_array_equal(self.embed(history[-1].cells), expected)
            return super().propose(history, rng)

    sampler = Cells(seed=0)
    with pytest.raises(ValueError, match="expected a study that uses this Cells"):
        _ = sampler.space
    study = create_study(space=DagSpace(3), depth=1, sampler=sampler)
    tell(study, study.ask())
    study.ask()
