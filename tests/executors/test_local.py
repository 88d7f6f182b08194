from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from ntk_dist.errors import InvalidInputError
from ntk_dist.executors.local import LocalExecutor


def local_threads() -> int:
    return sum(thread.name == "ntk_dist-local" for thread in threading.enumerate())


def test_close_ends_the_threads() -> None:
    before = local_threads()
    with LocalExecutor(3) as executor:
        assert local_threads() == before
        list(executor.map_unordered(abs, range(5)))
        assert local_threads() == before + 3
    assert local_threads() == before


def test_tasks_run_side_by_side() -> None:
    barrier = threading.Barrier(3)
    with LocalExecutor(3) as executor:
        results = dict(executor.map_unordered(lambda x: barrier.wait(timeout=60), range(3)))
    assert sorted(results.values()) == [0, 1, 2]


def test_arguments_and_results_are_passed_by_reference() -> None:
    item: list[int] = []
    with LocalExecutor() as executor:
        [(same, result)] = executor.map_unordered(lambda x: x, [item])
    assert same is item
    assert result is item


def test_no_threads_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least 1"):
        LocalExecutor(0)


def test_an_interrupt_ends_the_process_while_a_task_is_running() -> None:
    code = (
        "import signal, time\n"
        "from ntk_dist.executors.local import LocalExecutor\n"
        # A process that a shell started in the background ignores this signal, and so do its own.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def task(x):\n    print('running', flush=True)\n    time.sleep(600)\n"
        "with LocalExecutor() as executor:\n    list(executor.map_unordered(task, [1]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        try:
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "KeyboardInterrupt" in stderr
