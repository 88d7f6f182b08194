"""The main job on real data that ships in a wheel: scikit-learn's handwritten digits."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ntk_dist import stax
from ntk_dist.analysis.plots import draw_fit
from ntk_dist.events import Event, EventSink, StepEvent
from ntk_dist.jobs.progress import ProgressDisplay
from ntk_dist.kernels.cache import programs_kept_in
from ntk_dist.model import NTKClassifier
from ntk_dist.store.workspace import Workspace
from ntk_dist.units import format_bytes

__all__ = ["run_demo"]

TOL = 1e-6
W_STD, B_STD = 2**0.5, 0.1
"""Weights that keep the signal's size through ReLU layers (He et al. 2015), and a small bias."""


def networks() -> dict[str, stax.Network]:
    """The two architectures of the demonstration, by name."""
    conv = stax.Conv(1, (3, 3), padding="SAME", W_std=W_STD, b_std=B_STD)
    return {
        "fully connected, 3 hidden layers": stax.serial(
            stax.Flatten(),
            *(layer for _ in range(3) for layer in (stax.Dense(1, W_STD, B_STD), stax.Relu())),
            stax.Dense(1),
        ),
        "convolutional, 4 layers": stax.serial(
            *(layer for _ in range(4) for layer in (conv, stax.Relu())),
            stax.Flatten(),
            stax.Dense(1),
        ),
    }


def run_demo(folder: Path, console: Console) -> int:
    """Fit both networks, print a table, and draw ``folder/digits.png``; 0 if both converged."""
    digits = load_digits()
    x = digits.images[..., None]
    x_train, x_test, y_train, y_test = train_test_split(
        x, digits.target, test_size=360, random_state=0, stratify=digits.target
    )
    console.print(
        f"{len(x_train)} handwritten digits of {x.shape[1]} x {x.shape[2]} pixels to learn from, "
        f"{len(x_test)} held out. Each network is infinitely wide and trained to convergence:\n"
        "no gradient descent, one linear system with its exact kernel.\n",
        highlight=False,
    )
    table = Table("network", "accuracy", "steps", "residual", "seconds", "Gram")
    histories: dict[str, list[float]] = {}
    converged = True
    for name, network in networks().items():
        history = histories.setdefault(name, [])
        model = NTKClassifier(
            network, preprocess=["standardize_channels"], workspace=folder / "ws", tol=TOL
        )
        console.print(name, style="bold")
        start = time.perf_counter()
        cache = Workspace(folder / "ws").compilation_cache
        with programs_kept_in(cache), ProgressDisplay(console) as display:
            model.fit(x_train, y_train, on_event=_recording(display, history))
            predictions = model.predict(x_test, on_event=display)
        seconds = time.perf_counter() - start
        report = model.report_
        converged &= report.solve.status.is_success
        table.add_row(
            name,
            f"{np.mean(predictions == y_test):.1%}",
            str(report.iterations),
            f"{max(report.residuals):.1e}",
            f"{seconds:.1f}",
            f"{report.gram.n_blocks} blocks, {format_bytes(report.gram.n_bytes)}",
        )
    console.print(table)
    # Mistakes first: they are what a person wants to see.
    wrong = predictions != y_test
    order = np.argsort(~wrong, kind="stable")
    picture = folder / "digits.png"
    draw_fit(
        picture,
        histories,
        TOL,
        x_test[order, :, :, 0],
        y_test[order],
        predictions[order],
        title=f"Held-out digits as the convolutional network reads them: its {wrong.sum()} "
        f"mistakes of {len(y_test)} first",
    )
    console.print(
        f"picture: {picture}\nThe blocks are kept in {folder / 'ws'}: a second run computes none.",
        highlight=False,
    )
    return 0 if converged else 3


def _recording(display: ProgressDisplay, history: list[float]) -> EventSink:
    """A sink that shows every event and keeps the largest residual of every step."""

    def sink(event: Event) -> None:
        if isinstance(event, StepEvent):
            history.append(max(event.residuals))
        display(event)

    return sink
