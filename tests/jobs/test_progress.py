import io

from rich.console import Console

from ntk_dist.events import PhaseEvent, StepEvent, TaskEvent
from ntk_dist.jobs.progress import ProgressDisplay

EVENTS = [
    PhaseEvent(phase="gram", state="started", total=3, done=1),
    TaskEvent(state="done", item="(0, 1)", attempt=1, seconds=0.1),
    TaskEvent(state="retried", item="(1, 1)", attempt=1, error="lost"),
    TaskEvent(state="done", item="(1, 1)", attempt=2, seconds=0.1),
    PhaseEvent(phase="gram", state="finished", seconds=1.25),
    PhaseEvent(phase="solve", state="started"),
    StepEvent(step=1, residuals=(0.5, 0.25), tol=1e-6),
    StepEvent(step=2, residuals=(1e-7, 1e-8), tol=1e-6),
    PhaseEvent(phase="solve", state="finished", seconds=0.5),
]


def shown(terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=160)
    with ProgressDisplay(console) as display:
        for event in EVENTS:
            display(event)
    return out.getvalue()


def test_a_log_gets_plain_lines():
    text = shown(terminal=False)
    assert text.splitlines() == [
        "computing Gram blocks: 2 to do, 1 already there",
        "(1, 1): retried (attempt 1) lost",
        "computing Gram blocks: done in 1.2 s",
        "solving: done in 0.5 s",
    ]


def test_a_terminal_gets_bars_that_end_full():
    text = shown(terminal=True)
    assert "3 of 3" in text
    assert "step 2, residual 1e-07" in text
