"""What callers are told in place of the paths of the service."""

import json

import pytest

from ntk_dist.events import JobEvent, TaskEvent
from ntk_dist.jobs import lifecycle
from ntk_dist.jobs.journal import Journal, run_place
from ntk_dist.jobs.lifecycle import Observation, Outcome
from ntk_dist.jobs.parts import parts_of
from ntk_dist.jobs.queue import utc_now
from ntk_dist.service.public_names import PublicNames
from ntk_dist.store.location import open_place
from ntk_dist.wire import Failure

ID = "4f0c0f7a3e1b4c5d8a9b0c1d2e3f4a5b"


@pytest.fixture
def root(tmp_path):
    """A data root that is a link."""
    (tmp_path / "disk" / "7").mkdir(parents=True)
    (tmp_path / "data").symlink_to(tmp_path / "disk" / "7")
    return tmp_path / "data"


@pytest.fixture
def names(tmp_path, root):
    roots = (f"{root}/", "s3://bucket/prefix")
    return PublicNames(open_place(tmp_path / "ws"), tmp_path / "state", roots)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("{here}/ws/uploads/{id}/file/x.npz: damaged", "upload://{id}: damaged"),
        ("'{here}/ws/uploads/{id}/file/x.npz:labels'", "'upload://{id}:labels'"),
        ("{here}/ws/grams/abc, {here}/ws", "WORKSPACE/grams/abc, WORKSPACE"),
        ("{here}/state/drivers/1/job.json", "STATE/drivers/1/job.json"),
        ("{here}/disk/7/x.npy is none", "{here}/data/x.npy is none"),
        ("{here}/data/x.npy is none", "{here}/data/x.npy is none"),
        ("s3://bucket/prefix/x.npy", "s3://bucket/prefix/x.npy"),
        ("{here}/wsx and /my{here}/ws", "{here}/wsx and /my{here}/ws"),
        ("expected float32, got float64", "expected float32, got float64"),
    ],
)
def test_places_have_names(names, tmp_path, said, told):
    here = tmp_path.resolve()
    assert names.text(said.format(here=here, id=ID)) == told.format(here=here, id=ID)


def test_a_workspace_in_a_bucket_has_a_name_too(bucket, tmp_path):
    names = PublicNames(open_place(f"{bucket}/ws"), tmp_path, ())
    assert names.text(f"{bucket}/ws/uploads/{ID}/file/x.npz:x") == f"upload://{ID}:x"
    assert names.json({"at": [f"{bucket}/ws/models", 1, None]}) == {
        "at": ["WORKSPACE/models", 1, None]
    }


def test_a_log_is_covered_byte_by_byte_wherever_it_is_read_from(names, tmp_path, root):
    here = tmp_path.resolve()
    log = f"a naïve {here}/ws/x and {here}/disk/7/y and {root}/z\n".encode()
    whole = names.log(lambda start: log[start:], 0)
    assert len(whole) == len(log)
    stars = "*" * len(f"{here}/ws"), "*" * len(f"{here}/disk/7")
    assert whole.decode() == f"a naïve {stars[0]}/x and {stars[1]}/y and {root}/z\n"
    for start in range(len(log) + 2):
        assert names.log(lambda first: log[first:], start) == whole[start:]


def test_what_a_log_ends_in_the_middle_of_is_covered(names, tmp_path, root):
    """A line that is still being written, or the end of the 4 MiB that are read at a time."""
    here = tmp_path.resolve()
    log = f"a {here}/ws/x and {here}/disk/7/y and {root}/z\n".encode()
    whole = names.log(lambda start: log[start:], 0)
    for end in range(len(log) + 1):
        told = names.log(lambda start, end=end: log[start:end], 0)
        assert len(told) == end
        secret = [k for k in range(end) if whole[k] != log[k]]
        # Of one letter, the slash, nobody can say what follows.
        assert [k for k in secret if told[k] == log[k]] in ([], [end - 1])
        assert names.log(lambda start: log[start:], end) == whole[end:]


def test_nothing_that_a_failed_job_tells_has_paths_of_the_service(callers, job):
    client, service = callers.may("admin"), callers.service
    job_id = client.post("/v1/jobs", json=job).json()["id"]
    jobs, secret = service.database.jobs, service.place.location
    jobs.change(job_id, lambda record: lifecycle.claim(record, "here", utc_now(), 60.0))
    record = jobs.get(job_id)
    message = f"{secret}/uploads/{ID}/file/x.npz cannot be read"
    with Journal(parts_of(run_place(service.place, record.name, record.run))) as journal:
        journal(JobEvent(state="started", job="waves"))
        journal(TaskEvent(state="failed", item="(0, 0)", attempt=3, error=message))
        journal(JobEvent(state="failed", job="waves", text=f"invalid_data: {message}"))
    folder = service.place.folder / "service" / "drivers" / job_id / "1"
    folder.mkdir(parents=True)
    (folder / "driver.log").write_text(f"error: {message}\n")
    failure = Failure(code="invalid_data", message=message)
    seen = Observation(driver="gone", outcome=Outcome(state="failed", failure=failure))
    jobs.change(job_id, lambda record: lifecycle.observe(record, seen, utc_now()))
    told = f"upload://{ID} cannot be read"
    found = client.get(f"/v1/jobs/{job_id}")
    assert found.json()["failure"]["message"] == told
    (listed,) = client.get("/v1/jobs").json()["items"]
    assert listed["failure"]["message"] == told
    events = client.get(f"/v1/jobs/{job_id}/events")
    assert json.dumps(told)[1:-1] in events.text
    logs = client.get(f"/v1/jobs/{job_id}/logs")
    assert logs.text == f"error: {'*' * len(secret)}/uploads/{ID}/file/x.npz cannot be read\n"
    again = client.post(f"/v1/jobs/{job_id}:resume")
    for answered in (found, client.get("/v1/jobs"), events, logs, again):
        assert answered.status_code < 300
        assert secret not in answered.text


def test_a_refusal_names_a_file_as_the_caller_did(make_callers, job, error_of, root):
    (root / "net.json").write_text("no network")
    (root / "x.npy").touch()
    client = make_callers(data_roots=(str(root),)).may("submit")
    data = {"x": f"{root}/x.npy", "y": f"{root}/x.npy"}
    spec = {**job, "data": data, "architecture": f"{root}/net.json"}
    status, _, message = error_of(client.post("/v1/jobs", json=spec))
    assert status == 422
    assert str(root.resolve()) not in message
