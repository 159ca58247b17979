import dataclasses
import json

import numpy as np
import pytest

from fade_study import DagSpace, create_study
from fade_study.benchmarks import Scratch
from fade_study.exceptions import DataError
from fade_study.samplers import RandomAnchorSampler
from fade_study.tracking import SearchRecord

EVALUATIONS = {2: [Scratch(0.5, 0.4, 3.0), Scratch(0.75, 0.6, 3.5)], 0: (Scratch(0.25, 0.5, 2.0),)}


@pytest.fixture
def searched():
    """A study of three generations, with its batches."""
    study = create_study(space=DagSpace(4), depth=2, sampler=RandomAnchorSampler(3, seed=0))
    batches = []
    for _ in range(3):
        batches.append(study.ask())
        study.tell(batches[-1], [[0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])
    return study, batches


def test_a_record_is_of_what_the_study_asked_for(searched):
    study, batches = searched
    record = SearchRecord.of(study, EVALUATIONS)
    assert (record.features, record.space) == (study.space.features, len(study.space))
    for generation, batch in enumerate(batches):
        np.testing.assert_array_equal(record.anchors[generation], batch.anchors)
        cells = batch.architecture.cells
        np.testing.assert_array_equal(record.embedded[generation], [study.space.embed(cell) for cell in cells])
        rows = batch.hyper_architecture.rows
        assert record.cells[generation] == tuple(tuple(cell.key for cell in row) for row in rows)
        assert record.evaluated[generation] == batch.architecture.key
    assert list(record.evaluations.items()) == [(0, EVALUATIONS[0]), (2, tuple(EVALUATIONS[2]))]
    assert record.trend == ([0, 2], [0.25, 0.625])
    assert (record.best, record.best_validation) == (0, 0.5)
    assert SearchRecord.of(study, {}).best_validation == 0.0


def test_text_and_back_is_the_same_record(searched):
    record = SearchRecord.of(searched[0], EVALUATIONS)
    again = SearchRecord.from_json(record.to_json())
    for field in dataclasses.fields(SearchRecord):
        np.testing.assert_equal(getattr(again, field.name), getattr(record, field.name), err_msg=field.name)
    assert again.evaluations[2][1].validation == 0.6
    assert hash(again.cells) == hash(record.cells)
    assert again.anchors.shape == again.embedded.shape == (3, 2, 3)


@pytest.mark.parametrize("text", ["", "nonsense", "null", "3", "[]", "{}"])
def test_text_that_is_no_record_is_refused(text):
    with pytest.raises(DataError, match="expected the record of a search, got"):
        SearchRecord.from_json(text)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("features", 3),
        ("features", ["one"]),
        ("space", "many"),
        ("anchors", None),
        ("anchors", [[[1, 2], [3]]]),
        ("cells", [3]),
        ("evaluations", []),
        ("evaluations", {"first": []}),
        ("evaluations", {"0": [[0.5, 0.5]]}),
        ("evaluations", {"0": 0.5}),
        ("evaluations", {"0": ["abc"]}),
        ("evaluations", {"3": [[0.5, 0.5, 1.0]]}),
    ],
)
def test_a_field_of_the_wrong_type_is_refused(searched, field, wrong):
    content = json.loads(SearchRecord.of(searched[0], EVALUATIONS).to_json())
    for broken in (content | {field: wrong}, {name: value for name, value in content.items() if name != field}):
        with pytest.raises(DataError, match="expected the record of a search, got"):
            SearchRecord.from_json(json.dumps(broken))


def test_a_study_without_generations_has_a_record():
    study = create_study(space=DagSpace(4), depth=2)
    record = SearchRecord.of(study, {})
    assert SearchRecord.from_json(record.to_json()).cells == ()
    assert record.anchors.shape == record.embedded.shape == (0, 2, 3)
