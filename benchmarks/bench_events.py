"""What the event stream costs: the same fit with nobody listening, and with everybody.

    python benchmarks/bench_events.py --rows 8000 --block-rows 500 --repeats 5

A fully connected network is fitted to random rows in turn without and with a terminal bar, a
journal in the workspace and a subscriber. Both must give the same coefficients, bit for bit. Events
for each block and flushes of the journal for each second are counted; they are bounded by design.
Ratios are of a fit with to the fit without beside it: what others do on the machine moves both.
What the listeners and their threads took is measured apart, for those ratios hardly show it.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np
from machine import describe_machine, keep_to_threads
from rich.console import Console

from ntk_dist import NTKRegressor, stax
from ntk_dist.events import Event, FanOut, TaskEvent, ignore
from ntk_dist.jobs.journal import Journal, new_run
from ntk_dist.jobs.parts import FolderParts
from ntk_dist.jobs.progress import ProgressDisplay
from ntk_dist.settings import process_bytes
from ntk_dist.store.location import open_place

FEATURES = 64
EVENTS_A_BLOCK = 2


def network() -> stax.Network:
    """Three hidden layers of ReLU."""
    hidden = [layer for _ in range(3) for layer in (stax.Dense(1, 2**0.5, 0.1), stax.Relu())]
    return stax.serial(*hidden, stax.Dense(1))


class Run:
    """One fit into a workspace of its own, with its processor time and its wall time."""

    def __init__(self, x: np.ndarray, y: np.ndarray, block_rows: int, *, listen: bool) -> None:
        self.events: list[Event] = []
        self.flushes = 0
        self.listeners_s = 0.0
        """Processor time of the stream and all who listen, their threads included."""
        with tempfile.TemporaryDirectory() as folder:
            model = NTKRegressor(network(), block_rows=block_rows, workspace=folder, tol=1e-4)
            wall, cpu = time.perf_counter(), time.process_time()
            if listen:
                self._fit_and_tell(model, x, y, Path(folder))
            else:
                model.fit(x, y, on_event=ignore)
            self.wall_s = time.perf_counter() - wall
            self.cpu_s = time.process_time() - cpu
        self.dual_coef = model.dual_coef_

    def _fit_and_tell(
        self, model: NTKRegressor, x: np.ndarray, y: np.ndarray, folder: Path
    ) -> None:
        screen = Console(file=io.StringIO(), force_terminal=True, width=120)
        before = set(threading.enumerate())
        with (
            Journal(new_run(open_place(folder), "bench")) as journal,
            ProgressDisplay(screen) as display,
        ):
            theirs = set(threading.enumerate()) - before
            stream = FanOut(display, journal, self.events.append, sample=process_bytes)

            def timed(event: Event) -> None:
                start = time.thread_time()
                stream(event)
                self.listeners_s += time.thread_time() - start

            model.fit(x, y, on_event=timed)
            self.listeners_s += sum(map(_thread_s, theirs))
        self.flushes = journal.flushes


def _thread_s(thread: threading.Thread) -> float:
    """Processor time of a thread that is alive."""
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def ratios(pairs: list[tuple[Run, Run]], name: str) -> str:
    """Smallest, median and largest ratio of a fit with to the fit without beside it."""
    found = sorted(getattr(b, name) / getattr(a, name) for a, b in pairs)
    return f"{found[0]:.3f} / {median(found):.3f} / {found[-1]:.3f}"


def main() -> int:
    """Run, check, print; 0 if every check held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--block-rows", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    keep_to_threads(arguments.threads)
    print(describe_machine(arguments.threads))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((arguments.rows, FEATURES)).astype(np.float32)
    y = np.sin(x[:, 0]) + x[:, 1]
    Run(x[:100], y[:100], 50, listen=True)  # compiled
    pairs, good = [], True
    for _ in range(arguments.repeats):
        pair = tuple(Run(x, y, arguments.block_rows, listen=told) for told in (False, True))
        good &= np.array_equal(pair[0].dual_coef, pair[1].dual_coef)
        pairs.append(pair)
    told = pairs[-1][1]
    blocks = sum(isinstance(e, TaskEvent) and e.item.startswith("(") for e in told.events)
    tasks = sum(isinstance(e, TaskEvent) for e in told.events)
    good &= tasks <= EVENTS_A_BLOCK * blocks
    good &= all(run.flushes <= run.wall_s / FolderParts.flush_every_s + 2 for _, run in pairs)
    print(f"{arguments.rows} rows, {blocks} blocks of {arguments.block_rows}; ratio with / without")
    print(f"wall time       {ratios(pairs, 'wall_s')}  (min / median / max of {len(pairs)})")
    print(f"processor time  {ratios(pairs, 'cpu_s')}")
    for name, title in (("wall_s", "wall time"), ("cpu_s", "processor time")):
        shares = sorted(run.listeners_s / getattr(run, name) for _, run in pairs)
        print(f"listeners took  {median(shares):.2%} of its {title}, at most {shares[-1]:.2%}")
    print(
        f"{len(told.events)} events, {tasks / blocks:.2f} for each block; {told.flushes} flushes "
        f"in {told.wall_s:.1f} s"
    )
    print("all checks held" if good else "CHECK FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
