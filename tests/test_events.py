import json
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest

from ntk_dist import events
from ntk_dist.events import (
    CheckpointEvent,
    CompileEvent,
    FanOut,
    JobEvent,
    MemoryEvent,
    PhaseEvent,
    RepairEvent,
    StepEvent,
    TaskEvent,
    collected,
    event_of,
    ignore,
    report,
)

ONE_OF_EACH = [
    JobEvent(state="failed", job="waves", text="invalid_data: NaN"),
    PhaseEvent(phase="gram", state="started", total=3, done=1),
    PhaseEvent(phase="solve", state="finished", seconds=0.5),
    TaskEvent(state="retried", item="(0, 1)", attempt=2, error="gone", worker_lost=True),
    StepEvent(step=7, residuals=(0.5, 1e-7), tol=1e-6),
    CheckpointEvent(state="saved", step=50),
    CompileEvent(engine="dense engine in float32", seconds=8.04, host="node-3"),
    RepairEvent(item="(1, 1)", reason="checksum"),
    MemoryEvent(n_bytes=2**30),
]


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: event.kind)
def test_events_survive_json(event):
    assert event_of(json.loads(json.dumps(event.to_dict()))) == event


def test_there_is_one_of_each_kind():
    assert {type(event) for event in ONE_OF_EACH} == set(events._KINDS.values())


def test_a_residual_that_is_not_finite_is_null_in_json():
    record = StepEvent(step=1, residuals=(math.inf, math.nan, 0.5), tol=1e-6).to_dict()
    assert json.loads(json.dumps(record, allow_nan=False))["residuals"] == [None, None, 0.5]
    back = event_of(record)
    assert math.isnan(back.residuals[0])
    assert back.residuals[2] == 0.5


def test_keys_of_later_versions_are_passed_over():
    event = MemoryEvent(n_bytes=5)
    assert event_of({**event.to_dict(), "swapped": 3}) == event


@pytest.mark.parametrize("record", [{}, {"kind": "party"}, {"kind": "step", "step": 3}])
def test_what_is_no_event_is_refused(record):
    with pytest.raises(ValueError, match="expected an event of kind"):
        event_of(record)


def test_a_subscriber_that_fails_is_dropped_and_the_others_hear_on(caplog):
    first, last, calls = [], [], []

    def failing(event):
        calls.append(event)
        raise RuntimeError("no room on the screen")

    stream = FanOut(first.append, failing, last.append)
    with caplog.at_level(logging.WARNING, "ntk_dist"):
        for event in ONE_OF_EACH:
            stream(event)
    assert first == last == ONE_OF_EACH
    assert len(calls) == 1
    (record,) = caplog.records
    assert "RuntimeError: no room on the screen" in record.getMessage()


def test_an_interrupt_goes_through():
    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FanOut(stop)(ONE_OF_EACH[0])


def test_memory_is_sampled_while_events_come():
    now, heard = [0.0], []
    stream = FanOut(heard.append, sample=lambda: 123, clock=lambda: now[0])
    for second in range(12):
        now[0] = float(second)
        stream(ONE_OF_EACH[0])
    samples = [k for k, event in enumerate(heard) if isinstance(event, MemoryEvent)]
    assert samples == [6, 12]  # after the events of seconds 5 and 10
    assert heard[6] == MemoryEvent(n_bytes=123, holder="driver")


def test_a_stream_is_not_wrapped_twice():
    stream = FanOut(ignore)
    assert FanOut.of(stream, lambda: 0) is stream
    assert FanOut.of(ignore, lambda: 0) is not ignore


def test_what_a_task_reports_belongs_to_it_alone():
    report(ONE_OF_EACH[0])  # nobody listens
    with collected() as outer:
        report(ONE_OF_EACH[1])
        with collected() as inner:
            report(ONE_OF_EACH[2])
        with ThreadPoolExecutor(1) as pool:
            pool.submit(report, ONE_OF_EACH[3]).result()
            pool.submit(copy_context().run, report, ONE_OF_EACH[4]).result()
    assert inner == [ONE_OF_EACH[2]]
    assert outer == [ONE_OF_EACH[1], ONE_OF_EACH[4]]
