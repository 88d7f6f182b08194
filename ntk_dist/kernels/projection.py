"""What a kernel costs on this machine, in numbers and in words."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ntk_dist.units import format_bytes, format_count

__all__ = ["Projection", "measured_cost", "measured_rate"]

FIRST_FLOPS = 1e8
"""Of the first trial: milliseconds for a fused engine, a tenth of a second for the recursion."""
FIRST_ROWS = 16
"""Or this many on either side, if that is more: fused engines take 16 pairs at a time."""
MOST_FLOPS = 2e11
"""A trial never does more: a second for a fused engine, a minute for the recursion."""
LONG_ENOUGH_S = 0.2
MANY_SAMPLES = 256
"""Evaluated together where one takes no time to speak of, only to be called for."""
CALL_S = 0.02


@dataclass(frozen=True)
class Projection:
    """An evaluation, and what it takes."""

    explanation: str
    """Which evaluation it is and why."""
    flops_per_pair: int
    working_bytes: int
    """The working memory of one pair: the least that a block can do with."""
    entries_per_s: float | None
    """Measured here and now; None where one pair alone would take too long or too much memory."""
    statistics_s: float | None
    """For what is known of one sample alone, in seconds; likewise."""
    threads: int
    """What both were measured with."""

    def seconds(self, entries: float, samples: float = 0) -> float | None:
        """How long so many entries, and the statistics of so many samples, take here."""
        if self.entries_per_s is None or self.statistics_s is None:
            return None
        return entries / self.entries_per_s + samples * self.statistics_s

    @property
    def rate(self) -> str:
        """The speed in words."""
        if self.entries_per_s is None:
            return "not measured: one pair alone is too large"
        return f"about {format_count(self.entries_per_s)} entries a second ({self.threads} threads)"

    def __str__(self) -> str:
        cost = (
            f"{format_count(self.flops_per_pair)} flops a pair in "
            f"{format_bytes(self.working_bytes)} of working memory or more"
        )
        return f"{self.explanation}; {cost}; speed here {self.rate}"

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


def measured_rate(
    evaluate: Callable[[int], object], flops_per_pair: int, most_rows: int
) -> float | None:
    """Entries a second of blocks that ``evaluate(n)`` computes, n x n each.

    Blocks grow until one takes long enough to be measured, or until ``most_rows`` a side. Each
    size runs twice: the first run compiles.
    """
    affordable = math.isqrt(int(MOST_FLOPS / max(1, flops_per_pair)))
    most = min(most_rows, affordable)
    if most < 1:
        return None
    rows = min(most, max(FIRST_ROWS, math.isqrt(int(FIRST_FLOPS / max(1, flops_per_pair)))))
    while True:
        seconds = _second_run(evaluate, rows)
        if seconds >= LONG_ENOUGH_S or rows == most:
            return rows**2 / seconds
        # As many as should do, but no leap on the word of a short run.
        growth = min(4.0, 1.5 * math.sqrt(LONG_ENOUGH_S / seconds))
        rows = min(most, math.ceil(growth * rows))


def measured_cost(evaluate: Callable[[int], object], most_samples: int) -> float:
    """Seconds per sample of what ``evaluate(n)`` computes of n samples, at most so many."""
    seconds = _second_run(evaluate, 1)
    many = min(MANY_SAMPLES, most_samples)
    return seconds if seconds > CALL_S else _second_run(evaluate, many) / many


def _second_run(evaluate: Callable[[int], object], rows: int) -> float:
    """Seconds of a run that finds everything compiled."""
    evaluate(rows)
    start = time.perf_counter()
    evaluate(rows)
    return time.perf_counter() - start
