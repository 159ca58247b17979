import os
import time

import pytest

from fade_study.execution import open_executor


def fail():
    raise ArithmeticError("diverged")


def worker():
    time.sleep(0.2)
    return os.getpid()


def test_inline_runs_here():
    with open_executor("inline") as executor:
        assert executor.submit(os.getpid).result() == os.getpid()
        assert list(executor.map(abs, [-1, 2])) == [1, 2]
        with pytest.raises(ArithmeticError, match="diverged"):
            executor.submit(fail).result()


def test_processes_run_elsewhere():
    with open_executor("processes:2") as executor:
        pids = {future.result() for future in [executor.submit(worker) for _ in range(4)]}
        with pytest.raises(ArithmeticError, match="diverged"):
            executor.submit(fail).result()
    assert os.getpid() not in pids


def test_an_interrupt_does_not_wait_for_the_workers():
    begin = time.perf_counter()

    def interrupted():
        with open_executor("processes:1") as executor:
            for _ in range(3):
                executor.submit(time.sleep, 60)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.perf_counter() - begin < 30


@pytest.mark.parametrize(
    "name", ["", "processes", "processes:", "processes:0", "processes:-1", "processes:x", "cloud:2"]
)
def test_unknown_executors_are_refused(name):
    with pytest.raises(ValueError, match=r"'inline' or 'processes:N'"):
        open_executor(name)
