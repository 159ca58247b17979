"""What is shown of running tasks."""

import time

import pytest

from fade_study.execution import advance, completed, open_executor, phase, progress, report_epoch, watch


def work(epochs):
    for epoch in range(epochs):
        time.sleep(0.02)
        report_epoch(epochs, epoch)


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)


@pytest.mark.parametrize("executor", ["inline", "processes:1"])
def test_without_a_terminal_lines_say_how_far_the_command_is(capsys, executor):
    with open_executor(executor) as workers, phase("phase 2 of 3: ground truth", 4, after=9.0):
        advance(1, on_record=True)
        tasks = []
        for _ in range(3):
            tasks.append(workers.submit(work, 5))
            watch(tasks[-1])
        assert set(completed(tasks)) == set(tasks)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "phase 2 of 3: ground truth, 1 of 4"  # what is on record says nothing of the time
    assert lines[-1].startswith("phase 2 of 3: ground truth, 4 of 4; about ")
    assert lines[-1].endswith(" left in all")


def test_the_time_left_is_that_of_the_whole_command(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with phase("supernets", 4, after=2.0):
        advance(2, on_record=True)
        now[0] = 60.0
        advance()  # a minute for each: one is left here, and as many as 8 more after that
    assert capsys.readouterr().out.splitlines()[-1] == "supernets, 3 of 4; about 9 min left in all"


def test_a_line_comes_once_a_minute(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 60.0)
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with phase("supernets", 1):
        for second in range(130):
            now[0] = float(second)
            progress.report(second / 1000)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_nothing_is_shown_where_no_phase_is_open(capsys):
    with open_executor("inline") as workers:
        workers.submit(work, 1)
        advance()
    assert not capsys.readouterr().out
