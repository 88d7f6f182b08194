"""What a driver came to, in a file that it writes whole at its very end.

``WORKSPACE/jobs/NAME/RUN/outcome.json`` is one of::

    {"state": "succeeded", "version": 3, "score": 0.97, "report": {...}}
    {"state": "failed", "code": "non_finite_data", "message": "..."}
    {"state": "interrupted", "code": "interrupted", "message": "..."}

A driver that was killed leaves none: the last line of its journal says how far it was.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ntk_dist.errors import ConflictError, NTKDistError, StoreError
from ntk_dist.jobs.lifecycle import Outcome
from ntk_dist.store.place import AbstractPlace
from ntk_dist.wire import Failure, to_json

__all__ = ["OUTCOME_FILE", "concluding", "failure_of", "read_outcome", "write_outcome"]

log = logging.getLogger(__name__)

OUTCOME_FILE = "outcome.json"
INTERRUPTED = Failure(
    code="interrupted",
    message="the driver was told to stop; finished blocks are kept: resume the job to go on",
)


def failure_of(error: BaseException) -> Failure:
    """What a caller is told of an error: of one of ours all, of another that there is one."""
    if isinstance(error, NTKDistError):
        return Failure(code=error.code, message=str(error))
    return Failure(
        code="defect",
        message=f"unexpected {type(error).__name__}; this is a defect of ntk_dist, and the log of "
        "the driver says more",
    )


@contextmanager
def concluding(run: AbstractPlace) -> Iterator[None]:
    """Write down what an error in the body makes of the run; without one nothing is written."""
    try:
        yield
    except ConflictError:
        raise  # the run is that of another driver, whose word counts
    except (KeyboardInterrupt, SystemExit):
        _try_to_write(run, Outcome(state="interrupted", failure=INTERRUPTED))
        raise
    except BaseException as error:
        if not isinstance(error, NTKDistError):
            log.exception("the driver met an unexpected error")
        _try_to_write(run, Outcome(state="failed", failure=failure_of(error)))
        raise


def _try_to_write(run: AbstractPlace, outcome: Outcome) -> None:
    """What went wrong first is what counts: a workspace that is gone too must not hide it."""
    try:
        write_outcome(run, outcome)
    except StoreError as refusal:
        log.warning("what this job came to is not kept: %s", refusal)


def write_outcome(run: AbstractPlace, outcome: Outcome) -> None:
    """Keep what a run came to.

    Raises
    ------
    StoreFullError, StoreUnreachableError
        The workspace cannot be written.
    """
    told: dict[str, Any] = {"state": outcome.state}
    if outcome.failure:
        told |= {"code": outcome.failure.code, "message": outcome.failure.message}
    else:
        told |= {"version": outcome.version, "score": outcome.score, "report": outcome.report}
    (run / OUTCOME_FILE).write_bytes(json.dumps(to_json(told), allow_nan=False).encode())


def read_outcome(run: AbstractPlace) -> Outcome | None:
    """What a run came to; None of one that has not ended, or was killed.

    Raises
    ------
    StoreUnreachableError
        The workspace cannot be read.
    """
    try:
        return Outcome.of(json.loads((run / OUTCOME_FILE).read_bytes()))
    except FileNotFoundError:
        return None
    except ValueError as error:
        # It is written whole, so somebody else wrote there: the run is judged without it.
        log.warning("%s: %s", run / OUTCOME_FILE, error)
        return None
