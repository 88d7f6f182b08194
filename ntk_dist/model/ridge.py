"""The ridge of a fit: the one given, or the best of several, which are compared only once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from ntk_dist.errors import NotConvergedError, StoreError
from ntk_dist.events import Phases
from ntk_dist.model.gram import Resources
from ntk_dist.model.parameters import Parameters
from ntk_dist.solver import AbstractOperator, RidgeScore, best_ridge, score_ridges
from ntk_dist.store.checkpoint import Checkpoint

__all__ = ["RidgeChoice", "choose_ridge"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RidgeChoice:
    """What to add to the diagonal, and why."""

    ridge: float
    scores: tuple[RidgeScore, ...] = ()
    """How the ridges did, where there were several to choose from."""
    checkpoint: Checkpoint | None = None
    """Where the scores are kept for the same fit if it is cut off later."""


def choose_ridge(
    gram: AbstractOperator,
    y: np.ndarray,
    counts: np.ndarray,
    *,
    identity: Mapping[str, str],
    parameters: Parameters,
    resources: Resources,
    phases: Phases,
) -> RidgeChoice:
    """The ridge given, or the one of several that predicts held-out rows best.

    Comparing them may take longer than the solve (``protein``, 39,721 distinct rows), so the scores
    are written down.

    Parameters
    ----------
    gram, y, counts
        See :func:`~ntk_dist.solver.ridge_choice.score_ridges`.
    identity
        Of the system: what the scores depend on besides the parameters.
    parameters
        With the ridges.
    resources
        Where the scores are kept, and how much memory the comparison may take.
    phases
        Times it, and passes events on.

    Raises
    ------
    NotConvergedError
        None of several ridges could be judged.
    """
    if not isinstance(parameters.ridge, tuple):
        return RidgeChoice(parameters.ridge)
    max_bytes = resources.settings.preconditioner_max_bytes
    rules = {
        "ridges": repr(parameters.ridge),
        "random_state": str(parameters.random_state),
        "max_bytes": str(max_bytes),
    }
    checkpoint = resources.workspace.checkpoint({**identity, **rules})
    known = _read(checkpoint)
    with phases.phase("ridge"):
        scores = known or score_ridges(
            gram,
            y,
            parameters.ridge,
            counts=counts,
            generator=np.random.default_rng(parameters.random_state),
            max_bytes=max_bytes,
            on_step=phases.on_event,
        )
    for score in scores:
        if not score.has_converged:
            log.warning(
                "ridge %g is not among the choices: on the rows kept its residual was still %.1e",
                score.ridge,
                score.residual,
            )
    best = best_ridge(scores)
    if not known:
        _write(checkpoint, scores)
    return RidgeChoice(best, scores, checkpoint)


def _write(checkpoint: Checkpoint | None, scores: tuple[RidgeScore, ...]) -> None:
    """Failing to is no reason to give the fit up: it is logged."""
    if checkpoint is None:
        return
    names = [field.name for field in fields(RidgeScore)]
    try:
        checkpoint.save({name: np.array([getattr(s, name) for s in scores]) for name in names})
    except StoreError as error:
        log.warning("the scores of the ridges were not written down: %s", error)


def _read(checkpoint: Checkpoint | None) -> tuple[RidgeScore, ...]:
    """The scores that a fit which was cut off left behind; none where there are none."""
    found = checkpoint.load() if checkpoint else None
    if found is None:
        return ()
    try:
        columns = {field.name: found[field.name].tolist() for field in fields(RidgeScore)}
        rows = zip(*columns.values(), strict=True)
        scores = tuple(RidgeScore(**dict(zip(columns, row, strict=True))) for row in rows)
        best_ridge(scores)
    except (KeyError, TypeError, ValueError, NotConvergedError) as error:
        log.warning("comparing the ridges afresh, not from %s: %s", checkpoint, error)
        return ()
    return scores
