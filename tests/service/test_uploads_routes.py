"""Uploads over HTTP: in parts, cut off, resumed, damaged."""

import hashlib
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from ntk_dist.errors import ConflictError
from ntk_dist.service.uploads import KEPT
from ntk_dist.store.inputs import read_array
from ntk_dist.store.location import open_place
from ntk_dist.wire import JobState, Upload, of_json


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def content(rng) -> bytes:
    """A file that takes three parts of 2 KiB."""
    return rng.bytes(5000)


@pytest.fixture
def client(make_callers):
    return make_callers(max_body_bytes=2048, max_upload_bytes=2**20).may("submit")


def begin(client, content: bytes, filename: str = "waves.npz", **changes):
    body = {"filename": filename, "n_bytes": len(content), "sha256": sha256(content), **changes}
    return client.post("/v1/uploads", json=body)


def put(client, place: str, number: int, part: bytes, told: str | None = None):
    headers = {"X-Content-Sha256": told or sha256(part)}
    return client.put(f"{place}/parts/{number}", content=part, headers=headers)


def test_a_file_arrives_in_parts_after_a_cut(client, content):
    begun = begin(client, content)
    assert begun.status_code == 201, begun.text
    upload, place = of_json(Upload, begun.json()), begun.headers["Location"]
    assert (upload.part_bytes, upload.received, upload.is_complete) == (2048, (), False)
    assert put(client, place, 2, content[4096:]).status_code == 200
    assert put(client, place, 0, content[:2048]).json()["received"] == [0, 2]
    assert put(client, place, 0, content[:2048]).json()["received"] == [0, 2]
    # Whoever comes back asks what is there.
    assert client.get(place).json()["received"] == [0, 2]
    put(client, place, 1, content[2048:4096])
    whole = client.post(f"{place}:complete")
    assert whole.status_code == 200, whole.text
    assert whole.json()["is_complete"]
    assert whole.json()["received"] == [0, 1, 2]
    assert client.post(f"{place}:complete").json() == whole.json()
    assert client.request("DELETE", place).status_code == 204
    assert client.get(place).status_code == 404


def test_a_job_reads_an_upload_which_stays_while_it_does(callers, data_root, job, error_of):
    client = callers.may("admin")
    content = (data_root / "waves.npz").read_bytes()
    place = begin(client, content).headers["Location"]
    upload_id = place.rpartition("/")[2]
    uploaded = {**job, "data": {"x": f"upload://{upload_id}:x", "y": f"upload://{upload_id}:y"}}
    early = client.post("/v1/jobs", json=uploaded)
    assert error_of(early)[:2] == (409, "conflict")
    put(client, place, 0, content)
    client.post(f"{place}:complete")
    keyed = {"Idempotency-Key": "once"}
    made = client.post("/v1/jobs", json=uploaded, headers=keyed)
    assert made.status_code == 202, made.text
    assert made.json()["spec"]["data"] == uploaded["data"], "as the caller calls it"
    path = callers.service.database.jobs.get(made.json()["id"]).spec["data"]["x"]
    assert path.endswith("/waves.npz:x")
    assert Path(path.removesuffix(":x")).read_bytes() == content
    busy = client.request("DELETE", place)
    assert error_of(busy)[:2] == (409, "conflict")
    client.post(f"/v1/jobs/{made.json()['id']}:cancel")
    assert client.request("DELETE", place).status_code == 204
    again = client.post("/v1/jobs", json=uploaded, headers=keyed)
    assert again.json()["id"] == made.json()["id"]


def test_an_upload_is_changed_by_whoever_began_it_and_by_admins(callers, content, error_of):
    anna, root = callers.may("submit"), callers.anyone(callers.new_token(["admin"], name="root"))
    berta = callers.anyone(callers.new_token(["submit"], name="berta"))
    place = begin(anna, content).headers["Location"]
    for refused in (
        put(berta, place, 0, content),
        berta.post(f"{place}:complete"),
        berta.request("DELETE", place),
    ):
        assert error_of(refused)[:2] == (403, "forbidden")
        assert "expected a token of 'anna'" in error_of(refused)[2]
    assert put(anna, place, 0, content).status_code == 200
    assert root.post(f"{place}:complete").json()["is_complete"]
    assert berta.get(place).json()["is_complete"], "everybody may look"
    assert root.request("DELETE", place).status_code == 204


@pytest.fixture
def in_bucket(bucket, tmp_path, monkeypatch, applications_in):
    """Callers of a service whose workspace is in object storage."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with applications_in(f"{bucket}/ws") as make:
        url = f"sqlite:///{tmp_path / 'state.db'}"
        yield make(database_url=url, max_body_bytes=2048, max_upload_bytes=2**20)


def test_an_upload_into_a_bucket_is_read_by_a_job(in_bucket, bucket, data_root, job, error_of):
    client, content = in_bucket.may("admin"), (data_root / "waves.npz").read_bytes()
    place = begin(client, content).headers["Location"]
    parts = [content[k : k + 2048] for k in range(0, len(content), 2048)]
    for number, part in enumerate(parts[:-1]):
        assert put(client, place, number, part).status_code == 200
    assert error_of(client.post(f"{place}:complete"))[:2] == (409, "conflict")
    assert put(client, place, len(parts) - 1, bytes(len(parts[-1]))).status_code == 200
    wrong = client.post(f"{place}:complete")
    assert error_of(wrong)[:2] == (422, "checksum_mismatch")
    folder = open_place(f"{bucket}/ws/uploads/{place.rpartition('/')[2]}")
    assert folder.names() == ("parts",), "what is not the announced file never appears"
    received = put(client, place, len(parts) - 1, parts[-1]).json()["received"]
    assert received == list(range(len(parts)))
    assert client.post(f"{place}:complete").json()["is_complete"]
    assert folder.names() == ("file",)
    upload = client.get(place).json()["place"]
    data = {"x": f"{upload}:x", "y": f"{upload}:y"}
    made = client.post("/v1/jobs", json={**job, "data": data})
    assert made.status_code == 202, made.text
    assert made.json()["spec"]["data"] == data
    assert bucket not in made.text
    spec = in_bucket.service.database.jobs.get(made.json()["id"]).spec
    np.testing.assert_array_equal(
        read_array(spec["data"]["x"]), np.load(data_root / "waves.npz")["x"]
    )
    assert error_of(client.request("DELETE", place))[:2] == (409, "conflict")
    client.post(f"/v1/jobs/{made.json()['id']}:cancel")
    assert client.request("DELETE", place).status_code == 204
    assert not folder.is_folder()


def test_parts_that_are_wrong_are_not_kept(client, content, error_of):
    place = begin(client, content).headers["Location"]
    damaged = put(client, place, 0, content[:2048], told=sha256(b"other"))
    assert error_of(damaged)[:2] == (422, "checksum_mismatch")
    cut = put(client, place, 0, content[:2000])
    status, code, words = error_of(cut)
    assert (status, code) == (400, "invalid_request")
    assert "expected 2048 bytes of 5000, got 2000" in words
    assert error_of(put(client, place, 2, content[:2048]))[0] == 400
    assert "0 to 2" in error_of(put(client, place, 3, b"x"))[2]
    assert error_of(put(client, place, -1, b"x"))[0] == 400
    assert error_of(put(client, place, 0, content[:2048], told="abc"))[0] == 400
    assert error_of(client.put(f"{place}/parts/0", content=b"x"))[0] == 400
    assert error_of(put(client, place, 0, b"x" * 4096))[:2] == (413, "too_large")
    unfinished = client.post(f"{place}:complete")
    assert error_of(unfinished)[:2] == (409, "conflict")
    assert "expected all 3 parts, got all but 0, 1, 2" in error_of(unfinished)[2]
    assert client.get(place).json()["received"] == []


def test_a_file_that_is_another_one_is_refused_and_can_be_mended(client, content, error_of):
    place = begin(client, content).headers["Location"]
    for number, part in enumerate((content[2048:4096], content[:2048], content[4096:])):
        assert put(client, place, number, part).status_code == 200
    mixed_up = client.post(f"{place}:complete")
    assert error_of(mixed_up)[:2] == (422, "checksum_mismatch")
    put(client, place, 0, content[:2048])
    put(client, place, 1, content[2048:4096])
    assert client.post(f"{place}:complete").json()["is_complete"]
    late = put(client, place, 0, content[:2048])
    assert error_of(late)[:2] == (409, "conflict")


@pytest.mark.parametrize(
    ("changes", "status", "code", "words"),
    [
        ({"filename": "../x.npz"}, 400, "invalid_request", "filename"),
        ({"filename": "a/b.npz"}, 400, "invalid_request", "filename"),
        ({"filename": ".hidden"}, 400, "invalid_request", "filename"),
        ({"filename": "x.npz:y"}, 400, "invalid_request", "filename"),
        ({"filename": "x.npz\n"}, 400, "invalid_request", "filename"),
        ({"filename": 3}, 400, "invalid_request", "filename"),
        ({"n_bytes": 0}, 400, "invalid_request", "n_bytes"),
        ({"n_bytes": "9"}, 400, "invalid_request", "n_bytes"),
        ({"n_bytes": 2**21}, 413, "too_large", "at most 1.0 MiB, got 2.0 MiB"),
        ({"sha256": "A" * 64}, 400, "invalid_request", "sha256"),
        ({"colour": "red"}, 400, "invalid_request", "colour: unknown key"),
    ],
)
def test_an_upload_that_cannot_be(shared, error_of, changes, status, code, words):
    refused = begin(shared.may("submit"), b"content", **changes)
    found = error_of(refused)
    assert found[:2] == (status, code)
    assert words in found[2]


@pytest.mark.parametrize("upload_id", ["0" * 32, "x", "..%2f..", "%00"])
def test_no_such_upload(shared, error_of, upload_id):
    client, place = shared.may("submit"), f"/v1/uploads/{upload_id}"
    for response in (
        client.get(place),
        client.request("DELETE", place),
        client.post(f"{place}:complete"),
        put(client, place, 0, b"x"),
    ):
        assert error_of(response)[0] == 404


def test_what_nobody_completes_is_removed(callers, content):
    client, uploads = callers.may("submit"), callers.service.uploads
    place = begin(client, content).headers["Location"]
    put(client, place, 0, content)
    (folder,) = (callers.service.place.folder / "uploads").iterdir()
    assert uploads.sweep(datetime.now(UTC)) == 0
    assert folder.is_dir()
    assert uploads.sweep(datetime.now(UTC) + KEPT + timedelta(seconds=1)) == 1
    assert not folder.exists()
    assert client.get(place).status_code == 404


def test_two_who_complete_at_once_come_to_one_file(callers, content):
    client, uploads = callers.may("submit"), callers.service.uploads
    place = begin(client, content).headers["Location"]
    put(client, place, 0, content)
    upload_id, found = place.rpartition("/")[2], []

    def complete():
        try:
            found.append(uploads.complete(upload_id).is_complete)
        except ConflictError as error:
            found.append(error)

    threads = [threading.Thread(target=complete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8
    file = Path(uploads.place(f"upload://{upload_id}"))
    assert file.read_bytes() == content
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_what_a_killed_service_left_of_a_file_goes_with_the_next_try(callers, content):
    client, uploads = callers.may("submit"), callers.service.uploads
    place = begin(client, content).headers["Location"]
    put(client, place, 0, content)
    folder = callers.service.place.folder / "uploads" / place.rpartition("/")[2]
    (folder / "file").mkdir()
    (folder / "file" / ".waves.npz.0.partial").write_bytes(content[:100])
    assert uploads.complete(folder.name).is_complete
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")] == [
        "file/waves.npz"
    ]


def test_an_upload_is_of_no_use_where_jobs_do_not_run_any_more(callers, content, job):
    client, jobs = callers.may("admin"), callers.service.database.jobs
    made = client.post("/v1/jobs", json=job).json()
    record = jobs.get(made["id"])
    over = replace(record, state=JobState.SUCCEEDED, revision=record.revision + 1)
    assert jobs.swap(record, over)
    place = begin(client, content).headers["Location"]
    assert client.request("DELETE", place).status_code == 204
