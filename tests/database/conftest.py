"""Records with nothing left out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest

from ntk_dist.database import JobRecord, open_database
from ntk_dist.database.opened import Database
from ntk_dist.wire import Failure, JobState

MOMENT = datetime(2026, 1, 31, 12, 0, 0, 250001, tzinfo=UTC)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with open_database(database_url) as opened:
        yield opened


@pytest.fixture
def moment() -> datetime:
    return MOMENT


@pytest.fixture
def new_record():
    """A function that makes the k-th job, with every field set."""

    def make(k: int, **changes) -> JobRecord:
        made = {
            "id": f"{k:024x}",
            "name": "waves",
            "spec": {"name": "waves", "layers": [["Dense", 1, 1.5]], "text": 'é\0\ud800 "'},
            "state": JobState.FAILED,
            "revision": 7,
            "attempt": 2,
            "resumes": 1,
            "owner": "anna",
            "idempotency_key": f"key-{k}",
            "body_sha256": "0" * 64,
            "launcher": "ray",
            "run": "20260131T120000.000000Z-00ff",
            "handle": {"pid": 17, "created": 1.25},
            "is_cancelling": True,
            "lease_holder": "replica",
            "lease_until": MOMENT + timedelta(seconds=30),
            "created": MOMENT,
            "updated": MOMENT.astimezone(timezone(timedelta(hours=5, minutes=30))),
            "started": MOMENT,
            "finished": MOMENT,
            "failure": Failure(code="breakdown", message="a file \udcff and \0"),
            "model_version": 3,
            "score": 0.1 + 0.2,
            "report": {"steps": 12, "residuals": [1e-7]},
        }
        return JobRecord(**{**made, **changes})

    return make
