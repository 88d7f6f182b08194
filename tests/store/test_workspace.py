import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from ntk_dist.errors import ArtifactError, InvalidInputError, StoreUnreachableError
from ntk_dist.gram.grid import BlockIndex
from ntk_dist.store.dataset import fingerprint
from ntk_dist.store.manifest import Manifest
from ntk_dist.store.workspace import (
    MemoryWorkspace,
    Workspace,
    find_gram,
    is_workspace,
    open_workspace,
)

X = np.random.default_rng(0).standard_normal((12, 3))
MANIFEST = Manifest(
    architecture="a1",
    data_rows=fingerprint(X),
    data_cols=fingerprint(X),
    n_rows=12,
    n_cols=12,
    block_rows=5,
    symmetric=True,
    kernels=("ntk",),
    dtype="float64",
    device_kind="cpu",
)


@pytest.fixture(params=["memory", "folder"])
def workspace(request, tmp_path):
    return open_workspace(None if request.param == "memory" else tmp_path / "ws")


def test_a_gram_is_found_again_by_what_it_belongs_to(workspace):
    index = BlockIndex(0, 1)
    workspace.gram(MANIFEST).write(index, {"ntk": np.ones((5, 5))})
    assert workspace.gram(MANIFEST).present() == {index}


def test_grams_of_other_architectures_stay_apart(workspace):
    other = Manifest.from_dict({**MANIFEST.to_dict(), "architecture": "a2"})
    workspace.gram(MANIFEST).write(BlockIndex(0, 0), {"ntk": np.ones((5, 5))})
    assert workspace.gram(other).present() == frozenset()


def test_rows_are_kept(workspace):
    rows = workspace.rows(X)
    np.testing.assert_array_equal(rows.read(slice(2, 9)), X[2:9])
    assert rows.fingerprint == fingerprint(X)


def test_rows_are_stored_once_per_fingerprint(tmp_path):
    workspace = Workspace(tmp_path)
    for x in (X, X.copy(), X + 1):
        workspace.rows(x)
    stored = sorted(p.name for p in (tmp_path / "datasets").iterdir())
    assert stored == sorted({fingerprint(X), fingerprint(X + 1)})


def test_no_location_means_memory():
    assert isinstance(open_workspace(None), MemoryWorkspace)


def test_a_folder_has_free_bytes_and_a_place_for_compiled_code(tmp_path):
    workspace = Workspace(tmp_path)
    assert workspace.free_bytes() > 0
    assert workspace.compilation_cache == tmp_path / "cache"


def test_workers_share_compiled_code_where_there_is_a_folder(tmp_path):
    assert MemoryWorkspace().worker_environment() == {}
    variables = Workspace(tmp_path).worker_environment()
    assert variables["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "cache")
    assert all(isinstance(value, str) for value in variables.values())


def test_looking_for_a_gram_makes_nothing(tmp_path):
    assert find_gram(None, MANIFEST) is None
    assert find_gram(tmp_path / "ws", MANIFEST) is None
    assert list(tmp_path.iterdir()) == []
    stored = Workspace(tmp_path / "ws").gram(MANIFEST)
    found = find_gram(tmp_path / "ws", MANIFEST)
    assert found is not None
    assert found.location == stored.location


def test_a_workspace_is_known_by_what_it_holds(tmp_path):
    workspace = Workspace(tmp_path)
    assert not is_workspace(tmp_path)
    assert workspace.grams() == ()
    stored = workspace.gram(MANIFEST)
    assert is_workspace(tmp_path)
    assert [str(p) for p in workspace.grams()] == [stored.location]


@pytest.mark.parametrize("location", ["gs://bucket/prefix", "http://host/ws", "", "a\0b"])
def test_what_means_no_place_is_bad_input(location):
    with pytest.raises(InvalidInputError, match="expected a folder of this machine") as caught:
        open_workspace(location)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "location",
    ["{file}", "{file}/below", "/proc/nothing/here", "x" * 300],
)
def test_impossible_locations_are_unreachable_in_words(tmp_path, monkeypatch, location):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StoreUnreachableError, match="expected"):
        open_workspace(location.format(file=file))


@pytest.mark.parametrize("location", [5, b"x", True, ["ws"]])
def test_only_text_and_paths_are_locations(tmp_path, monkeypatch, location):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=r"expected a folder as text or Path, or s3:.* got"):
        open_workspace(location)
    assert list(tmp_path.iterdir()) == []


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Workspace("~/ws").location == str(tmp_path / "ws")
    Workspace("~/ws").gram(MANIFEST)
    assert is_workspace("~/ws")


def publish(workspace: Workspace, name: str, text: str) -> int:
    with workspace.new_model(name) as draft:
        (draft.place / "model.txt").write_bytes(text.encode())
    assert draft.published == workspace.model_place(name, draft.version)
    return draft.version


def test_models_get_versions_and_the_latest_is_the_default(tmp_path):
    workspace = Workspace(tmp_path)
    assert workspace.models() == {}
    assert workspace.next_model_version("cifar") == 1
    versions = [publish(workspace, "cifar", str(k)) for k in range(11)]
    publish(workspace, "digits-2.0", "other")
    assert versions == list(range(1, 12))
    assert workspace.models() == {"cifar": tuple(range(1, 12)), "digits-2.0": (1,)}
    assert workspace.next_model_version("cifar") == 12
    assert (workspace.model_place("cifar") / "model.txt").read_bytes() == b"10"
    assert (workspace.model_place("cifar", 2) / "model.txt").read_bytes() == b"1"


def test_numbers_that_are_no_folders_with_something_in_them_are_no_versions(tmp_path):
    workspace = Workspace(tmp_path)
    publish(workspace, "m", "")
    (tmp_path / "models/m/2").touch()
    (tmp_path / "models/m/99").mkdir()
    (tmp_path / "models/none").mkdir()
    (tmp_path / "models/none/7").touch()
    assert workspace.models() == {"m": (1,)}
    assert workspace.model_place("m").name == "1"
    with pytest.raises(ArtifactError, match=r"versions \[1\], got 99"):
        workspace.model_place("m", 99)
    assert publish(workspace, "m", "") == 100  # no number that something has


def test_a_model_is_seen_only_when_it_is_whole(tmp_path):
    workspace = Workspace(tmp_path)
    with workspace.new_model("m") as draft:
        (draft.place / "half").write_bytes(b"")
        assert workspace.models() == {}
    assert workspace.models() == {"m": (1,)}


def test_a_failed_writer_leaves_nothing(tmp_path):
    workspace = Workspace(tmp_path)

    def fail() -> None:
        with workspace.new_model("m") as draft:
            (draft.place / "half").write_bytes(b"")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert workspace.models() == {}
    assert list((tmp_path / "models" / "m").iterdir()) == []


def age(folder: Path, seconds: float = 7200) -> Path:
    """``folder`` as if everything in it had been written so long ago."""
    moment = time.time() - seconds
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (moment, moment))
    return folder


class Killed(Exception):
    pass


def abandoned(workspace: Workspace, name: str) -> Path:
    """What a writer leaves of a model that is killed before it is published."""
    with suppress(Killed), workspace.new_model(name) as draft:
        path = Path(draft.place.location)
        (draft.place / "rows" / "c").write_bytes(b"half")
        copy = path.rename(path.with_name("out of the way"))  # a kill removes nothing
        raise Killed
    return copy.rename(path)


def test_publishing_sweeps_drafts_of_killed_writers(tmp_path):
    workspace = Workspace(tmp_path)
    old, young, at_work = (abandoned(workspace, "m") for _ in range(3))
    age(old)
    os.utime(age(at_work) / "rows" / "c")
    publish(workspace, "m", "whole")
    assert not old.exists()
    assert young.exists(), "its writer may still be at work"
    assert at_work.exists(), "something deep in it is new"
    assert sorted(p.name for p in (tmp_path / "models" / "m").iterdir()) == sorted(
        ["1", young.name, at_work.name]
    )


def test_storing_rows_sweeps_what_killed_writers_left_of_any_data_set(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.rows(X)
    half = tmp_path / "datasets" / fingerprint(X) / "c" / "0" / "0.0123.partial"
    half.write_bytes(b"half")
    age(tmp_path / "datasets")
    rows = workspace.rows(X + 1)
    assert not half.exists()
    np.testing.assert_array_equal(workspace.rows(X).read(slice(0, 12)), X)
    np.testing.assert_array_equal(rows.read(slice(0, 12)), X + 1)


def test_writers_at_once_get_a_version_each(tmp_path):
    workspace, barrier = Workspace(tmp_path), Barrier(6)

    def write(k: int) -> int:
        with workspace.new_model("m") as draft:
            (draft.place / "model.txt").write_bytes(b"%d" % k)
            barrier.wait(30)
        return draft.version

    with ThreadPoolExecutor(6) as pool:
        versions = list(pool.map(write, range(6)))
    assert sorted(versions) == [1, 2, 3, 4, 5, 6]
    for k, version in enumerate(versions):
        assert (workspace.model_place("m", version) / "model.txt").read_bytes() == b"%d" % k


@pytest.mark.parametrize("name", ["", ".", "..", ".m", "a/b", "a b", "ž", "m\n"])
def test_names_that_are_no_folder_names_are_refused(tmp_path, name):
    workspace = Workspace(tmp_path)
    for refused in (workspace.model_place, workspace.next_model_version):
        with pytest.raises(InvalidInputError, match="expected a model name"):
            refused(name)
    with pytest.raises(InvalidInputError, match="expected a model name"):
        workspace.new_model(name).__enter__()


def test_missing_models_and_versions_are_named(tmp_path):
    workspace = Workspace(tmp_path)
    with pytest.raises(ArtifactError, match="there are none"):
        workspace.model_place("m")
    publish(workspace, "m", "")
    with pytest.raises(ArtifactError, match=r"got 'n'; there are \['m'\]"):
        workspace.model_place("n")
    with pytest.raises(ArtifactError, match=r"versions \[1\], got 7"):
        workspace.model_place("m", 7)
