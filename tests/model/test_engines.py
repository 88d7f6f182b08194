"""The main job gives the same answer whoever runs its tasks."""

import tempfile

import numpy as np
import pytest
from required import require
from sklearn.datasets import load_digits

from ntk_dist import NTKClassifier, stax
from ntk_dist.errors import DiskBudgetError, MemoryBudgetError, StoreFullError
from ntk_dist.events import TaskEvent
from ntk_dist.executors import make_executor

HIDDEN = {"W_std": 2**0.5, "b_std": 0.1}
NET = stax.serial(
    stax.Conv(1, (3, 3), padding="SAME", **HIDDEN), stax.Relu(), stax.Flatten(), stax.Dense(1)
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("dask", marks=pytest.mark.dask),
        pytest.param("ray", marks=pytest.mark.ray),
    ],
)
def executor(request):
    require(request.param)
    with make_executor(f"{request.param}:2") as made:
        yield made


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    x = data.images[:260, ..., None]
    x[7] = x[3]  # a repeated input, so that merging is part of the job
    return x[:200], data.target[:200], x[200:]


@pytest.fixture(scope="module")
def reference(digits):
    x, y, new = digits
    return NTKClassifier(NET, solver="direct").fit(x, y).decision_function(new)


def test_workers_share_a_workspace(executor, digits, reference, tmp_path):
    x, y, new = digits
    model = NTKClassifier(NET, executor=executor, workspace=tmp_path, block_rows=60).fit(x, y)
    np.testing.assert_allclose(model.decision_function(new), reference, atol=1e-5)
    assert model.report_.executor == executor.name
    assert model.report_.gram.n_computed == 10
    assert model.report_.n_unique == 199
    # What the workers stored is what this process finds.
    again = NTKClassifier(NET, workspace=tmp_path, block_rows=60).fit(x, y)
    assert again.report_.gram.n_computed == 0
    np.testing.assert_allclose(again.decision_function(new), reference, atol=1e-5)


def test_no_workspace_is_needed_on_one_machine(executor, digits, reference):
    x, y, new = digits
    model = NTKClassifier(NET, executor=executor, block_rows=100).fit(x, y)
    np.testing.assert_allclose(model.decision_function(new), reference, atol=1e-5)


def test_the_disk_of_a_temporary_folder_is_asked_first(executor, digits, small_disk, monkeypatch):
    x, y, _ = digits
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    (small_disk / "filler").write_bytes(bytes(480 * 2**10))
    with pytest.raises(DiskBudgetError, match="free some space or choose another workspace"):
        NTKClassifier(NET, executor=executor, block_rows=60).fit(x, y)


def test_every_block_is_one_task(executor, digits, tmp_path):
    x, y, _ = digits
    events = []
    model = NTKClassifier(NET, executor=executor, workspace=tmp_path, block_rows=60)
    model.fit(x, y, on_event=events.append)
    done = [e for e in events if isinstance(e, TaskEvent) and e.state == "done"]
    assert sorted(e.item for e in done if e.item.startswith("(")) == sorted(
        f"({i}, {j})" for i in range(4) for j in range(i, 4)
    )


def test_errors_come_home_as_themselves(executor, digits, tmp_path, monkeypatch):
    x, y, _ = digits
    monkeypatch.setenv("NTK_DIST_BLOCK_MAX_BYTES", "10")
    with pytest.raises(MemoryBudgetError, match="NTK_DIST_BLOCK_MAX_BYTES"):
        NTKClassifier(NET, executor=executor, workspace=tmp_path).fit(x, y)


def test_a_full_disk_loses_no_block(executor, digits, small_disk, reference):
    x, y, new = digits
    model = NTKClassifier(NET, executor=executor, workspace=small_disk, block_rows=25)
    filler = small_disk / "filler"
    with pytest.raises(StoreFullError):
        _fill_and_fit(model, x, y, filler)
    kept = len(list(small_disk.glob("grams/*/ntk/c/*/*")))
    assert kept > 0
    filler.unlink()
    model.fit(x, y)
    # Tasks that were in flight when the error came home may have stored theirs after the count.
    assert model.report_.gram.n_computed <= 36 - kept
    np.testing.assert_allclose(model.decision_function(new), reference, atol=1e-5)


def _fill_and_fit(model, x, y, filler):
    """Leave room for a few blocks only, after the plan has been made and found to fit."""

    def fill(event):
        block = isinstance(event, TaskEvent) and event.item.startswith("(")
        if block and not filler.exists():
            filler.write_bytes(b"")
            with filler.open("ab", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(1024))
                except OSError:
                    pass

    model.fit(x, y, on_event=fill)
