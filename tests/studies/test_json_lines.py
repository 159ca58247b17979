import pytest

from fade_study.exceptions import DataError
from fade_study.studies.json_lines import append_line, read_lines


def test_lines_come_back(tmp_path):
    file = tmp_path / "new" / "lines.jsonl"
    assert list(read_lines(file)) == []
    for number in range(3):
        append_line(file, {"number": number})
    assert list(read_lines(file)) == [{"number": 0}, {"number": 1}, {"number": 2}]


def test_a_line_that_a_kill_has_cut_off_is_written_again(tmp_path):
    file = tmp_path / "lines.jsonl"
    for number in range(2):
        append_line(file, {"number": number})
    file.write_text(file.read_text()[:-3])
    assert list(read_lines(file)) == [{"number": 0}]
    append_line(file, {"number": 2})
    assert list(read_lines(file)) == [{"number": 0}, {"number": 2}]


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_other_lines_are_refused_by_number(tmp_path, text):
    (tmp_path / "lines.jsonl").write_text(f'{{"a": 1}}\n{text}\n{{"a": 2}}\n')
    with pytest.raises(DataError, match=r"expected a JSON object in line 2 of .*lines\.jsonl"):
        list(read_lines(tmp_path / "lines.jsonl"))
