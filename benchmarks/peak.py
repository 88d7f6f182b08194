"""Arithmetic a second that this machine reaches: what counted flops are held against."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from peers.serving import timed

from ntk_dist.kernels.lanes import aligned, compiled, lane_count, load, store

__all__ = ["peak_flops"]

Loop: TypeAlias = Callable[[np.ndarray, int], None]
TURNS = 10_000_000
"""Of a loop: some 25 ms with six chains."""


@compiled
def six_chains(words: np.ndarray, turns: int) -> None:
    """Multiply-adds in six words: with the factor they fit 16 registers of half a word."""
    x = load(words, 0)
    a, b, c, d, e, f = x, x, x, x, x, x
    for _ in range(turns):
        a, b, c = a * x + x, b * x + x, c * x + x
        d, e, f = d * x + x, e * x + x, f * x + x
    store(words, len(words) // 2, a + b + c + d + e + f)


@compiled
def twelve_chains(words: np.ndarray, turns: int) -> None:
    """Multiply-adds in twelve words: enough where two units take whole words."""
    x = load(words, 0)
    a, b, c, d, e, f = x, x, x, x, x, x
    g, h, i, j, k, m = x, x, x, x, x, x
    for _ in range(turns):
        a, b, c = a * x + x, b * x + x, c * x + x
        d, e, f = d * x + x, e * x + x, f * x + x
        g, h, i = g * x + x, h * x + x, i * x + x
        j, k, m = j * x + x, k * x + x, m * x + x
    store(words, len(words) // 2, a + b + c + d + e + f + g + h + i + j + k + m)


def peak_flops(dtype: str, threads: int) -> float:
    """Flops a second with all threads in registers, a multiply-add being two: the better of two."""
    lanes = lane_count(np.dtype(dtype).itemsize)
    words = [_two_words(dtype, lanes) for _ in range(threads)]
    rates = []
    with ThreadPoolExecutor(threads) as pool:
        for function, chains in ((six_chains, 6), (twelve_chains, 12)):
            function(words[0], 0)  # compiled
            seconds, _ = timed(functools.partial(_everywhere, pool, function, words))
            rates.append(threads * TURNS * chains * lanes * 2 / seconds)
    return max(rates)


def _everywhere(pool: Executor, function: Loop, words: list[np.ndarray]) -> None:
    """One loop in every thread."""
    list(pool.map(function, words, [TURNS] * len(words)))


def _two_words(dtype: str, lanes: int) -> np.ndarray:
    """An aligned word of halves, ``x * x + x`` of which stays below 1, and room for the result."""
    words = aligned(2 * lanes, dtype)
    words[:] = 0.5
    return words
