# ruff: noqa: E402 - without Dask, imports below the first of it fail
from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from required import require

require("dask")

import cloudpickle
import dask
import distributed

from ntk_dist.errors import ExecutorUnreachableError, InvalidInputError
from ntk_dist.executors import make_executor
from ntk_dist.executors.dask import DaskExecutor
from ntk_dist.executors.dask_worker import call_shard
from ntk_dist.executors.dask_workers import DaskWorkers
from ntk_dist.gram.grid import BlockGrid, BlockIndex
from ntk_dist.gram.plan import assign_blocks
from ntk_dist.gram.shard import GramShard
from ntk_dist.solver.operators import StoredGramOperator

pytestmark = pytest.mark.dask
# Workers cannot import this file; what it defines travels whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskExecutor]:
    """Two workers, started here."""
    with DaskExecutor(n_workers=2, env={"JAX_COMPILATION_CACHE_DIR": "/somewhere"}) as executor:
        yield executor


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_workers_get_their_share_of_the_machine(cluster: DaskExecutor) -> None:
    names = ["NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "JAX_COMPILATION_CACHE_DIR"]
    seen = dict(cluster.map_unordered(lambda name: os.environ.get(name), names))
    share = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert [seen[name] for name in names] == [share, share, share, "/somewhere"]


def shard_of_ones(blocks: list[BlockIndex], grid: BlockGrid) -> GramShard:
    return GramShard(lambda index: np.ones(grid.block_shape(index)), grid, blocks, 0)


@pytest.mark.parametrize("block_rows", [30, 4])
def test_a_product_is_less_than_two_tasks_per_worker_however_many_blocks(
    cluster: DaskExecutor, monkeypatch: pytest.MonkeyPatch, block_rows: int
) -> None:
    grid = BlockGrid(60, 60, block_rows, symmetric=True)
    submitted: list[str] = []
    plain = cluster._workers.client.submit

    def counted(*args: Any, **options: Any) -> Any:
        submitted.append(options["key"])
        return plain(*args, **options)

    monkeypatch.setattr(cluster._workers.client, "submit", counted)
    with cluster.shards(partial(shard_of_ones, grid=grid), assign_blocks(grid, 2)) as shards:
        operator = StoredGramOperator(shards, 60)
        operator.diagonal()  # which has the shards built
        submitted.clear()
        product = operator.matmat(np.ones((60, 3)))
        np.testing.assert_array_equal(product, 60 * np.ones((60, 3)))
    assert len(submitted) == 2 * cluster.n_workers - 1


class Marked:
    """A shard whose mark on disk says whether it is still in memory."""

    def __init__(self, mark: Path) -> None:
        mark.touch()
        weakref.finalize(self, mark.unlink)

    def ask(self) -> int:
        return os.getpid()


def gone(folder: Path) -> bool:
    """Whether no mark is left there, or soon is none."""
    deadline = time.monotonic() + 20
    while (left := list(folder.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not left


def test_shards_that_are_closed_leave_the_workers(cluster: DaskExecutor, tmp_path: Path) -> None:
    with cluster.shards(Marked, [tmp_path / "a", tmp_path / "b"]) as shards:
        before = shards.call("ask")
        assert len(list(tmp_path.iterdir())) == 2
    assert gone(tmp_path)
    with cluster.shards(Marked, [tmp_path / "c"]) as shards:
        assert set(shards.call("ask")) <= set(before)


DRIVER = """
import sys, time, weakref
from pathlib import Path
from ntk_dist.executors import make_executor

class Marked:
    def __init__(self, mark):
        mark.touch()
        weakref.finalize(self, mark.unlink)
    def ask(self):
        return 1

with make_executor(sys.argv[1]) as executor:
    shards = executor.shards(Marked, [Path(mark) for mark in sys.argv[2:]])
    print(sum(shards.call("ask")), flush=True)
    time.sleep(600)
"""


def test_shards_go_with_a_driver_that_is_killed(cluster: DaskExecutor, tmp_path: Path) -> None:
    marks = [str(tmp_path / name) for name in "ab"]
    command = [sys.executable, "-c", DRIVER, cluster._workers.address, *marks]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "2\n"
        assert len(list(tmp_path.iterdir())) == 2
        driver.kill()
    assert gone(tmp_path)
    assert cluster.n_workers == 2


class Housed:
    """A shard that says where it lives."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ask(self) -> tuple[str, int]:
        return self.name, os.getpid()


def here(item: int) -> int:
    return os.getpid()


def test_a_shard_moves_in_with_another_when_its_worker_does_not_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ntk_dist.executors.dask_shards.RESTART_S", 0.5)
    with (
        DaskExecutor(n_workers=2) as executor,
        executor.shards(Housed, ["a", "b", "c", "d"]) as shards,
    ):
        homes = dict(shards.call("ask"))
        gone = psutil.Process(homes["a"])
        gone.parent().kill()  # the nanny, which would start another worker
        gone.kill()
        (left,) = {home for home in homes.values() if home != gone.pid}
        assert shards.call("ask") == [(name, left) for name in "abcd"]
        assert executor.n_workers == 1


@pytest.mark.parametrize("is_housed", [False, True], ids=["before it has a shard", "with a shard"])
def test_a_worker_that_is_gone_is_told_of_once_while_its_shard_waits(
    is_housed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ntk_dist.executors.dask_shards.RESTART_S", 0.5)
    events: list[Any] = []
    with (
        DaskExecutor(n_workers=2) as executor,
        executor.shards(Housed, ["a", "b"], on_event=events.append) as shards,
    ):
        homes = shards.call("ask") if is_housed else executor.map_unordered(here, range(2))
        gone = psutil.Process(next(iter(homes))[1])
        gone.parent().kill()  # the nanny, which would start another worker
        gone.kill()
        while not is_housed and len(executor._workers.alive()) > 1:
            time.sleep(0.05)
        (left,) = {home for _, home in shards.call("ask")}
        assert left != gone.pid
        shards.call("ask")
        assert executor.n_workers == 1
    (told,) = events
    assert (told.state, told.worker_lost) == ("retried", True)
    waiting, over = (r.message for r in caplog.records if r.name.endswith(".dask_shards"))
    assert "1 of 2 Dask workers gone, waiting up to 0.5 s" in waiting
    assert over == "nobody came: 1 Dask workers take what the others held"


def test_a_loss_is_told_once_whoever_sees_it_first(monkeypatch: pytest.MonkeyPatch) -> None:
    here = dict.fromkeys("abcd", 1)
    client = SimpleNamespace(
        nthreads=lambda: dict(here), restart_workers=lambda workers, **options: None
    )
    monkeypatch.setattr(distributed, "Client", lambda *args, **options: client)
    workers = DaskWorkers("tcp://nowhere:1", print)
    assert workers.present() == here

    here.pop("a")
    workers.alive()
    assert workers.take_losses(needed={"a"}) == (), "a try in flight will find out"
    workers.were_told(["a"])
    assert workers.take_losses(needed=()) == ()

    here.pop("b")
    workers.were_told(["b"])  # its try failed before anybody looked
    workers.alive()
    assert workers.take_losses(needed=()) == ()

    workers.restart(["c"], 0.1)
    here.pop("c")
    workers.alive()
    here["c"] = 1  # under the same address
    workers.alive()
    assert workers.take_losses(needed=()) == ()
    here.clear()
    workers.alive()
    assert workers.take_losses(needed=()) == ("c", "d")
    assert workers.take_losses(needed=()) == ()


def test_a_shard_of_which_only_the_name_is_here_counts_as_lost(cluster: DaskExecutor) -> None:
    ((_, outcome),) = cluster.map_unordered(lambda name: call_shard(name, "ask", ()), ["moved"])
    assert "held this shard is gone" in str(outcome.error)
    assert outcome.retryable


def test_workers_never_wait_for_memory_that_shards_hold(cluster: DaskExecutor) -> None:
    names = [f"distributed.worker.memory.{name}" for name in ("target", "spill", "pause")]
    seen = dict(cluster.map_unordered(lambda name: dask.config.get(name), names))
    assert seen == dict.fromkeys(names, False)


def test_workers_are_not_profiled(cluster: DaskExecutor) -> None:
    name = "distributed.worker.profile.enabled"
    assert dict(cluster.map_unordered(lambda name: dask.config.get(name), [name])) == {name: False}


def test_workers_keep_the_memory_of_one_block_for_the_next(cluster: DaskExecutor) -> None:
    # Dask's own 64 KiB would have every array of every block mapped and cleared anew.
    name = "MALLOC_TRIM_THRESHOLD_"
    seen = dict(cluster.map_unordered(lambda name: int(os.environ[name]), [name]))
    assert seen[name] >= 32 * 2**20


def test_a_running_cluster_is_joined_and_left_running(cluster: DaskExecutor) -> None:
    address = cluster._workers.address.replace("tcp://", "dask://")
    with make_executor(address) as guest:
        assert guest.n_workers == 2
        assert sorted(guest.map_unordered(abs, [-1, -2])) == [(-2, 2), (-1, 1)]
    assert list(cluster.map_unordered(abs, [-3])) == [(-3, 3)]


def slowly(item: int) -> int:
    time.sleep(0.2)
    return os.getpid()


def test_a_cluster_that_grows_is_used_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ntk_dist.executors.dask.LOOK_S", 0.1)
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for k in range(600):
            taken += 1
            yield k

    theirs = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)
    with theirs, DaskExecutor(theirs.scheduler_address) as guest:
        waiting, done_by = [], set()
        with closing(guest.map_unordered(slowly, items())) as results:
            for k, (_, pid) in enumerate(results):
                waiting.append(taken - k)
                done_by.add(pid)
                if k == 0:
                    theirs.scale(2)
                if len(done_by) == 2 and waiting[-1] > waiting[0]:
                    break
        assert guest.n_workers == 2
    assert waiting[0] == 4, "enough wait for an adaptive cluster to grow"
    assert max(waiting) == 8
    assert len(done_by) == 2


def test_no_scheduler_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ntk_dist.executors.dask_workers.CONNECT_S", 1.0)
    address = f"dask://127.0.0.1:{free_port()}"
    with pytest.raises(ExecutorUnreachableError, match=f"{address} within 1 s .*check host"):
        make_executor(address)


def test_a_scheduler_that_goes_away(caplog: pytest.LogCaptureFixture) -> None:
    with DaskExecutor(n_workers=1) as host, DaskExecutor(host._workers.address) as guest:
        shards = guest.shards(dict, [()])
        shards.call("keys")
        results = guest.map_unordered(lambda x: time.sleep(0.05), range(10_000))
        next(results)
        host.close()
        with pytest.raises(ExecutorUnreachableError, match="no longer answers; finished work"):
            list(results)
        shards.close()
    assert not [record for record in caplog.records if record.exc_info], "one error is enough"


def test_workers_cannot_be_asked_for_at_an_address() -> None:
    with pytest.raises(InvalidInputError, match="n_workers"):
        DaskExecutor("tcp://127.0.0.1:1", n_workers=2)


def test_a_plain_script_without_a_guard_runs_once_and_leaves_nothing(tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(
        "import psutil\n"
        "from ntk_dist.executors import make_executor\n"
        "print('started')\n"
        "def double(x):\n    return 2 * x\n"
        "with make_executor('dask:1') as executor:\n"
        "    print(list(executor.map_unordered(double, [21])))\n"
        "print(len(psutil.Process().children(recursive=True)), 'left')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "started\n[(21, 42)]\n0 left\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("owner", "name", "error", "raised"),
    [
        (distributed.SpecCluster, "wait_for_workers", KeyboardInterrupt, KeyboardInterrupt),
        (distributed, "Client", OSError, ExecutorUnreachableError),
        (DaskWorkers, "alive", KeyboardInterrupt, KeyboardInterrupt),
    ],
    ids=["while workers start", "while it connects", "while it looks for workers"],
)
def test_a_start_that_is_broken_off_leaves_no_process(
    owner: Any,
    name: str,
    error: type[BaseException],
    raised: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = set(psutil.Process().children(recursive=True))
    started: list[set[psutil.Process]] = []

    def fail(*_: Any, **options: Any) -> None:
        deadline = time.monotonic() + 20
        while not (new := set(psutil.Process().children(recursive=True)) - before):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        started.append(new)
        raise error

    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(raised):
        DaskExecutor(n_workers=1)
    assert started
    assert not set(psutil.Process().children(recursive=True)) - before


def test_close_ends_every_process() -> None:
    before = set(psutil.Process().children(recursive=True))
    executor = DaskExecutor(n_workers=1)
    assert list(executor.map_unordered(abs, [-1])) == [(-1, 1)]
    assert set(psutil.Process().children(recursive=True)) - before
    executor.close()
    executor.close()
    assert not set(psutil.Process().children(recursive=True)) - before
