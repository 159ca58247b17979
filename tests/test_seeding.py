"""Random streams: what is on record depends on some of them to the bit."""

import numpy as np

from fade_study import seeding

STREAMS = {name: stream for name, stream in vars(seeding).items() if isinstance(stream, seeding.Stream)}


def test_streams_with_as_many_parts_have_different_ids():
    assert len({(len(stream.parts), stream.id) for stream in STREAMS.values()}) == len(STREAMS) > 15


def test_streams_that_tables_and_studies_rest_on():
    """Their numbers are in stored studies, shipped tables and recipes."""
    np.testing.assert_array_equal(seeding.PROPOSALS.rng(3, 1, 2).random(4), np.random.default_rng([3, 1, 2]).random(4))
    np.testing.assert_array_equal(seeding.TIES.rng(3, 1, 2).random(4), np.random.default_rng([3, 1, 2, 1]).random(4))
    assert seeding.TRAINING.seed(3, 1, 0) == np.random.SeedSequence([3, 1, 0, 2]).generate_state(1)[0]
    assert seeding.REPETITION.seed(3, 1) == np.random.SeedSequence([3, 1, 1]).generate_state(1)[0]
    assert seeding.TRAINING_NOISE.long_seed(3) == np.random.SeedSequence([3, 1]).generate_state(1, np.uint64)[0] >> 1
    np.testing.assert_array_equal(seeding.CHOICE.rng(3).random(4), np.random.default_rng([3, 4]).random(4))
