"""Whether a request is made again, and when: decided from values alone.

Only what is safe is repeated. A service that says when to ask again (429, or 503, with Retry-After)
has not begun with the request. A connection that could not be made has carried nothing. One that
broke may have carried everything, so the request is repeated only if a second one does no harm: it
reads (as a prediction does, though it is a POST), it replaces, or it has a key by which the service
knows it. A request that took too long is
not repeated: it would take as long again, and the service would work twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ntk_dist.errors import InvalidInputError, NTKDistError

__all__ = ["FailedTry", "Patience"]

WAITING_S = 120.0
"""A service that is started again, on another machine perhaps, is back within this, in seconds."""


@dataclass(frozen=True, kw_only=True)
class FailedTry:
    """Why one try of a request came to nothing."""

    error: NTKDistError
    asked_s: float | None = None
    """Seconds after which the service wants to be asked again."""
    may_repeat: bool = False
    """Whether a second try is safe, and could go better."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often and how long a request is repeated."""

    retries: int = 5
    """Tries after the first."""
    within_s: float = 60.0
    """No try starts later than this after the first, in seconds."""
    backoff_s: float = 0.25
    """Pause before the second try; it doubles from try to try: 0.25 s, 0.5 s, 1 s, ..."""
    backoff_max_s: float = 8.0

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise InvalidInputError(f"retries: expected 0 or more, got {self.retries}")

    def pause_s(
        self, failure: FailedTry, failures: int, *, elapsed_s: float, chance: float
    ) -> float | None:
        """Seconds to wait before the next try; None if there is to be none.

        Parameters
        ----------
        failure
            The last one.
        failures
            How many there were.
        elapsed_s
            Seconds since the first try began.
        chance
            A random number from 0 to 1, so that clients that failed together do not come back
            together.
        """
        is_safe = failure.may_repeat or failure.asked_s is not None
        if not is_safe or failures > self.retries:
            return None
        # The exponent is bounded because 2.0**1100 overflows.
        pause = min(self.backoff_max_s, self.backoff_s * 2.0 ** min(failures - 1, 64))
        pause *= 0.5 + 0.5 * chance
        if failure.asked_s is not None:
            # Never before the time that the service named: it would only say so again.
            pause = max(pause, failure.asked_s * (1 + 0.25 * chance))
        return pause if elapsed_s + pause <= self.within_s else None

    def while_waiting(self) -> Patience:
        """For somebody who waits for hours anyway: as often as it takes a service to come back."""
        return replace(self, retries=1000, within_s=WAITING_S) if self.retries else self
