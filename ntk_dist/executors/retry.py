"""When a failed task runs again and when a slow one gets a twin: decided from values alone.

Nothing here waits, reads a clock or talks to an engine, so every rule is tested without one.
"""

from __future__ import annotations

import errno
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ntk_dist.errors import (
    BlockCorruptError,
    NTKDistError,
    StoreError,
    StoreUnreachableError,
)

__all__ = ["DEFAULT_RETRY", "RetryPolicy", "is_retryable", "is_straggler"]

# Asking again does not help: the code or the data is wrong, and would be wrong on any worker.
_PERMANENT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    RecursionError,
    SyntaxError,
    SystemExit,
    TypeError,
    ValueError,
    pickle.PickleError,
)
_PERMANENT_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG})


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How patient the driving loop is with one task."""

    max_attempts: int = 3
    """Tries of one task, the first included; its straggler twin is not counted."""
    backoff_s: float = 0.1
    """Pause before the second try, in seconds."""
    backoff_factor: float = 4.0
    """Growth of the pause from one try to the next; 0.1 s, 0.4 s, 1.6 s, ..."""
    backoff_max_s: float = 30.0
    """The pause grows no longer than this, in seconds."""
    timeout_s: float | None = None
    """Longest a try may run before it counts as lost, in seconds; None: no limit."""
    straggler_factor: float | None = 3.0
    """A try this many times slower than the median gets a twin; None: never."""
    straggler_min_s: float = 2.0
    """Below this a twin costs more than it saves, in seconds."""
    straggler_min_finished: int = 5
    """Finished tasks needed before their median means anything."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts: expected at least 1, got {self.max_attempts}")
        if min(self.backoff_s, self.backoff_factor, self.backoff_max_s, self.straggler_min_s) < 0:
            raise ValueError(f"expected no negative time or factor, got {self}")
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise ValueError(f"timeout_s: expected more than 0 s, got {self.timeout_s} s")

    def pause_s(self, failures: int) -> float:
        """Seconds to wait after the ``failures``-th failure; free of chance, so runs repeat."""
        # The exponent is bounded because 4.0**1000 overflows and the cap is reached long before.
        growth = self.backoff_factor ** min(failures - 1, 64)
        return min(self.backoff_max_s, self.backoff_s * growth)


DEFAULT_RETRY = RetryPolicy()
"""Three tries and no time limit: how long a block may take depends on the architecture."""


def is_retryable(error: BaseException) -> bool:
    """Whether another try, perhaps on another worker, could go better.

    Lost workers, timeouts, I/O errors and damaged blocks are; wrong arguments, wrong data, a full
    disk and a workspace of another data set are not. What is unknown is tried again.
    """
    if isinstance(error, NTKDistError):
        # A bare StoreError is an I/O failure that nobody could name better.
        return isinstance(error, BlockCorruptError | StoreUnreachableError) or (
            type(error) is StoreError
        )
    if isinstance(error, OSError) and error.errno in _PERMANENT_ERRNO:
        return False
    return not isinstance(error, _PERMANENT)


def is_straggler(elapsed_s: float, finished_s: Sequence[float], retry: RetryPolicy) -> bool:
    """Whether a try that has run for ``elapsed_s`` deserves a twin.

    Parameters
    ----------
    elapsed_s
        Seconds since it started.
    finished_s
        Seconds that finished tasks took.
    retry
        The thresholds.
    """
    if retry.straggler_factor is None or len(finished_s) < retry.straggler_min_finished:
        return False
    return elapsed_s > max(retry.straggler_min_s, retry.straggler_factor * median(finished_s))
