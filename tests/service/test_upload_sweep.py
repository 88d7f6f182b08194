"""Uploaded files stay as long as a job may want them, and no longer."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ntk_dist.wire import JobState

DAYS = 30
CONTENT = b"a file"


@pytest.fixture
def callers(make_callers):
    return make_callers(upload_days=DAYS)


@pytest.fixture
def upload(callers):
    """A function that uploads a file: its id and its folder."""
    client = callers.may("submit")

    def upload():
        digest = hashlib.sha256(CONTENT).hexdigest()
        body = {"filename": "x.npy", "n_bytes": len(CONTENT), "sha256": digest}
        place = client.post("/v1/uploads", json=body).headers["Location"]
        headers = {"X-Content-Sha256": digest}
        assert client.put(f"{place}/parts/0", content=CONTENT, headers=headers).status_code == 200
        assert client.post(f"{place}:complete").status_code == 200
        upload_id = place.rpartition("/")[2]
        return upload_id, callers.service.place.folder / "uploads" / upload_id

    return upload


def after(days):
    return datetime.now(UTC) + timedelta(days=days, minutes=5)


def test_a_file_that_no_job_reads_is_removed_in_the_end(callers, upload):
    upload_id, folder = upload()
    sweep = callers.service.uploads.sweep
    assert sweep(after(DAYS - 1)) == 0
    assert folder.is_dir()
    assert sweep(after(DAYS)) == 1
    assert not folder.exists()
    assert callers.may("submit").get(f"/v1/uploads/{upload_id}").status_code == 404
    assert sweep(after(DAYS)) == 0


@pytest.mark.parametrize("state", JobState)
def test_a_file_stays_while_a_job_may_read_it(callers, job, upload, state):
    upload_id, folder = upload()
    _, other = upload()
    place = f"upload://{upload_id}"
    made = callers.may("submit").post("/v1/jobs", json={**job, "data": {"x": place, "y": place}})
    assert made.status_code == 202, made.text
    jobs, sweep = callers.service.database.jobs, callers.service.uploads.sweep
    record = jobs.get(made.json()["id"])

    def become(moment):
        nonlocal record
        new = replace(record, state=state, updated=moment, revision=record.revision + 1)
        assert jobs.swap(record, new)
        record = new

    become(after(DAYS - 1))
    assert sweep(after(2 * DAYS - 2)) == 1
    assert folder.is_dir()
    assert not other.exists()
    # Only jobs that are over are forgotten.
    assert sweep(after(2 * DAYS)) == (1 if state.is_over else 0)
    assert folder.exists() == (not state.is_over)
