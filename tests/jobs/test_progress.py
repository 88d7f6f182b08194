import io
import itertools

from rich.console import Console

from ntk_dist.events import (
    CheckpointEvent,
    CompileEvent,
    JobEvent,
    PhaseEvent,
    RepairEvent,
    StepEvent,
    TaskEvent,
)
from ntk_dist.jobs.progress import ProgressDisplay

EVENTS = [
    PhaseEvent(phase="gram", state="started", total=3, done=1),
    CompileEvent(engine="dense engine in float32", seconds=8.04, host="node-3"),
    TaskEvent(state="done", item="(0, 1)", attempt=1, seconds=0.1),
    TaskEvent(state="retried", item="(1, 1)", attempt=1, error="lost"),
    TaskEvent(state="done", item="(1, 1)", attempt=2, seconds=0.1),
    PhaseEvent(phase="gram", state="finished", seconds=1.25),
    PhaseEvent(phase="solve", state="started"),
    StepEvent(step=1, residuals=(0.5, 0.25), tol=1e-6),
    StepEvent(step=2, residuals=(1e-7, 1e-8), tol=1e-6),
    PhaseEvent(phase="solve", state="finished", seconds=0.5),
]


def shown(terminal, events=EVENTS, clock=lambda: 0.0):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=160)
    with ProgressDisplay(console, clock) as display:
        for event in events:
            display(event)
    return out.getvalue()


def test_a_log_gets_plain_lines():
    text = shown(terminal=False)
    assert text.splitlines() == [
        "computing Gram blocks: 2 to do, 1 already there",
        "compiled the dense engine in float32 in 8.0 s on node-3",
        "(1, 1): retried (attempt 1) lost",
        "computing Gram blocks: done in 1.2 s",
        "solving: done in 0.5 s",
    ]


def test_a_terminal_gets_a_bar_and_a_line_for_what_is_done():
    text = shown(terminal=True)
    assert "computing Gram blocks: done in 1.2 s (3 of 3)" in text
    assert "solving: done in 0.5 s (step 2, residual 1e-07 of 1e-06)" in text
    assert "━" in text


def test_a_log_says_every_five_seconds_how_fast_it_goes_and_what_is_left():
    blocks = [TaskEvent(state="done", item=f"({k}, {k})", attempt=1) for k in range(12)]
    steps = [StepEvent(step=k, residuals=(0.1**k, 0.5), tol=1e-3) for k in range(1, 8)]
    events = [
        PhaseEvent(phase="gram", state="started", total=100),
        *blocks,
        RepairEvent(item="(1, 1)", reason="checksum"),
        PhaseEvent(phase="solve", state="started"),
        CheckpointEvent(state="resumed", step=40),
        *steps,
        JobEvent(state="finished", job="waves"),
    ]
    text = shown(terminal=False, events=events, clock=itertools.count(0.0).__next__)
    assert text.splitlines() == [
        "computing Gram blocks: 100 to do",
        "computing Gram blocks: 5 of 100, 1 a second, 95.0 s left",
        "computing Gram blocks: 10 of 100, 1 a second, 90.0 s left",
        "(1, 1): computing it again: checksum",
        "solving: going on from step 40 of an earlier run",
        "solving: step 4, residual 5e-01 of 1e-03, 1 a second",
    ]


def test_a_bar_is_drawn_a_few_times_a_second_however_many_blocks_there_are():
    moments = itertools.count(0.0, 0.001)
    out = io.StringIO()
    with ProgressDisplay(Console(file=out, force_terminal=True), moments.__next__) as display:
        display(PhaseEvent(phase="gram", state="started", total=2000))
        before = out.tell()
        drawn = []
        bars = display._screen._bars
        bars.update, update = lambda *a, **kw: (drawn.append(kw), update(*a, **kw)), bars.update
        for k in range(2000):
            display(TaskEvent(state="done", item=str(k), attempt=1))
    assert 2 <= len(drawn) <= 5
    assert out.tell() > before
