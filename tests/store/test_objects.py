"""What only object storage does: rows, models and data there, and its refusals in words."""

import io
import logging
import os
import pickle
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from required import require

from ntk_dist import NTKRegressor, stax
from ntk_dist.cli import run
from ntk_dist.errors import (
    ArtifactError,
    ConflictError,
    InvalidInputError,
    MissingDependencyError,
    StoreUnreachableError,
    UnreadableDataError,
)
from ntk_dist.model.load import find_model, load_model
from ntk_dist.store.bucket import Bucket
from ntk_dist.store.inputs import check_output, read_array
from ntk_dist.store.location import open_place
from ntk_dist.store.workspace import Workspace, is_workspace

FC = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
JOB = """
name: small
task: regression
data: {{x: "{bucket}/data.npz:x", y: "{bucket}/data.npz:y"}}
architecture: {architecture}
gram: {{block_rows: 16}}
workspace: {bucket}/ws
"""


@pytest.fixture
def problem(rng):
    x = rng.normal(size=(40, 3))
    return x, x[:, 0] * x[:, 1], rng.normal(size=(10, 3))


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_file_that_comes_in_pieces_is_there_whole_or_not_at_all(kind, request, tmp_path, rng):
    place = open_place(tmp_path if kind == "folder" else request.getfixturevalue("bucket"))
    pieces = [rng.bytes(5 * 2**20) for _ in range(4)]  # beyond one part of a bucket

    def half():
        yield from pieces[:3]
        assert not (place / "deep" / "file").is_file()
        raise ConflictError("no more")

    with pytest.raises(ConflictError, match="no more"):
        (place / "deep" / "file").write_pieces(half(), 20 * 2**20)
    assert (place / "deep").names() == ()
    (place / "deep" / "file").write_pieces(iter(pieces), 20 * 2**20)
    assert (place / "deep" / "file").read_bytes() == b"".join(pieces)
    (place / "deep" / "file").write_pieces([b"sm", b"all"], 5)
    assert (place / "deep" / "file").read_bytes() == b"small"
    assert (place / "deep").names() == ("file",)


def test_rows_are_stored_once_and_mended(bucket, rng):
    x = rng.normal(size=(12, 3))
    workspace = Workspace(bucket)
    rows = workspace.rows(x)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows)).read(slice(2, 9)), x[2:9])
    chunk = open_place(rows.location) / "c" / "0" / "0"
    chunk.delete()
    with pytest.raises(UnreadableDataError, match="is missing"):
        rows.read(slice(0, 3))
    np.testing.assert_array_equal(workspace.rows(x).read(slice(0, 12)), x)


def test_a_bucket_does_not_say_what_is_free(bucket):
    workspace = Workspace(f"{bucket}/a/b/")
    assert workspace.location == f"{bucket}/a/b"
    assert workspace.free_bytes() is None
    assert not is_workspace(workspace.location)
    assert workspace.models() == {}
    assert workspace.grams() == ()


def test_a_version_is_seen_when_it_is_whole_and_its_number_is_given_once(bucket):
    workspace = Workspace(bucket)
    with workspace.new_model("m") as first:
        (first.place / "model.json").write_bytes(b"1")
        assert workspace.models() == {}
        with workspace.new_model("m") as second:
            (second.place / "model.json").write_bytes(b"2")
    assert (first.version, second.version) == (1, 2)
    assert workspace.models() == {"m": (1, 2)}
    assert (workspace.model_place("m") / "model.json").read_bytes() == b"2"


def test_a_failed_writer_leaves_nothing(bucket):
    workspace = Workspace(bucket)

    def fail() -> None:
        with workspace.new_model("m") as draft:
            (draft.place / "half").write_bytes(b"")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not (open_place(bucket) / "models").is_folder()


def test_a_publication_whose_answer_is_lost_is_taken_back(bucket, monkeypatch):
    models = open_place(f"{bucket}/ws/models/m")
    write = type(models).write_bytes

    def unanswered(self, content):
        write(self, content)
        if self.name.endswith(".published"):
            raise StoreUnreachableError("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(type(models), "write_bytes", unanswered)
        with pytest.raises(StoreUnreachableError), models.new_version() as draft:
            (draft.place / "model.json").write_bytes(b"{}")
    assert models.names() == ()
    with models.new_version() as draft:
        (draft.place / "model.json").write_bytes(b"{}")
        assert models.versions() == (), "nobody sees half of it"
    assert models.versions() == (draft.version,) == (1,)


def test_writers_at_once_get_a_version_each(bucket):
    workspace, barrier = Workspace(bucket), Barrier(4)

    def write(k: int) -> int:
        barrier.wait(30)
        with workspace.new_model("m") as draft:
            (draft.place / "model.json").write_bytes(b"%d" % k)
        return draft.version

    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(write, range(4)))
    assert sorted(versions) == [1, 2, 3, 4]
    for k, version in enumerate(versions):
        assert (workspace.model_place("m", version) / "model.json").read_bytes() == b"%d" % k


def test_a_claim_that_another_writer_takes_back_is_no_obstacle(bucket, monkeypatch):
    plain, taken_back = Bucket.create, []

    def create(self, key, content):
        if not taken_back:
            taken_back.append(key)
            assert plain(self, key, b"another writer")
            created = plain(self, key, content)
            self.delete(key)
            return created
        return plain(self, key, content)

    monkeypatch.setattr(Bucket, "create", create)
    with Workspace(bucket).new_model("m") as draft:
        (draft.place / "model.json").write_bytes(b"{}")
    assert (draft.version, len(taken_back)) == (1, 1)


def test_a_model_is_saved_replaced_and_loaded(bucket, problem, tmp_path):
    x, y, new = problem
    place = f"{bucket}/models/net"
    first = NTKRegressor(FC, workspace=f"{bucket}/ws", block_rows=16).fit(x, y)
    assert first.report_.gram.n_computed == 6
    first.save(place)
    np.testing.assert_array_equal(load_model(place).predict(new), first.predict(new))
    opened = NTKRegressor.load(place)
    second = NTKRegressor(FC, workspace=f"{bucket}/ws", block_rows=16).fit(x, -y)
    assert second.report_.gram.n_computed == 0
    second.save(place)
    np.testing.assert_array_equal(NTKRegressor.load(place).predict(new), -first.predict(new))
    assert open_place(f"{bucket}/models").names() == ("net",)
    NTKRegressor(FC).fit(3 * x, y).save(place)
    with pytest.raises(ArtifactError, match="load it again"):
        opened.predict(new)
    (open_place(place) / "notes.txt").write_bytes(b"keep me")
    with pytest.raises(ArtifactError, match=r"notes\.txt"):
        first.save(place)
    with pytest.raises(ArtifactError, match="expected a model folder"):
        find_model(f"{bucket}/nothing")


def test_a_job_reads_fits_and_publishes_there(bucket, problem, tmp_path, capfd):
    x, y, new = problem
    (open_place(bucket) / "data.npz").write_bytes(npz(x=x, y=y))
    (open_place(bucket) / "new.npy").write_bytes(b"")
    np.save(tmp_path / "new.npy", new)
    (tmp_path / "net.json").write_text(FC.to_json())
    job, out = tmp_path / "job.yaml", tmp_path / "out.npy"
    job.write_text(JOB.format(bucket=bucket, architecture=tmp_path / "net.json"))

    assert run(["gram", str(job), "--plan"]) == 0
    assert "unknown: storage does not say" in capfd.readouterr().out
    assert run(["fit", str(job)]) == 0
    assert f"model small version 1: {bucket}/ws/models/small/1" in capfd.readouterr().out
    assert (
        run(["predict", f"{bucket}/ws/models/small", str(tmp_path / "new.npy"), "-o", str(out)])
        == 0
    )
    expected = NTKRegressor(FC, block_rows=16).fit(x, y).predict(new)
    np.testing.assert_allclose(np.load(out), expected, rtol=1e-4, atol=1e-6)
    for path, said in {
        f"{bucket}/ws": "model small: versions 1",
        f"{bucket}/ws/models/small/1": "NTKRegressor fitted on 40 rows",
        f"{bucket}/data.npz:x": "shape (40, 3)",
    }.items():
        assert run(["info", path]) == 0
        assert said in capfd.readouterr().out
    assert run(["info", f"{bucket}/new.npy"]) == 2
    assert f"error: {bucket}/new.npy cannot be read" in capfd.readouterr().err


def test_a_data_file_that_is_not_there(bucket):
    with pytest.raises(UnreadableDataError, match="does not exist"):
        read_array(f"{bucket}/x.npy")
    (open_place(bucket) / "x:y.npz").write_bytes(npz(a=np.ones(3)))
    assert read_array(f"{bucket}/x:y.npz:a").shape == (3,)
    with pytest.raises(UnreadableDataError, match=rf"{bucket}/x:y.npz: expected array 'b'"):
        read_array(f"{bucket}/x:y.npz:b")
    with pytest.raises(InvalidInputError, match="output file of this machine"):
        check_output(f"{bucket}/out.npy")


@pytest.mark.parametrize(
    "address",
    ["s3://", "s3:///x", "s3://key:hidden@bucket/x", "s3:/a", "s3://bucket//x", "s3://bucket/../x"],
)
def test_addresses_that_are_none_are_refused_without_a_quote(bucket, address):
    with pytest.raises(InvalidInputError, match="s3://BUCKET/PREFIX") as caught:
        Workspace(address)
    assert "hidden" not in str(caught.value)


def test_what_the_environment_lacks_is_named(bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreUnreachableError, match=r"credentials for s3://.*AWS_ACCESS_KEY_ID"):
        Workspace(bucket)


def test_a_bucket_that_is_not_there_is_named(bucket):
    for use in (Workspace, find_model, read_array):
        with pytest.raises(StoreUnreachableError, match=r"NoSuchBucket.*create it"):
            use(f"{bucket}-other/x")


def test_a_library_that_is_not_there_is_named(bucket, monkeypatch):
    for module in ("objects", "bucket"):
        monkeypatch.delitem(sys.modules, f"ntk_dist.store.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ntk_dist\[s3\]'"):
        Workspace(bucket)


class Everything(logging.Handler):
    """Keeps every record of every library."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def test_the_secret_is_nowhere(bucket, problem, monkeypatch):
    secret = "sentinel-of-the-secret-key"
    logs = Everything()
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", logging.DEBUG)
    root.addHandler(logs)
    pickled = []
    try:
        from ntk_dist.executors.local import LocalExecutor

        class Pickling(LocalExecutor):
            """Pickles every task, as engines of other processes do."""

            def _ship(self, task):
                pickled.append(pickle.dumps(task))
                return super()._ship(task)

        x, y, new = problem
        with Pickling(1) as executor:
            model = NTKRegressor(FC, workspace=bucket, block_rows=16, executor=executor).fit(x, y)
            model.save(f"{bucket}/model")
            loaded = NTKRegressor.load(f"{bucket}/model", executor=executor)
            loaded.predict(new)
    finally:
        root.removeHandler(logs)
    assert len(pickled) >= 3
    assert not any(secret.encode() in task for task in pickled)
    store = Workspace(bucket).place.zarr_store()
    said = [repr(loaded.rows_), repr(store), str(store), repr(open_place(bucket)), *logs.lines]
    said += [str(vars(open_place(bucket))), str(pickle.dumps(store))]
    assert not any(secret in text for text in said)
    with open_place(bucket).local_copy() as copy:
        kept = [path.read_bytes() for path in copy.rglob("*") if path.is_file()]
    assert len(kept) > 10
    assert not any(secret.encode() in content for content in kept)


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("dask", marks=pytest.mark.dask),
        pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow]),
    ],
)
def test_workers_of_other_processes_open_it_by_its_address(bucket, problem, engine, monkeypatch):
    require(engine)
    x, y, _ = problem
    # Of a short name, because Ray keeps sockets there.
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        model = NTKRegressor(FC, workspace=bucket, block_rows=16, executor=f"{engine}:2").fit(x, y)
        left = [path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()]
    assert model.report_.gram.n_computed == 6
    again = NTKRegressor(FC, workspace=bucket, block_rows=16).fit(x, y)
    assert again.report_.gram.n_computed == 0
    np.testing.assert_allclose(model.dual_coef_, again.dual_coef_, rtol=1e-4, atol=1e-4)
    # Workers have the secret from the environment they were started in, and nobody wrote it down.
    assert (len(left) > 5) == (engine == "ray")
    with open_place(bucket).local_copy() as copy:
        left += [path.read_bytes() for path in copy.rglob("*") if path.is_file()]
    assert len(left) > 10
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    assert not any(secret in content for content in left)


def test_a_zarr_store_travels_by_its_address_and_stays_read_only(bucket):
    store = open_place(f"{bucket}/a").zarr_store().with_read_only(True)
    again = pickle.loads(pickle.dumps(store))
    assert (again, again.read_only) == (store, True)
    assert again != open_place(f"{bucket}/b").zarr_store()
