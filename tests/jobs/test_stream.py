"""What a whole job reports: to a subscriber, into its workspace, and to ``info``."""

import json
from collections import Counter

import numpy as np
import pytest

from ntk_dist import NTKRegressor, cli, stax
from ntk_dist.errors import UnreadableDataError
from ntk_dist.events import JobEvent, MemoryEvent, PhaseEvent, RepairEvent, StepEvent, TaskEvent
from ntk_dist.jobs import describe
from ntk_dist.jobs.journal import new_run, runs_of
from ntk_dist.jobs.parts import parts_of
from ntk_dist.jobs.runner import run_job
from ntk_dist.jobs.spec import JobSpec
from ntk_dist.jobs.watch import Follower
from ntk_dist.store.location import open_place

NET = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
N_BLOCKS = 36


@pytest.fixture
def job(tmp_path, rng):
    x = rng.normal(size=(128, 4))
    np.savez(tmp_path / "data.npz", x=x, y=np.sin(x[:, 0]))
    data = str(tmp_path / "data.npz")
    return JobSpec.model_validate(
        {
            "name": "waves",
            "task": "regression",
            "data": {"x": f"{data}:x", "y": f"{data}:y"},
            "architecture": json.loads(NET.to_json()),
            "gram": {"block_rows": 16},
            "workspace": str(tmp_path / "ws"),
        }
    )


def kept(job):
    follower = Follower(parts_of(runs_of(open_place(job_folder(job)))["waves"][-1]))
    events = [event for _, event in follower.read()]
    assert follower.skipped == 0
    return events, follower.standing


def job_folder(job):
    return describe.Path(job.workspace)


def test_a_subscriber_and_the_workspace_hear_the_same(job):
    heard = []
    run_job(job, on_event=heard.append)
    events, standing = kept(job)
    assert events == heard
    assert (heard[0], heard[-1]) == (
        JobEvent(state="started", job="waves"),
        JobEvent(state="finished", job="waves"),
    )
    assert [e.phase for e in heard if isinstance(e, PhaseEvent) and e.state == "started"] == [
        "ingest",
        "statistics",
        "gram",
        "precondition",
        "solve",
    ]
    assert set(standing.seconds) >= {"gram", "solve"}
    assert standing.residual <= standing.tol
    assert standing.resident_bytes == N_BLOCKS * 16 * 16 * 4


def test_a_block_costs_at_most_two_events(job, tmp_path):
    heard = []
    run_job(job, on_event=heard.append)
    kinds = Counter(type(event) for event in heard)
    (key,) = [place.name for place in (tmp_path / "ws" / "grams").iterdir()]
    gram = heard.index(PhaseEvent(phase="gram", state="started", total=N_BLOCKS, gram=key))
    blocks = [e for e in heard[gram:] if isinstance(e, TaskEvent) and e.item.startswith("(")]
    assert len(blocks) == N_BLOCKS
    few = kinds[PhaseEvent] + kinds[StepEvent] + kinds[JobEvent] + kinds[MemoryEvent]
    assert len(heard) - few <= 2 * N_BLOCKS
    assert kinds[MemoryEvent] <= 3  # one for the shard, and a sample where a machine is slow


def test_a_block_found_damaged_is_told(job, tmp_path):
    run_job(job)
    (chunk,) = tmp_path.glob("ws/grams/*/ntk/c/2/3")
    data = bytearray(chunk.read_bytes())
    data[7] ^= 8
    chunk.write_bytes(data)
    heard = []
    run_job(job, on_event=heard.append)
    (repair,) = [event for event in heard if isinstance(event, RepairEvent)]
    assert repair.item == "(2, 3)"
    assert kept(job)[1].troubles() == "1 damaged and computed again"


def test_a_subscriber_that_fails_does_not_stop_a_fit(rng, caplog):
    def failing(event):
        raise ZeroDivisionError

    x = rng.normal(size=(20, 3))
    model = NTKRegressor(NET).fit(x, x[:, 0], on_event=failing)
    assert model.report_.solve.status.is_success
    assert model.predict(x, on_event=failing).shape == (20,)
    assert len(caplog.records) == 2


def info(job, capsys, *options):
    capsys.readouterr()
    assert cli.run(["info", job.workspace, *options]) == 0
    return capsys.readouterr().out


def test_info_says_where_every_job_stands(job, capsys, monkeypatch):
    run_job(job)
    told = info(job, capsys)
    assert "job waves: succeeded 20" in told, "the word of the list of jobs"
    assert "residual" in told
    record = json.loads(info(job, capsys, "--json"))["jobs"]["waves"]
    assert record["state"] == "succeeded"
    assert record["residual"] <= record["tol"]

    parts = new_run(open_place(job_folder(job)), "waves")
    lines = [
        JobEvent(state="started", job="waves"),
        PhaseEvent(phase="gram", state="started", total=400),
        TaskEvent(state="done", item="(0, 0)", attempt=1),
        MemoryEvent(n_bytes=2**29),
        TaskEvent(state="done", item="(0, 1)", attempt=1),
        TaskEvent(state="retried", item="(0, 2)", attempt=1, worker_lost=True),
    ]
    for second, event in enumerate(lines):
        time = f"2026-01-31T12:00:0{second}Z"
        line = json.dumps({"schema": 1, "time": time, **event.to_dict()})
        parts.append(0, line.encode() + b"\n")
    parts.append(0, b'{"schema": 1, "ti')
    noon = 1769860800.0
    monkeypatch.setattr(describe.time, "time", lambda: noon + 5.0)
    assert (
        "job waves: running: computing Gram blocks; 2 of 400, 0.67 a second, 9.9 min left; "
        "driver 512.0 MiB; 1 retried, 1 of those lost with a worker\n"
    ) in info(job, capsys)
    monkeypatch.setattr(describe.time, "time", lambda: noon + 100.0)
    assert (
        "job waves: no word since 2026-01-31 12:00:05 UTC: killed, or not seen from here; in "
        "computing Gram blocks; 2 of 400; driver"
    ) in info(job, capsys)
    record = json.loads(info(job, capsys, "--json"))["jobs"]["waves"]
    assert (record["state"], record["done"], record["total"]) == ("silent", 2, 400)


def test_info_says_why_a_job_failed(job, capsys, tmp_path):
    (tmp_path / "data.npz").unlink()
    with pytest.raises(UnreadableDataError):
        run_job(job)
    assert "job waves: failed: unreadable_data: " in info(job, capsys)
