"""What layers without spatial axes do to a tile of pairs, in terms of gaps.

With ``s`` the standard deviations of two samples before a layer, ``q`` their covariance and ``Θ``
their NTK, a pair is carried as::

    gap    1 - |c| with the sign of c,    c = q / s s'
    ntk    Θ / s s'

Covariances would lose the angle: after thirty layers all correlations are near 1, and in float32
``1 - c`` has then three digits left. The gap ``G = 1 - c`` keeps all of its digits, because nothing
in these lines cancels. With slopes a, b of the activation, ``m = (a² + b²) / 2`` and
``ω = (a - b)² / m``::

    activation, c >= 0   G <- G - ω √G G lift(G),                   ntk <- (1 - ω √G turn(G)) ntk
    activation, c < 0    G <- ((a + b)² / 2 - a b g) / m - ω √g g lift(g),     g = 1 - |c|
                         ntk <- (a b / m + ω √g turn(g)) ntk
    q <- W q + b         G <- α α' G + ((α - α')² + (β - β')²) / 2, ntk <- α α' ntk + 1 - G
    sum of branches      G <- Σ α α' G + Σ (α - α')² / 2,           ntk <- Σ α α' ntk

(``lift`` and ``turn`` are those of ``arc_cosine.py``.) Each sample alone gives ``α`` and ``β``: the
shares of its standard deviation that come from what entered and from the bias, or from a branch;
``α² + β² = 1``, so that the squares in the last two lines are the gap of two samples that differ in
their norms alone. Near correlation -1 the affine line counts from there: with ``1 + c`` in place of
``1 - c`` on both sides, the bias adds ``2 β β'``. LayerNorm changes neither number. A frozen layer
does not add ``1 - G``, and the standard parameterization weights its two shares.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from ntk_dist.kernels.arc_cosine import lift, turn
from ntk_dist.kernels.gemm import ROWS, WORDS
from ntk_dist.kernels.lanes import (
    WORD_BYTES,
    Lanes,
    compiled,
    load,
    magnitude,
    root,
    spread,
    store,
    with_sign,
)
from ntk_dist.kernels.records import integers

__all__ = ["STEP", "apply", "choose", "fold"]


STEP = np.dtype(
    integers("source target sums begins signed folds acts biased statistic")
    + [(name, "f8") for name in ("bend", "cross", "opposite", "own", "own_bias")]
)
"""One step on a tile. ``source`` and ``target`` are places of tiles, ``statistic`` the first of the
numbers that it needs of each sample: ``α`` and ``β / √2``, or ``α`` for a sum. ``signed`` says
that correlations may be negative, ``folds`` that they still may be afterwards. ``bend``, ``cross``
and ``opposite`` are ``ω``, ``a b / m`` and ``(a + b)² / 2 m``; ``own`` and ``own_bias`` are
what the NTK gains from ``c`` and from ``β β' / 2``."""


@intrinsic
def choose(typing: Any, sign: Any, negative: Any, positive: Any) -> Any:
    """The lanes of ``negative`` where the sign bit of ``sign`` is set, else of ``positive``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = ir.VectorType(ir.IntType(sign.element.bitwidth), sign.count)
        zero = ir.Constant(bits, [0] * sign.count)
        is_set = builder.icmp_signed("<", builder.bitcast(arguments[0], bits), zero)
        return builder.select(is_set, arguments[1], arguments[2])

    return (
        (sign(sign, negative, positive), generate)
        if isinstance(sign, Lanes) and sign == negative == positive
        else None
    )


@compiled
def fold(work: np.ndarray, distance: Any) -> Any:
    """The signed gap of a pair whose correlation is 1 less this distance, in [0, 2]."""
    c = spread(work, 1.0) - distance
    return with_sign(choose(c, spread(work, 2.0) - distance, distance), c)


def _layer(signed: bool, acts: bool) -> Any:
    """A compiled step: perhaps an activation, and an affine layer."""

    @compiled
    def step(work: np.ndarray, op: Any, source: int, target: int, one: int, others: int) -> None:
        lanes = WORD_BYTES // work.itemsize
        width = WORDS * lanes
        size = ROWS * width
        half, full, two = spread(work, 0.5), spread(work, 1.0), spread(work, 2.0)
        bend, own = spread(work, op.bend), spread(work, op.own)
        cross, opposite = spread(work, op.cross), spread(work, op.opposite)
        own_bias = spread(work, op.own_bias)
        one += op.statistic * ROWS
        others += op.statistic * width
        for row in range(ROWS):
            for at in range(row * width, (row + 1) * width, lanes):
                sign = load(work, source + at)
                k = load(work, source + size + at)
                g = magnitude(sign) if signed else sign
                if acts:
                    h = bend * root(g)
                    less, turned = (h * g) * lift(g), h * turn(g)
                    if signed:
                        g = choose(sign, opposite - cross * g, g)
                        k = k * choose(sign, cross + turned, full - turned)
                    else:
                        k = k - turned * k
                    g = g - less
                if op.biased:
                    word = others + at - row * width
                    alpha1, alpha2 = spread(work, work[one + row]), load(work, word)
                    beta1, beta2 = spread(work, work[one + ROWS + row]), load(work, word + width)
                    share = alpha1 * alpha2
                    d_alpha, d_beta = alpha1 - alpha2, beta1 - beta2
                    apart = half * (d_alpha * d_alpha) + d_beta * d_beta
                    before = g
                    g = share * g + apart
                    if signed and not acts:
                        # The bias leads away from -1; past the middle count from 1 again.
                        both = two * (beta1 * beta2)
                        opposed = g + (both + both)
                        near = share * (two - before) + apart
                        stays = choose(sign, opposed - full, full)
                        g = choose(sign, choose(stays, opposed, near), g)
                        sign = stays
                    k = share * k
                    if op.own_bias != 0.0:
                        k = k + own_bias * (beta1 * beta2)
                c = full - g
                if signed and op.folds:
                    g = fold(work, g) if acts else with_sign(g, sign)
                    c = with_sign(full - magnitude(g), g)
                store(work, target + at, g)
                store(work, target + size + at, k + own * c)

    return step


_affine, _signed_activation = _layer(True, False), _layer(True, True)
_activation = _layer(False, True)


@compiled
def _sum(work: np.ndarray, op: Any, source: int, target: int, one: int, others: int) -> None:
    """Add one branch to the sum of branches."""
    lanes = WORD_BYTES // work.itemsize
    width = WORDS * lanes
    size = ROWS * width
    zero, half, two = spread(work, 0.0), spread(work, 0.5), spread(work, 2.0)
    for row in range(ROWS):
        alpha1 = spread(work, work[one + op.statistic * ROWS + row])
        for at in range(row * width, (row + 1) * width, lanes):
            alpha2 = load(work, others + op.statistic * width + at - row * width)
            sign, k = load(work, source + at), load(work, source + size + at)
            total, ntk = zero, zero
            if not op.begins:
                total, ntk = load(work, target + at), load(work, target + size + at)
            share, difference = alpha1 * alpha2, alpha1 - alpha2
            g = magnitude(sign)
            total = total + (share * choose(sign, two - g, g) + half * (difference * difference))
            if op.folds:
                total = fold(work, total)
            store(work, target + at, total)
            store(work, target + size + at, ntk + share * k)


@compiled
def apply(work: np.ndarray, op: Any, tiles: int, one: int, others: int) -> None:
    """One step of a program on one tile of pairs.

    Parameters
    ----------
    work
        All that one thread needs, aligned to 64 bytes.
    op
        A record of ``STEP``.
    tiles : int
        Where in ``work`` the tiles start: signed gaps, then NTK, of each.
    one, others : int
        Where what is known of the samples of the rows and of the columns starts.
    """
    size = 2 * ROWS * WORDS * (WORD_BYTES // work.itemsize)
    source, target = tiles + op.source * size, tiles + op.target * size
    if op.sums:
        _sum(work, op, source, target, one, others)
    elif op.acts:
        if op.signed:
            _signed_activation(work, op, source, target, one, others)
        else:
            _activation(work, op, source, target, one, others)
    else:
        _affine(work, op, source, target, one, others)
