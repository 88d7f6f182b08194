"""Conjugate gradients as a value and a pure function: the state, and the state after one pass.

Hestenes and Stiefel (1952), one recurrence per target. The state is all there is to keep between
passes, so whoever writes it down can go on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_dist.solver.preconditioners import AbstractPreconditioner
from ntk_dist.solver.result import SolveStatus
from ntk_dist.solver.resume import arrays_of, values_of
from ntk_dist.solver.ritz import LanczosTrace

__all__ = ["CGRules", "CGState", "advance", "start"]

Array = NDArray[np.float64]

_SEVERITY = (
    SolveStatus.CONVERGED,
    SolveStatus.MAX_STEPS,
    SolveStatus.STAGNATED,
    SolveStatus.INDEFINITE,
    SolveStatus.NON_FINITE,
)
"""Mildest first; a target's verdict is a place in this list, and the report tells the worst."""
_CONVERGED, _MAX_STEPS, _STAGNATED, _INDEFINITE, _NON_FINITE = range(len(_SEVERITY))
_NO_VERDICT = -1

DRIFT = 0.1
"""Share of the true residual that the recurrence may be off before the direction starts afresh."""
FRUITLESS_RESTARTS = 3
"""A target that is no better off by half after so many restarts has met its rounding floor, or the
end of the range of a singular matrix."""


@dataclass(frozen=True, kw_only=True)
class CGRules:
    """When to look and when to stop."""

    tol: float
    """Relative residual that every target must truly meet."""
    max_steps: int
    check_every: int
    """Steps between checks of the true residual."""
    patience: int
    """Steps without a better true residual before a target counts as stagnated, if they are also
    half of all its steps."""
    flat: float
    """Curvature p'Ap / p'p up to this, of either sign, may be rounding of the product."""
    rounding: float
    """Curvature down to minus this may be rounding of the entries."""


@dataclass(frozen=True, kw_only=True)
class CGState:
    """Everything the next pass depends on; targets are scaled to unit right-hand sides.

    Vectors are kept for live targets only, of shape ``(n, n_live)``; records of all targets have
    shape ``(n_targets,)``.
    """

    live: NDArray[np.intp]
    """Targets still being worked on."""
    x: Array
    r: Array
    """Residuals by the recurrence, without what was left aside."""
    aside: Array
    """Norm of their shares in flat directions, which no answer changes: shape ``(n_live,)``."""
    p: Array
    """Search directions."""
    rz: Array
    """r'P^-1 r, shape ``(n_live,)``."""
    lead_x: Array
    """Answers of the smallest residual by the recurrence: what is checked if a target has to give
    up, since on a singular system the latest answer may be far worse."""
    lead: Array
    """Their residuals by the recurrence, shape ``(n_live,)``."""
    checking: NDArray[np.bool_]
    """Whether the next product of a live target is of its answer, shape ``(n_live,)``."""
    best_x: Array
    """Best answer checked so far, all targets: shape ``(n, n_targets)``."""
    best: Array
    """Its true residual."""
    steps: NDArray[np.intp]
    checked_at: NDArray[np.intp]
    """Step of the last check."""
    improved_at: NDArray[np.intp]
    """Step of the last check that found a better answer."""
    fruitless: NDArray[np.intp]
    """Restarts in a row that did not halve the residual."""
    verdict: NDArray[np.intp]
    """How a target ends, or will once its answer is checked."""
    residual: Array
    """Latest residual of each target, true for those that ended: what is shown meanwhile."""
    trace: LanczosTrace
    rayleigh_smallest: float = np.inf
    norm_largest: float = 0.0
    """Largest ||A p|| / ||p|| seen: a lower bound of the largest eigenvalue."""
    products: int = 0

    @property
    def wanted(self) -> Array:
        """What to multiply by the matrix next, of shape ``(n, n_live)``."""
        return np.where(self.checking, self.x, self.p)

    @property
    def step(self) -> int:
        """Most steps any target took."""
        return int(np.max(self.steps, initial=0))

    @property
    def worst(self) -> SolveStatus:
        """The gravest verdict so far over all targets."""
        return _SEVERITY[int(np.max(self.verdict, initial=_CONVERGED))]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything by its name, to be written down."""
        trace = {"alphas": self.trace.alphas, "betas": self.trace.betas}
        return arrays_of(self, without="trace") | trace

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> CGState:
        """The inverse of :meth:`to_arrays`, for a right-hand side of ``shape``.

        Raises
        ------
        KeyError, ValueError
            A part is missing, or has the shape of another system.
        """
        trace = LanczosTrace(arrays["alphas"], arrays["betas"])
        state = cls(**values_of(cls, arrays, without="trace"), trace=trace)
        wide = {state.x.shape, state.r.shape, state.p.shape, state.lead_x.shape}
        if state.best_x.shape != shape or wide != {(shape[0], state.live.size)}:
            raise ValueError(f"expected a state of shape {shape}, got {state.best_x.shape}, {wide}")
        live = {state.aside.shape, state.rz.shape, state.lead.shape, state.checking.shape}
        every = {one.shape for one in (state.best, state.steps, state.verdict, state.residual)}
        every |= {one.shape for one in (state.checked_at, state.improved_at, state.fruitless)}
        if live != {state.live.shape} or every != {shape[1:]}:
            raise ValueError(f"expected records of {shape[1]} targets, got {live}, {every}")
        return state


def start(y: Array, preconditioner: AbstractPreconditioner, x0: Array | None = None) -> CGState:
    """The state before the first pass, for unit (or zero) columns ``y`` of shape ``(n, k)``."""
    n, k = y.shape
    residual = np.linalg.norm(y, axis=0)
    live = np.flatnonzero(residual > 0)
    r = y[:, live]
    x = np.zeros_like(r) if x0 is None else x0[:, live]
    z = preconditioner.solve(r)
    zeros = np.zeros(k, dtype=np.intp)
    return CGState(
        live=live,
        x=x,
        r=r,
        aside=np.zeros(live.size),
        p=z,
        rz=_dots(r, z),
        lead_x=x,
        lead=residual[live],
        # A guess is first of all checked, which gives its residual and first direction.
        checking=np.full(live.size, x0 is not None),
        best_x=np.zeros((n, k)),
        best=residual,
        steps=zeros,
        checked_at=zeros,
        improved_at=zeros,
        fruitless=zeros,
        verdict=np.where(residual > 0, _NO_VERDICT, _CONVERGED),
        residual=residual,
        trace=LanczosTrace.empty(k),
    )


def advance(
    state: CGState,
    product: Array,
    y: Array,
    preconditioner: AbstractPreconditioner,
    rules: CGRules,
) -> CGState:
    """The state after one pass: each live target has stepped, or was checked.

    Parameters
    ----------
    state
        The state before; it stays as it is.
    product : (n, n_live)
        The matrix times ``state.wanted``.
    y : (n, n_targets)
        The same unit columns as in :func:`start`.
    preconditioner
        The same as in :func:`start`.
    rules
        When to look and when to stop.
    """
    # A breakdown shows as a number that is not finite; it gets a verdict, not a warning.
    with np.errstate(all="ignore"):
        before = state
        state, restarted = _check(state, product, y, rules)
        state, alpha, flat = _step(state, product, rules)
        state = _turn(state, alpha, restarted | flat, preconditioner)
        return _settle(state, before, rules)


def _check(
    state: CGState, product: Array, y: Array, rules: CGRules
) -> tuple[CGState, NDArray[np.bool_]]:
    """True residuals of the targets under check, and which live targets start afresh from them."""
    here = np.flatnonzero(state.checking)
    targets = state.live[here]
    restarted = np.zeros(state.live.size, dtype=np.bool_)
    if not here.size:
        return state, restarted
    true_r = y[:, targets] - product[:, here]
    true = np.linalg.norm(true_r, axis=0)
    before, steps = state.best[targets], state.steps[targets]
    # A guess with a larger residual than zero has, or one that is no number, is none to start from.
    worse = (steps == 0) & ~(true <= before)
    x = state.x.copy()
    x[:, here[worse]] = 0.0
    true_r[:, worse] = y[:, targets[worse]]
    true = np.where(worse, before, true)
    better = true < before
    best, best_x = state.best.copy(), state.best_x.copy()
    best[targets[better]] = true[better]
    best_x[:, targets[better]] = x[:, here[better]]
    improved_at = _put(
        state.improved_at,
        targets,
        np.where(true < 0.99 * before, steps, state.improved_at[targets]),
    )
    drifted = np.linalg.norm(true_r - state.r[:, here], axis=0) > DRIFT * true
    drifted |= steps == 0
    no_use = drifted & ~worse & (true > 0.5 * before)
    fruitless = np.where(drifted & ~no_use, 0, state.fruitless[targets] + no_use)
    # Residuals of ill-conditioned systems rest for long: protein at 4000 rows found nothing better
    # between steps 600 and 900, and converged at 2551. So patience grows with the way behind.
    idle = steps - improved_at[targets]
    stagnant = (fruitless >= FRUITLESS_RESTARTS) | (idle >= np.maximum(rules.patience, steps / 2))
    verdict = state.verdict[targets]
    verdict = np.where(stagnant & (verdict == _NO_VERDICT), _STAGNATED, verdict)
    verdict = np.where(np.isfinite(true), verdict, _NON_FINITE)
    verdict = np.where(true <= rules.tol, _CONVERGED, verdict)
    r = state.r.copy()
    r[:, here[drifted]] = true_r[:, drifted]
    restarted[here[drifted]] = True
    state = replace(
        state,
        x=x,
        r=r,
        aside=np.where(restarted, 0.0, state.aside),
        best=best,
        best_x=best_x,
        checked_at=_put(state.checked_at, targets, steps),
        improved_at=improved_at,
        fruitless=_put(state.fruitless, targets, fruitless),
        verdict=_put(state.verdict, targets, verdict),
        trace=state.trace.restarted(targets[drifted]),
    )
    return state, restarted


def _step(
    state: CGState, product: Array, rules: CGRules
) -> tuple[CGState, Array, NDArray[np.bool_]]:
    """Answers and residuals moved along the directions, how far (NaN: not), and who cannot be.

    A flat direction, one without curvature, lies in the null space, where no answer changes the
    residual. The residual's share of it is left aside, so that the rest can be reduced first.
    """
    square, curvature = _dots(state.p, state.p), _dots(state.p, product)
    finite = np.isfinite(product).all(axis=0)
    asked = ~state.checking
    norms, rayleigh = np.sqrt(_dots(product, product) / square), curvature / square
    seen = asked & finite & (square > 0)
    norm_largest = float(np.max(norms, initial=state.norm_largest, where=seen))
    curved = asked & finite & (rayleigh > rules.flat)
    indefinite = asked & finite & (rayleigh < -rules.rounding)
    flat = asked & finite & ~curved & ~indefinite
    fruitless = state.fruitless[state.live] + flat
    verdict = state.verdict[state.live]
    verdict = np.where(flat & (fruitless >= FRUITLESS_RESTARTS), _STAGNATED, verdict)
    verdict = np.where(indefinite, _INDEFINITE, verdict)
    verdict = np.where(asked & ~finite, _NON_FINITE, verdict)
    alpha = np.where(curved, state.rz / curvature, np.nan)
    length = np.where(np.isnan(alpha), 0.0, alpha)
    share = np.where(flat & (square > 0), _dots(state.p, state.r) / square, 0.0)
    state = replace(
        state,
        x=state.x + length * state.p,
        r=state.r - np.where(np.isnan(alpha), share * state.p, length * product),
        aside=np.hypot(state.aside, share * np.sqrt(square)),
        fruitless=_put(state.fruitless, state.live, fruitless),
        trace=state.trace.restarted(state.live[flat]),
        steps=_put(state.steps, state.live, state.steps[state.live] + ~np.isnan(alpha)),
        verdict=_put(state.verdict, state.live, verdict),
        rayleigh_smallest=float(np.min(rayleigh, initial=state.rayleigh_smallest, where=seen)),
        norm_largest=norm_largest,
        products=state.products + 1,
    )
    return state, alpha, flat


def _turn(
    state: CGState,
    alpha: Array,
    restarted: NDArray[np.bool_],
    preconditioner: AbstractPreconditioner,
) -> CGState:
    """New directions for the targets that stepped, steepest descent for those that start afresh."""
    moved = ~np.isnan(alpha)
    here = np.flatnonzero(moved | restarted)
    if not here.size:
        return state
    z = preconditioner.solve(state.r[:, here])
    rz = _dots(state.r[:, here], z)
    beta = np.where(restarted[here], 0.0, rz / state.rz[here])
    p = state.p.copy()
    p[:, here] = z + beta * p[:, here]
    # A residual that is not zero has a positive product with P^-1 unless P is indefinite.
    verdict = state.verdict.copy()
    targets = state.live[here]
    denied = (rz <= 0) & np.any(state.r[:, here] != 0, axis=0) & (verdict[targets] == _NO_VERDICT)
    verdict[targets[denied]] = _INDEFINITE
    alphas, betas = np.full((2, len(state.steps)), np.nan)
    alphas[state.live], betas[targets] = alpha, beta
    return replace(
        state,
        p=p,
        rz=_put(state.rz, here, rz),
        verdict=verdict,
        trace=state.trace.extended(alphas, betas) if moved.any() else state.trace,
    )


def _settle(state: CGState, before: CGState, rules: CGRules) -> CGState:
    """Targets that are done let go, and for the others whether to step or to check next."""
    targets, checked = state.live, before.checking
    claimed = np.linalg.norm(state.r, axis=0)
    verdict = state.verdict[targets]
    verdict = np.where(np.isfinite(claimed), verdict, _NON_FINITE)
    spent = state.steps[targets] >= rules.max_steps
    verdict = np.where(spent & (verdict == _NO_VERDICT), _MAX_STEPS, verdict)
    last_check = checked & (before.verdict[targets] != _NO_VERDICT)
    ended = last_check | (verdict == _CONVERGED) | (verdict == _NON_FINITE)
    due = state.steps[targets] - state.checked_at[targets] >= rules.check_every
    gave_up = verdict != _NO_VERDICT
    checking = gave_up | (~checked & ((claimed <= rules.tol) | due))
    whole = np.hypot(claimed, state.aside)
    leads = whole <= state.lead
    lead_x = np.where(leads, state.x, state.lead_x)
    residual = _put(state.residual, targets, np.where(ended, state.best[targets], whole))
    stay = np.flatnonzero(~ended)
    return replace(
        state,
        live=targets[stay],
        x=np.where(gave_up, lead_x, state.x)[:, stay],
        r=state.r[:, stay],
        aside=state.aside[stay],
        p=state.p[:, stay],
        rz=state.rz[stay],
        lead_x=lead_x[:, stay],
        lead=np.minimum(whole, state.lead)[stay],
        checking=checking[stay],
        verdict=_put(state.verdict, targets, verdict),
        residual=residual,
    )


def _dots(a: Array, b: Array) -> Array:
    """Column by column."""
    dots: Array = np.einsum("ij,ij->j", a, b)
    return dots


def _put(array: NDArray[Any], where: NDArray[np.intp], values: NDArray[Any]) -> NDArray[Any]:
    """A copy of ``array`` with some entries replaced."""
    changed = array.copy()
    changed[where] = values
    return changed
