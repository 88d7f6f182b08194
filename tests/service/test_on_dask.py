"""A job of a service whose tasks go to a Dask cluster that somebody else started."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
from required import require

from ntk_dist import Client
from ntk_dist.errors import ForbiddenError

pytestmark = [pytest.mark.dask, pytest.mark.slow]

N_ROWS, BLOCK_ROWS = 200, 10
N_BLOCKS = 20 * 21 // 2


@pytest.fixture
def cluster(tmp_path, wait_for):
    """The address of a scheduler with two workers, each a command of Dask's own."""
    require("dask")
    log, started = tmp_path / "dask.log", []

    def start(*command):
        with log.open("ab") as output:
            made = subprocess.Popen(
                [sys.executable, "-m", "dask", *command, "--dashboard-address", "127.0.0.1:0"],
                stdout=output,
                stderr=output,
                cwd=tmp_path,
            )
        started.append(made)

    try:
        start("scheduler", "--host", "127.0.0.1", "--port", "0")
        found = wait_for(lambda: re.search(r"Scheduler at: *tcp://(\S+)", log.read_text()))
        for _ in range(2):
            start("worker", f"tcp://{found[1]}", "--host", "127.0.0.1", "--nthreads", "1")
        yield found[1]
    finally:
        for process in started:  # at once: a worker that may end by itself takes 8 s
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait(30)


def workers(address):
    """Processes of the workers that are there."""
    distributed = require("dask")
    with distributed.Client(f"tcp://{address}", set_as_default=False, timeout=30) as client:
        return set(client.run(os.getpid).values())


def test_a_job_on_a_cluster_outlives_one_of_its_workers(
    cluster, start_server, slow_job, tmp_path, rng, wait_for
):
    address = f"dask://{cluster}"
    server = start_server("--insecure", NTK_DIST_SERVICE__EXECUTORS=json.dumps([address]))
    before = wait_for(lambda: len(found := workers(cluster)) == 2 and found)
    x = rng.normal(size=(N_ROWS, 8, 8, 1))
    y = x.sum(axis=(1, 2, 3))
    job = {**slow_job, "data": {"x": x, "y": y}, "gram": {"block_rows": BLOCK_ROWS}}
    with Client(server.url) as client:
        with pytest.raises(ForbiddenError, match=f"executor: expected one of {address}"):
            client.submit({**job, "executor": "local"}, upload=True)
        handle = client.submit(job, upload=True)
        assert handle.info.executor == address

        def stored():
            return len(list((tmp_path / "ws").glob("grams/*/ntk/c/*/*")))

        wait_for(lambda: stored() >= 3)
        os.kill(min(before), signal.SIGKILL)
        assert stored() < N_BLOCKS
        events = [one.event for one in handle.events()]
        done = handle.wait()
        assert (done.state, done.attempt, done.executor) == ("succeeded", 1, address)
        finished = [one.phase for one in events if one.kind == "phase" and one.state == "finished"]
        assert {"gram", "solve"} <= set(finished)
        items = {one.item for one in events if one.kind == "task" and one.state == "done"}
        assert len(items) >= N_BLOCKS
        steps = [one.step for one in events if one.kind == "step"]
        assert steps == sorted(steps)
        assert done.report["gram"]["n_computed"] == N_BLOCKS
        np.testing.assert_allclose(handle.model().predict(x[:20]), y[:20], rtol=1e-3, atol=1e-3)
    after = workers(cluster)
    assert min(before) not in after
    assert max(before) in after
