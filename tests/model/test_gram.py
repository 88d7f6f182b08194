"""What a job may use of this machine, and what it does with less."""

import logging

import pytest

from ntk_dist import NTKRegressor, stax
from ntk_dist.events import MemoryEvent
from ntk_dist.executors.local import LocalExecutor
from ntk_dist.model.gram import Resources
from ntk_dist.settings import Settings
from ntk_dist.store.workspace import MemoryWorkspace

NET = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
GIB = 2**30


class Elsewhere(LocalExecutor):
    """Stands for workers of other machines."""

    runs_here = False


@pytest.fixture
def memory(monkeypatch):
    """Sets how much memory is free, in bytes."""

    def make(free):
        monkeypatch.setattr("ntk_dist.model.gram.available_memory", lambda: free)

    return make


@pytest.mark.parametrize(
    ("executor", "free", "most", "expected"),
    [
        (LocalExecutor(4), 64 * GIB, None, 8 * GIB),
        (LocalExecutor(4), 16 * GIB, 3 * GIB, 2 * GIB),
        (LocalExecutor(4), 64 * GIB, 3 * GIB, 3 * GIB),
        (LocalExecutor(64), 8 * GIB, None, GIB // 16),
        (Elsewhere(64), 8 * GIB, None, 2 * GIB),
        (Elsewhere(64), 8 * GIB, 5 * GIB, 5 * GIB),
    ],
)
def test_shards_of_one_machine_share_half_of_what_is_free(memory, executor, free, most, expected):
    memory(free)
    resources = Resources(MemoryWorkspace(), executor, Settings(shard_max_bytes=most))
    assert resources.shard_bytes(10**12) == expected


def test_what_the_driver_takes_is_not_shared(memory):
    memory(8 * GIB)
    resources = Resources(MemoryWorkspace(), LocalExecutor(4), Settings())
    assert resources.shard_bytes(10**12, driver_bytes=6 * GIB) == GIB // 4
    assert resources.shard_bytes(10**12, driver_bytes=9 * GIB) == 0


def test_a_smaller_share_is_told_where_it_costs_something(memory, caplog):
    memory(8 * GIB)
    resources = Resources(MemoryWorkspace(), LocalExecutor(4), Settings())
    resources.shard_bytes(4 * GIB)
    asked = Resources(MemoryWorkspace(), LocalExecutor(4), Settings(shard_max_bytes=GIB))
    asked.shard_bytes(100 * GIB)
    assert not caplog.records
    resources.shard_bytes(6 * GIB)
    assert "1.0 GiB of memory for blocks on each of 4 workers" in caplog.text
    assert "1.5 GiB would be used, because 8.0 GiB are free here" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_fit_keeps_no_more_blocks_than_its_share(memory, rng, tmp_path):
    x = rng.normal(size=(2000, 3))
    model = NTKRegressor(NET, ridge=1.0, block_rows=200, workspace=tmp_path, preconditioner="none")
    plan, held = model.plan(x), []
    free = plan.worker_bytes
    assert free // 2 < plan.gram_bytes
    memory(free)

    def listen(event):
        if isinstance(event, MemoryEvent) and event.holder.startswith("shard"):
            held.append(event.n_bytes)

    model.fit(x, x[:, 0], on_event=listen)
    assert free // 4 < max(held) <= free // 2
