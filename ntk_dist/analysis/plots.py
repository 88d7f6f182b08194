"""Pictures of a fit: how the residual fell, and what was predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ntk_dist.errors import MissingDependencyError

__all__ = ["draw_fit"]

RIGHT, WRONG = "#1b7f4d", "#c0392b"


def draw_fit(
    path: str | Path,
    residuals: Mapping[str, Sequence[float]],
    tol: float,
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    title: str,
) -> None:
    """Write a picture of the residual per step and of some predicted images.

    Parameters
    ----------
    path
        A .png, .pdf or .svg file.
    residuals
        Largest relative residual after every step, by model.
    tol
        The residual asked for.
    images
        Shape ``(n, height, width)``; the first 40 are drawn.
    labels, predictions
        Shape ``(n,)``: what they are and what was predicted.
    title
        Above the images.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "pictures need matplotlib: pip install 'ntk_dist[plot]'"
        ) from error
    figure = Figure(figsize=(12, 5), layout="constrained")
    FigureCanvasAgg(figure)
    halves = figure.add_gridspec(1, 2, width_ratios=(1, 1.25))
    left, right = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    axes = left.subplots()
    for name, history in residuals.items():
        axes.semilogy(range(1, len(history) + 1), history, marker=".", label=name)
    axes.axhline(tol, color="grey", linestyle="--", linewidth=1)
    axes.annotate(f"asked for: {tol:.0e}", (1, tol), va="bottom", color="grey")
    axes.set(xlabel="step of the solver", ylabel="largest relative residual, all targets")
    axes.set_title("Every step multiplies by the whole Gram matrix once", fontsize=11)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)

    right.suptitle(title, fontsize=11)
    grid = right.subplots(5, 8)
    for cell in grid.flat:
        cell.axis("off")
    for cell, image, label, guess in zip(grid.flat, images, labels, predictions, strict=False):
        cell.imshow(image, cmap="gray_r", interpolation="nearest")
        right_guess = label == guess
        text = f"{guess}" if right_guess else f"{guess} (is {label})"
        cell.set_title(text, fontsize=10, color=RIGHT if right_guess else WRONG, pad=2)
    figure.savefig(path, dpi=120)
