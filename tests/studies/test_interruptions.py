"""What a search survives: real processes that are killed, at random moments and at the worst ones."""

import os
import random
import signal

import mlflow
import pytest

from tests.studies.harness import finish, log, make_place, outcome, start, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

KILLS = 30
KILLS_OF_A_SEARCH = 3


def test_a_search_killed_at_random_moments_is_the_same_search(tmp_path, mlflow_template, reference):
    chance = random.Random(0)
    killed = 0
    for number in range(KILLS // KILLS_OF_A_SEARCH):
        folder = make_place(tmp_path / str(number), mlflow_template)
        for _ in range(KILLS_OF_A_SEARCH):
            process = start(folder)
            process.join(chance.uniform(0.3, 2.5))  # a whole search takes four seconds
            killed += process.is_alive()
            process.kill()
            process.join()
        finish(folder)
        assert outcome(folder) == reference
        assert not list((folder / "checkpoints").glob("*.pt*"))
    assert killed > 0.7 * KILLS


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("ask", 2),
        ("tell", 2),
        ("evaluating", 1),
        ("evaluation", 1),
        ("checkpoint", 4),
        ("renaming", 7),
        ("record", 12),
        ("delivery", 5),
        ("creation", 1),
        ("creation", 2),
    ],
)
def test_a_search_killed_at_the_worst_moment_is_the_same_search(place, reference, where, count, how):
    process = start(place, moment=(where, count, how))
    process.join()
    assert process.exitcode == -signal.SIGKILL, log(place)
    finish(place)
    assert outcome(place) == reference


def test_what_was_trained_twice_is_on_record_once(place, reference):
    """A process is killed that has not told what it trained, and another one that has."""
    for moment in (("tell", 2, "before"), ("tell", 1, "after")):
        process = start(place, moment=moment)
        process.join()
        assert process.exitcode == -signal.SIGKILL, log(place)
    finish(place)
    assert outcome(place) == reference


def test_a_search_with_workers_killed_is_the_same_search(place, reference):
    for generation in (0, 1):
        process = start(place, "--executor", "processes:2")
        wait_for(process, place, f"generation {generation} ({generation + 1} of 3)")
        process.kill()
        process.join()
    finish(place, "--executor", "processes:2")
    assert outcome(place) == reference


def test_a_run_whose_answer_is_lost_at_the_start_ends(place, reference):
    process = start(place, moment=("creation", 1, "lost"))
    process.join()
    assert process.exitcode == 1
    assert "to make a run, got no answer; nothing has begun" in log(place)
    finish(place)
    assert outcome(place) == reference


def test_a_damaged_checkpoint_costs_an_epoch(place, reference):
    process = start(place, moment=("checkpoint", 3, "after"))
    process.join()
    newest = max((place / "checkpoints").glob("*.pt"), key=lambda file: file.stat().st_mtime)
    newest.write_bytes(newest.read_bytes()[:-100])
    finish(place)
    assert "is damaged; going on from the one before it" in log(place)
    assert outcome(place) == reference


def test_a_signal_keeps_the_step_and_says_how_to_go_on(place, reference):
    process = start(place)
    while not list(place.glob("checkpoints/*.pt")):
        process.join(0.02)
        assert process.is_alive()
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM
    said = log(place)
    assert "Stopped; what is trained is kept" in said
    assert "To go on: fade search --preset smoke --study s" in said
    statuses = {run.info.status for run in mlflow.MlflowClient(f"sqlite:///{place / 'mlflow.db'}").search_runs(["0"])}
    assert "KILLED" in statuses
    assert "RUNNING" not in statuses
    finish(place)
    assert outcome(place) == reference
