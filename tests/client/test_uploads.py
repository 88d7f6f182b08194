import hashlib
import io

import httpx
import numpy as np
import pytest

from ntk_dist import errors
from ntk_dist.wire import Upload, problem_of, to_json

PART = 100


class Uploads:
    """Takes parts, some of them only when they are sent again."""

    def __init__(self, created, wrong=0, received=()):
        self.created = created
        self.wrong = wrong
        self.parts = dict(received)
        self.announced = None
        self.sent = []

    def view(self, is_complete=False):
        return Upload(
            id="u1",
            **self.announced,
            part_bytes=PART,
            received=tuple(sorted(self.parts)),
            is_complete=is_complete,
            place="upload://u1",
            created=self.created,
        )

    def __call__(self, request):
        path = request.url.path
        if (request.method, path) == ("POST", "/v1/uploads"):
            import json

            self.announced = json.loads(request.content)
            return httpx.Response(201, json=to_json(self.view()))
        if request.method == "GET":
            return httpx.Response(200, json=to_json(self.view()))
        if request.method == "PUT":
            number = int(path.rsplit("/", 1)[1])
            self.sent.append(number)
            assert request.headers["x-content-sha256"] == sha256(request.content)
            if self.wrong:
                self.wrong -= 1
                return problem(errors.ChecksumMismatchError("send it again"))
            self.parts[number] = request.content
            return httpx.Response(200, json=to_json(self.view()))
        assert path == "/v1/uploads/u1:complete"
        if len(self.parts) != -(-self.announced["n_bytes"] // PART):
            return problem(errors.ConflictError("parts are missing"))
        assert sha256(self.content) == self.announced["sha256"]
        return httpx.Response(200, json=to_json(self.view(is_complete=True)))

    @property
    def content(self):
        return b"".join(self.parts[k] for k in sorted(self.parts))


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def problem(error):
    return httpx.Response(error.http_status, json=problem_of(error, "r1"))


@pytest.fixture
def uploads(make_job):
    return Uploads(make_job().created)


def sending(content, **options):
    return lambda client: type(client).upload(client, content, **options)


@pytest.mark.parametrize("n_bytes", [1, PART, PART + 1, 12 * PART - 1])
def test_a_file_arrives_in_parts(n_bytes, side, uploads, tmp_path, rng):
    path = tmp_path / "some data (1).npz"
    path.write_bytes(rng.bytes(n_bytes))
    done = side.run(uploads, sending(path))
    assert done.is_complete
    assert uploads.content == path.read_bytes()
    assert uploads.announced["filename"] == "some_data__1_.npz"


def test_an_array_arrives_as_a_file(side, uploads):
    x = np.asfortranarray(np.arange(60.0).reshape(6, 10))
    side.run(uploads, sending(x))
    assert uploads.announced["filename"] == "array.npy"
    np.testing.assert_array_equal(np.load(io.BytesIO(uploads.content), allow_pickle=False), x)


def test_a_part_that_arrives_otherwise_is_sent_again(side, uploads, tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(b"x" * 2 * PART)
    uploads.wrong = 2
    side.run(uploads, sending(path))
    # Both parts are on their way at once: who is told twice that it is wrong is a matter of luck.
    assert len(uploads.sent) == 4
    assert set(uploads.sent) == {0, 1}
    uploads.wrong, uploads.parts = 100, {}
    with pytest.raises(errors.ChecksumMismatchError) as caught:
        side.run(uploads, sending(path))
    assert "resume='u1'" in caught.value.__notes__[-1]


def test_an_upload_goes_on_where_it_was_cut_off(side, uploads, tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(bytes(range(256)))
    uploads.parts = {1: path.read_bytes()[PART : 2 * PART]}
    uploads.announced = {"filename": "x.npy", "n_bytes": 256, "sha256": sha256(path.read_bytes())}
    side.run(uploads, sending(path, resume="u1"))
    assert sorted(uploads.sent) == [0, 2]
    assert uploads.content == path.read_bytes()
    path.write_bytes(b"something else")
    with pytest.raises(errors.ConflictError, match="expected the announced 256 bytes of SHA-256"):
        side.run(uploads, sending(path, resume="u1"))


def test_what_is_no_file_is_refused(side, uploads, tmp_path):
    (tmp_path / "empty.npy").touch()
    for content, words in [
        (tmp_path / "nothing.npy", "expected a file, got .*nothing.npy"),
        (tmp_path, "which is a folder"),
        (tmp_path / "empty.npy", "got an empty file"),
        (np.array([None]), "got dtype object"),
    ]:
        with pytest.raises(errors.UnreadableDataError, match=words):
            side.run(uploads, sending(content))
    assert uploads.announced is None


def test_a_file_that_shrinks_meanwhile_is_an_error(side, uploads, tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(b"x" * 2 * PART)

    def answer(request):
        response = uploads(request)
        path.write_bytes(b"x")
        return response

    with pytest.raises(errors.UnreadableDataError, match="did it change meanwhile"):
        side.run(answer, sending(path))
