"""What a search survives: disks that are full, of checkpoints and records, and of databases."""

import contextlib
import subprocess

import pytest

from tests.studies.harness import finish, log, make_place, outcome, start, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@contextlib.contextmanager
def small_disk(folder, megabytes):
    """A file system of its own."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder):
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 1024)
    return filler


def test_no_room_for_checkpoints_and_records(place, reference):
    with small_disk(place / "checkpoints", 4) as disk:
        process = start(place)
        wait_for(process, place, "generation 0 (1 of 3)")
        filler = fill(disk)
        process.join()
        assert process.exitcode == 1, log(place)
        assert "StorageError: expected to " in log(place)
        assert "make room" in log(place)
        assert "Traceback" not in log(place)
        filler.unlink()
        finish(place)
        assert outcome(place) == reference


def test_no_room_for_databases_and_artifacts(tmp_path, mlflow_template, reference):
    with small_disk(tmp_path / "disk", 20) as disk:
        place = make_place(disk / "place", mlflow_template)
        process = start(place)
        wait_for(process, place, "generation 0 (1 of 3)")
        filler = fill(disk)
        process.join()
        filler.unlink()
        assert process.exitcode != 0
        finish(place)
        assert outcome(place) == reference
