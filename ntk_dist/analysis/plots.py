"""Pictures of a fit: how the residual fell, what was predicted, and how ridges compare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ntk_dist.errors import InvalidInputError, MissingDependencyError
from ntk_dist.solver.ridge_choice import RidgeScore, best_ridge

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_fit", "plot_ridges"]

RIGHT, WRONG, PLAIN = "#1b7f4d", "#c0392b", "#2b5c8a"
WIDEST = 1e150
"""A logarithmic axis with its margins has to end within float64: not so one to 1e300."""
LOG_FROM = 20
"""Errors that differ by more than this factor are drawn on a logarithmic axis, else none but the
largest could be told from zero."""


class _ComparedRidges(Protocol):
    """A report of a fit."""

    @property
    def ridge_scores(self) -> Sequence[RidgeScore]:
        """How each ridge did."""


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
    figure = _figure(12, 5)
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


def plot_ridges(fit: _ComparedRidges | Sequence[RidgeScore], ax: Axes | None = None) -> Axes:
    """The error of every ridge on held-out rows; the one that was chosen is marked.

    Ridge 0 has no place on a logarithmic axis and stands at its left edge, beyond a break. Ridges
    that were not solved to the tolerance are hollow: no one of them can be chosen.

    Parameters
    ----------
    fit
        The report of a fit with several ridges, or the scores themselves.
    ax
        Where to draw; without it on a figure of its own, which is no figure of pyplot's:
        ``plot_ridges(model.report_).figure.savefig("ridges.png")``.

    Raises
    ------
    InvalidInputError
        No ridges were compared, or one of them is too small or too large for an axis.
    MissingDependencyError
        matplotlib is not installed.
    """
    given = fit if isinstance(fit, Sequence) else fit.ridge_scores
    scores = sorted(given, key=lambda score: score.ridge)
    if not scores:
        raise InvalidInputError(
            "expected a fit that compared several ridges, got one with a single ridge; "
            "fit with ridge=[0.001, 0.1, 10]"
        )
    if strange := [s.ridge for s in scores if s.ridge and not 1 / WIDEST <= s.ridge <= WIDEST]:
        raise InvalidInputError(
            f"expected ridges of 0 or between {1 / WIDEST:g} and {WIDEST:g} to draw, got "
            f"{strange[0]:g}: leave its score out"
        )
    axes = _figure(6, 4).subplots() if ax is None else ax
    edge = _left_edge(scores)
    places = [score.ridge or edge for score in scores]
    errors = [score.error for score in scores]
    axes.set_xscale("log")
    if max(errors) > LOG_FROM * min(errors) > 0:
        axes.set_yscale("log")
    first = 1 if scores[0].ridge == 0 else 0
    axes.plot(places[first:], errors[first:], color=PLAIN, linewidth=1.2, zorder=1)
    axes.plot(places[: 2 * first], errors[: 2 * first], color=PLAIN, linestyle=":", zorder=1)
    for place, score in zip(places, scores, strict=True):
        fill, edge_color = (PLAIN, PLAIN) if score.has_converged else ("white", WRONG)
        axes.plot(place, score.error, "o", markerfacecolor=fill, markeredgecolor=edge_color)
    if any(score.has_converged for score in scores):
        _mark_chosen(axes, scores, places)
    if not all(score.has_converged for score in scores):
        axes.plot([], [], "o", markerfacecolor="white", markeredgecolor=WRONG, label="not solved")
        axes.legend(frameon=False)
    _label_ridges(axes, places, has_zero=first == 1)
    axes.set(xlabel="ridge", ylabel="error on held-out rows (root mean square)")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that no window and no global state knows of."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "pictures need matplotlib: pip install 'ntk_dist[plot]'"
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _left_edge(scores: Sequence[RidgeScore]) -> float:
    """Where ridge 0 stands: a decade or more to the left of the smallest other one."""
    smallest = min((score.ridge for score in scores if score.ridge > 0), default=1.0)
    return 10.0 ** (math.floor(math.log10(smallest)) - 1)


def _mark_chosen(axes: Axes, scores: Sequence[RidgeScore], places: Sequence[float]) -> None:
    chosen = best_ridge(scores)
    index = next(k for k, score in enumerate(scores) if score.ridge == chosen)
    error = scores[index].error
    axes.plot(places[index], error, "o", color=RIGHT, markersize=10, zorder=3)
    axes.annotate(
        f"chosen: {chosen:g}\nerror {error:.4g}",
        (places[index], error),
        xytext=(0, -10),  # below a minimum there is room
        textcoords="offset points",
        ha="center",
        va="top",
        color=RIGHT,
    )
    axes.margins(x=0.1, y=0.25)


def _label_ridges(axes: Axes, places: Sequence[float], *, has_zero: bool) -> None:
    """Decades below the axis, at most eight of them; 0 for the ridge that is none."""
    low, high = math.floor(math.log10(min(places))), math.ceil(math.log10(max(places)))
    every = math.ceil((high - low + 1) / 8)
    decades = range(low + has_zero, high + 1, every)
    labels = [f"$10^{{{k}}}$" for k in decades]
    if has_zero:
        axes.set_xticks([10.0**low, *(10.0**k for k in decades)], ["0", *labels])
        axes.annotate(
            "//",
            (10.0 ** (low + 0.5), 0),
            xycoords=axes.get_xaxis_transform(),
            ha="center",
            va="center",
            backgroundcolor="white",
            annotation_clip=False,
        )
    else:
        axes.set_xticks([10.0**k for k in decades], labels)
    axes.minorticks_off()
