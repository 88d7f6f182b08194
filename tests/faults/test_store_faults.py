"""A fit whose storage fails: nothing finished is lost, nothing wrong is used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ntk_dist import NTKRegressor, stax
from ntk_dist.cli import run
from ntk_dist.errors import (
    ManifestMismatchError,
    StoreFullError,
    StoreUnreachableError,
)
from ntk_dist.events import TaskEvent
from ntk_dist.store.workspace import Workspace

FC = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
N_BLOCKS = 15


@pytest.fixture
def problem():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(80, 3))
    return x, x[:, 0] * x[:, 1], rng.normal(size=(10, 3))


def regressor(workspace) -> NTKRegressor:
    return NTKRegressor(FC, workspace=workspace, block_rows=16, executor="local:2")


def chunks(workspace: Path) -> dict[str, bytes]:
    root = workspace / "grams"
    found = {str(p.relative_to(root)): p for p in root.rglob("ntk/c/*/*")}
    return {name: path.read_bytes() for name, path in found.items()}


class After:
    """Does something once, when some blocks are finished."""

    def __init__(self, n_blocks: int, action) -> None:
        self.left, self.action = n_blocks, action

    def __call__(self, event) -> None:
        if isinstance(event, TaskEvent) and event.state == "done" and event.item.startswith("("):
            self.left -= 1
            if self.left == 0:
                self.action()


def test_storage_that_fails_one_request_in_ten_changes_nothing(bucket, proxy, problem):
    x, y, new = problem
    expected = regressor(None).fit(x, y).predict(new)
    model = regressor(f"{bucket}/ws").fit(x, y)
    model.save(f"{bucket}/model")
    loaded = NTKRegressor.load(f"{bucket}/model")
    np.testing.assert_array_equal(loaded.predict(new), expected)
    assert model.report_.gram.n_computed == N_BLOCKS
    assert model.report_.gram.n_repaired == 0
    assert set(proxy.failed) == {"unavailable", "dropped", "answer lost", "answer cut"}
    versions = []
    for _ in range(12):  # a claim whose answer is lost is still ours
        with Workspace(f"{bucket}/ws").new_model("m") as draft:
            (draft.place / "model.json").write_bytes(b"{}")
        versions.append(draft.version)
    assert versions == list(range(1, 13))


def test_storage_that_is_gone_ends_the_fit_and_keeps_what_is_finished(
    bucket, proxy, problem, monkeypatch
):
    x, y, new = problem
    monkeypatch.setenv("NTK_DIST_STORE_RETRY_S", "0.5")
    proxy.every = 10**9
    with pytest.raises(StoreUnreachableError, match=r"expected s3://.* to answer.*run the same"):
        regressor(bucket).fit(x, y, on_event=After(4, lambda: setattr(proxy, "gone", True)))
    proxy.gone = False
    (gram,) = Workspace(bucket).grams()
    kept = len((gram / "ntk" / "c").names())
    assert kept
    model = regressor(bucket).fit(x, y)
    assert model.report_.gram.n_computed <= N_BLOCKS - 4
    np.testing.assert_array_equal(model.predict(new), regressor(None).fit(x, y).predict(new))


def test_storage_that_was_never_there_is_exit_code_four(bucket, proxy, monkeypatch, capsys):
    monkeypatch.setenv("NTK_DIST_STORE_RETRY_S", "0.3")
    proxy.gone = True
    assert run(["info", f"{bucket}/ws"]) == 4
    assert "to answer" in capsys.readouterr().err


def test_access_denied_is_one_line(bucket, proxy, problem, capsys):
    x, y, _ = problem
    proxy.denied = True
    with pytest.raises(StoreUnreachableError) as caught:
        regressor(bucket).fit(x, y)
    assert str(caught.value).startswith(f"access to {bucket}/")
    assert "is denied (AccessDenied); check AWS_ACCESS_KEY_ID" in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert run(["info", f"{bucket}/ws"]) == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_a_disk_that_fills_stops_the_fit_and_loses_nothing(small_disk, problem):
    x, y, new = problem
    filler = small_disk / "filler"

    def fill() -> None:
        with filler.open("wb") as file:
            while True:
                file.write(bytes(512))
                file.flush()

    def fill_up() -> None:
        with pytest.raises(OSError, match="No space left"):
            fill()

    with pytest.raises(StoreFullError, match="no space is left"):
        regressor(small_disk / "ws").fit(x, y, on_event=After(5, fill_up))
    kept = chunks(small_disk / "ws")
    assert 5 <= len(kept) < N_BLOCKS
    filler.unlink()

    model = regressor(small_disk / "ws").fit(x, y)
    assert model.report_.gram.n_computed == N_BLOCKS - len(kept)
    assert kept.items() <= chunks(small_disk / "ws").items()
    np.testing.assert_array_equal(model.predict(new), regressor(None).fit(x, y).predict(new))


FIT = """
import json, sys
import numpy as np
from ntk_dist import NTKRegressor, stax

workspace, seed = sys.argv[1], int(sys.argv[2])
net = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
rng = np.random.default_rng(seed)
x = rng.normal(size=(80, 3))
model = NTKRegressor(net, workspace=workspace, block_rows=16, executor="local:2")
print("ready", flush=True)
sys.stdin.readline()
model.fit(x, x[:, 0] * x[:, 1])
print(json.dumps(model.predict(rng.normal(size=(10, 3))).tolist()))
"""


def test_jobs_at_once_share_a_workspace(tmp_path, problem):
    x, y, new = problem
    alone = tmp_path / "alone"
    expected = regressor(alone).fit(x, y).predict(new)
    shared = tmp_path / "shared"
    command = [sys.executable, "-c", FIT, str(shared)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    jobs = [subprocess.Popen([*command, seed], env=os.environ, **pipes) for seed in "778"]
    for job in jobs:
        assert job.stdout.readline() == "ready\n"
    for job in jobs:
        job.stdin.write("\n")
        job.stdin.flush()
    answers = [np.array(json.loads(job.communicate(timeout=120)[0])) for job in jobs]
    np.testing.assert_array_equal(answers[0], expected)
    np.testing.assert_array_equal(answers[1], expected)
    assert not np.array_equal(answers[2], expected)
    assert len(list((shared / "grams").iterdir())) == 2
    assert chunks(alone).items() <= chunks(shared).items()
    assert len(chunks(shared)) == 2 * N_BLOCKS


def test_damage_between_two_fits_is_found_counted_and_repaired_alone(tmp_path, problem):
    x, y, new = problem
    first = regressor(tmp_path).fit(x, y)
    before = chunks(tmp_path)
    (gram,) = (tmp_path / "grams").iterdir()
    cut, flipped, deleted = (gram / "ntk" / "c" / name for name in ("0/1", "2/2", "1/3"))
    cut.write_bytes(cut.read_bytes()[:100])
    content = bytearray(flipped.read_bytes())
    content[40] ^= 4
    flipped.write_bytes(content)
    deleted.unlink()
    untouched = {p: p.stat().st_mtime_ns for p in gram.rglob("ntk/c/*/*")}

    second = regressor(tmp_path).fit(x, y)

    assert second.report_.gram.n_computed == 1, "the one that was seen to be missing"
    assert second.report_.gram.n_repaired == 2
    assert "  2 stored blocks or batches of statistics were found lost" in str(second.report_)
    np.testing.assert_array_equal(second.predict(new), first.predict(new))
    assert chunks(tmp_path) == before
    written = {p for p, time in untouched.items() if p.stat().st_mtime_ns != time}
    assert written == {cut, flipped}


def test_a_manifest_of_another_run_is_refused_and_its_blocks_kept(tmp_path, problem):
    x, y, _ = problem
    regressor(tmp_path / "a").fit(x, y)
    regressor(tmp_path / "b").fit(2 * x, y)
    (ours,), (theirs,) = ((tmp_path / name / "grams").iterdir() for name in "ab")
    (ours / "zarr.json").write_bytes((theirs / "zarr.json").read_bytes())
    before = chunks(tmp_path / "a")
    with pytest.raises(ManifestMismatchError, match="data_rows: expected"):
        regressor(tmp_path / "a").fit(x, y)
    assert chunks(tmp_path / "a") == before
