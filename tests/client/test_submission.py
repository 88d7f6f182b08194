import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from ntk_dist import stax
from ntk_dist.client.submission import body_of, data_here, read_job
from ntk_dist.errors import JobSpecError, UnreadableDataError
from ntk_dist.wire import Upload, to_json

NET = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1))
LAYERS = json.loads(NET.to_json())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "arch.json").write_text(NET.to_json())
    np.savez(tmp_path / "data.npz", x=np.eye(3), y=np.arange(3))
    (tmp_path / "job.yaml").write_text(
        "name: digits\n"
        "data: {x: data.npz:x, y: data.npz:y}\n"
        "test: {x: 's3://bucket/x.npy', y: /far/y.npy}\n"
        "architecture: arch.json\n"
        "solver: {tol: 1.0e-6}\n"
        "workspace: ./ws\n"
    )
    return tmp_path


def test_a_job_file_is_made_whole_but_for_a_place_that_is_of_this_machine(folder):
    job = read_job(folder / "job.yaml")
    assert job == {
        "name": "digits",
        "data": {"x": f"{folder}/data.npz:x", "y": f"{folder}/data.npz:y"},
        "test": {"x": "s3://bucket/x.npy", "y": "/far/y.npy"},
        "architecture": LAYERS,
        "solver": {"tol": 1e-6},
    }


@pytest.mark.parametrize("given", [NET, LAYERS, NET.to_json(), "arch.json", Path("arch.json")])
def test_an_architecture_is_sent_whole_however_it_is_given(given, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert read_job({"architecture": given})["architecture"] == LAYERS


def test_a_mapping_is_left_as_it_was():
    kept = {"architecture": "/far/arch.json", "workspace": "./ws"}
    job = {"data": {"x": Path("x.npy"), "y": "y.npy"}, **kept}
    read = read_job(job)
    assert read == {"data": {"x": "x.npy", "y": "y.npy"}, **kept}
    assert job["data"]["x"] == Path("x.npy")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- 1\n", "expected a mapping with name, task, data and architecture"),
        ("a: [", "expected YAML, got: "),
        ("\x00", "expected YAML, got: "),
        ("architecture: gone.json\n", "expected its JSON, or a file with it, got .*gone.json"),
        ("architecture: '[1, '\n", "architecture: expected JSON"),
    ],
)
def test_files_that_are_no_jobs_are_refused(content, words, tmp_path):
    (tmp_path / "job.yaml").write_text(content)
    with pytest.raises(JobSpecError, match=words):
        read_job(tmp_path / "job.yaml")
    with pytest.raises(JobSpecError, match=r"expected a job file at .*nothing\.yaml"):
        read_job(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "JSON"),
        ({1, 2}, "got a set"),
        (np.eye(2), r"got an array of shape \(2, 2\); data that are arrays are sent with upload"),
    ],
)
def test_what_json_cannot_say_is_refused(value, words):
    with pytest.raises(JobSpecError, match=words):
        body_of({"solver": value})
    assert body_of({"ridge": np.float32(0.5), "n": np.int64(3)}) == b'{"ridge": 0.5, "n": 3}'


def test_data_here_are_found_with_the_array_they_name(folder):
    odd = folder / "a:b.npz"
    odd.write_bytes(b"x")
    x = np.eye(2)
    found = data_here(
        {"data": {"x": f"{odd}:x", "y": x}, "test": {"x": "upload://u", "y": str(odd)}}
    )
    assert [(one.section, one.key, one.array) for one in found] == [
        ("data", "x", ":x"),
        ("data", "y", ""),
        ("test", "y", ""),
    ]
    assert found[0].content == found[2].content == odd
    assert found[1].content is x
    with pytest.raises(UnreadableDataError, match=r"data\.x: expected a file to upload, got gone"):
        data_here({"data": {"x": "gone.npy"}})


def test_what_is_named_twice_is_sent_once(side, folder, make_job):
    announced, submitted = [], []

    def answer(request):
        path = request.url.path
        if path == "/v1/jobs":
            submitted.append(json.loads(request.content))
            return httpx.Response(202, json=to_json(make_job()))
        if path == "/v1/uploads":
            announced.append(json.loads(request.content))
        made = Upload(
            id=f"u{len(announced)}",
            **announced[-1],
            part_bytes=2**20,
            received=(),
            is_complete=path.endswith(":complete"),
            place=f"upload://u{len(announced)}",
            created=make_job().created,
        )
        return httpx.Response(200, json=to_json(made))

    x = np.eye(3)
    job = {"data": {"x": x, "y": "data.npz:y"}, "test": {"x": x, "y": "data.npz:x"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        side.run(answer, lambda client: type(client).submit(client, job, upload=True))
    assert [one["filename"] for one in announced] == ["data-x.npy", "data.npz"]
    assert submitted == [
        {
            "data": {"x": "upload://u1", "y": "upload://u2:y"},
            "test": {"x": "upload://u1", "y": "upload://u2:x"},
        }
    ]
    assert job["data"]["x"] is x
