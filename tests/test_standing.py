"""Rates, times left and words from events alone: the clock is a number in each test."""

import json
import math
from dataclasses import replace
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntk_dist.events import (
    CheckpointEvent,
    CompileEvent,
    JobEvent,
    MemoryEvent,
    PhaseEvent,
    RepairEvent,
    StepEvent,
    TaskEvent,
)
from ntk_dist.standing import MARKS_PER_WINDOW, SILENT_S, Standing, advance

DONE = TaskEvent(state="done", item="(0, 0)", attempt=1)


def gram(total, done=0):
    return PhaseEvent(phase="gram", state="started", total=total, done=done)


def after(*timed, start=None):
    return reduce(lambda s, pair: advance(s, pair[1], pair[0]), timed, start or Standing())


def test_the_rate_is_of_the_last_while_and_says_what_is_left():
    slow = [(10.0 * k, DONE) for k in range(1, 11)]  # to 100 s: a block in 10 s
    fast = [(100.0 + 0.5 * k, DONE) for k in range(1, 121)]  # to 160 s: 2 blocks a second
    standing = after((0.0, gram(230)), *slow)
    assert standing.rate == pytest.approx(0.1)
    assert standing.eta_s(100.0) == pytest.approx(2200)
    standing = after(*fast, start=standing)
    assert (standing.done, standing.total) == (130, 230)
    assert standing.rate == pytest.approx(2.0)
    assert standing.eta_s(160.0) == pytest.approx(50.0)
    assert standing.eta_s(170.0) == pytest.approx(40.0)  # time passes between two blocks
    assert standing.eta_s(900.0) == 0.0
    assert standing.note(160.0) == "130 of 230, 2 a second, 50.0 s left"


def test_blocks_that_take_longer_than_the_window_have_a_rate():
    standing = after((0.0, gram(10)), (600.0, DONE), (1200.0, DONE))
    assert standing.rate == pytest.approx(1 / 600)
    assert standing.eta_s(1200.0) == pytest.approx(8 * 600)


def test_blocks_of_an_earlier_run_do_not_count_as_speed():
    standing = after((0.0, gram(100, done=90)), (1.0, DONE), (2.0, DONE))
    assert standing.done == 92
    assert standing.rate == pytest.approx(1.0)
    assert standing.eta_s(2.0) == pytest.approx(8.0)


def test_before_the_first_block_nothing_is_claimed():
    standing = after((0.0, gram(100)))
    assert standing.rate is None
    assert standing.eta_s(5.0) is None
    assert standing.note(5.0) == "0 of 100"


def test_a_solve_is_as_far_as_the_logarithm_of_its_residual():
    solve = PhaseEvent(phase="solve", state="started")
    steps = [
        (float(k), StepEvent(step=k, residuals=(10.0 ** -(k / 10), 1e-9), tol=1e-6))
        for k in range(1, 31)
    ]
    standing = after((0.0, solve), *steps)
    assert standing.fraction == pytest.approx(0.5)
    assert standing.rate == pytest.approx(1.0)
    assert standing.eta_s(30.0) == pytest.approx(30.0)
    assert standing.residual == pytest.approx(1e-3)
    assert standing.note(30.0) == "step 30, residual 1e-03 of 1e-06, 1 a second, 30.0 s left"
    # A residual that rises again takes nothing back, and one that is not a number is said.
    worse = after((31.0, StepEvent(step=31, residuals=(math.nan, 0.1), tol=1e-6)), start=standing)
    assert worse.fraction == pytest.approx(0.5)
    assert math.isnan(worse.residual)


def test_troubles_are_counted_and_said():
    def task(state, **kwargs):
        return TaskEvent(state=state, item="(0, 0)", attempt=1, **kwargs)

    standing = after(
        (0.0, gram(3)),
        (1.0, task("retried", worker_lost=True)),
        (2.0, task("retried")),
        (3.0, task("duplicated")),
        (4.0, RepairEvent(item="(0, 0)", reason="checksum")),
        (5.0, task("failed")),
    )
    assert standing.troubles() == (
        "2 retried, 1 of those lost with a worker, 1 duplicated, 1 failed, "
        "1 damaged and computed again"
    )
    assert standing.done == 0
    assert Standing().troubles() == ""


def test_a_compilation_is_no_trouble_and_no_progress():
    before = after((0.0, gram(3)), (1.0, DONE))
    compiled = CompileEvent(engine="dense engine in float32", seconds=8.0, host="node-3")
    assert after((2.0, compiled), start=before) == replace(before, updated=2.0)


def test_memory_is_added_up_by_holder():
    standing = after(
        (0.0, MemoryEvent(n_bytes=2**20)),
        (1.0, MemoryEvent(n_bytes=2**30, holder="shard of (0, 0)")),
        (2.0, MemoryEvent(n_bytes=2**29, holder="shard of (0, 1)")),
        (3.0, MemoryEvent(n_bytes=2**29, holder="shard of (0, 0)")),  # built again
        (4.0, MemoryEvent(n_bytes=2**21)),
    )
    assert (standing.driver_bytes, standing.resident_bytes) == (2**21, 2**30)
    assert standing.memory_in_words() == "driver 2.0 MiB, blocks in memory 1.0 GiB"


def test_a_job_that_begins_again_begins_anew():
    first = after(
        (0.0, JobEvent(state="started", job="waves")),
        (1.0, gram(2)),
        (2.0, JobEvent(state="failed", job="waves", text="store_full: no space")),
    )
    assert (first.state, first.text) == ("failed", "store_full: no space")
    again = after((3.0, JobEvent(state="started", job="waves")), start=first)
    assert again == Standing(job="waves", started=3.0, updated=3.0)
    resumed = after((4.0, CheckpointEvent(state="resumed", step=40)), start=again)
    assert resumed.resumed_from_step == 40


def test_only_a_running_job_is_ever_silent():
    standing = after((0.0, JobEvent(state="started", job="waves")))
    assert not standing.is_silent(SILENT_S)
    assert standing.is_silent(SILENT_S + 1)
    ended = after((1.0, JobEvent(state="finished", job="waves")), start=standing)
    assert not ended.is_silent(1e9)


def test_it_survives_json():
    standing = after(
        (0.0, JobEvent(state="started", job="waves")),
        (1.0, MemoryEvent(n_bytes=7)),
        (2.0, StepEvent(step=2, residuals=(0.5, 0.25), tol=1e-6)),
    )
    back = Standing.of({**json.loads(json.dumps(standing.to_dict())), "later": 1})
    assert back.to_dict() == standing.to_dict()
    assert back.residuals == (0.5, 0.25)


GAPS = st.floats(0, 100) | st.just(0.0) | st.floats(-5, 0)  # also backwards: clocks are set


@given(st.lists(GAPS, min_size=1, max_size=200))
def test_any_gaps_between_blocks_give_a_sane_rate_and_few_marks(gaps):
    now, standing = 0.0, after((0.0, gram(len(gaps))))
    for gap in gaps:
        now += gap
        standing = advance(standing, DONE, now)
        assert len(standing.marks) <= 2 * MARKS_PER_WINDOW + 3
        assert standing.rate is None or standing.rate >= 0
        eta = standing.eta_s(now)
        assert eta is None or eta >= 0
    assert standing.done == len(gaps)
    assert standing.fraction == 1.0
