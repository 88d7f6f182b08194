from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("distributed")

import cloudpickle
import dask

from ntk_dist.errors import ExecutorUnreachableError, InvalidInputError
from ntk_dist.executors import make_executor
from ntk_dist.executors.dask import DaskExecutor
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
    plain = cluster._client.submit

    def counted(*args: Any, **options: Any) -> Any:
        submitted.append(options["key"])
        return plain(*args, **options)

    monkeypatch.setattr(cluster._client, "submit", counted)
    with cluster.shards(partial(shard_of_ones, grid=grid), assign_blocks(grid, 2)) as shards:
        product = StoredGramOperator(shards, 60).matmat(np.ones((60, 3)))
        np.testing.assert_array_equal(product, 60 * np.ones((60, 3)))
    assert len(submitted) == 2 * cluster.n_workers - 1


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
    address = cluster._address.replace("tcp://", "dask://")
    with make_executor(address) as guest:
        assert guest.n_workers == 2
        assert sorted(guest.map_unordered(abs, [-1, -2])) == [(-2, 2), (-1, 1)]
    assert list(cluster.map_unordered(abs, [-3])) == [(-3, 3)]


def test_no_scheduler_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ntk_dist.executors.dask._CONNECT_S", 1.0)
    address = f"dask://127.0.0.1:{free_port()}"
    with pytest.raises(ExecutorUnreachableError, match=f"{address} within 1 s .*check host"):
        make_executor(address)


def test_a_scheduler_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ntk_dist.executors.dask._CONNECT_S", 1.0)
    with DaskExecutor(n_workers=1) as host, DaskExecutor(host._address) as guest:
        shards = guest.shards(dict, [()])
        shards.call("keys")
        results = guest.map_unordered(lambda x: time.sleep(0.05), range(10_000))
        next(results)
        host.close()
        with pytest.raises(ExecutorUnreachableError, match="no longer answers; finished work"):
            list(results)
        shards.close()


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


def test_close_ends_every_process() -> None:
    before = set(psutil.Process().children(recursive=True))
    executor = DaskExecutor(n_workers=1)
    assert list(executor.map_unordered(abs, [-1])) == [(-1, 1)]
    assert set(psutil.Process().children(recursive=True)) - before
    executor.close()
    executor.close()
    assert not set(psutil.Process().children(recursive=True)) - before
