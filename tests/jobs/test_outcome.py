"""What a driver writes down at its very end."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntk_dist import cli, stax
from ntk_dist.errors import ConflictError, InvalidInputError, StoreFullError
from ntk_dist.events import ignore
from ntk_dist.jobs.journal import journaled, run_place
from ntk_dist.jobs.lifecycle import Outcome, run_name
from ntk_dist.jobs.outcome import concluding, read_outcome, write_outcome
from ntk_dist.jobs.runner import run_job
from ntk_dist.jobs.spec import JobSpec
from ntk_dist.store.location import open_place
from ntk_dist.store.place import AbstractPlace
from ntk_dist.wire import Failure

NET = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
RUN = run_name(datetime(2026, 1, 31, tzinfo=UTC), "00ab")


@pytest.fixture
def place(tmp_path: Path) -> AbstractPlace:
    return run_place(open_place(tmp_path), "waves", RUN)


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    x = np.random.default_rng(0).normal(size=(60, 3))
    np.savez(tmp_path / "data.npz", x=x, y=np.sin(x[:, 0]))
    data = {"x": f"{tmp_path}/data.npz:x", "y": f"{tmp_path}/data.npz:y"}
    spec = {"name": "waves", "task": "regression", "data": data, "test": data}
    spec |= {"architecture": json.loads(NET.to_json()), "workspace": str(tmp_path)}
    (tmp_path / "job.json").write_text(json.dumps(spec))
    return tmp_path / "job.json"


def test_a_driver_that_succeeds_leaves_its_model_and_report(
    job_file: Path, tmp_path: Path, place: AbstractPlace
) -> None:
    assert cli.run(["fit", str(job_file), "--run", RUN]) == 0
    outcome = read_outcome(place)
    assert outcome is not None
    assert (outcome.state, outcome.version) == ("succeeded", 1)
    assert outcome.score is not None
    assert outcome.score > 0.99
    assert outcome.report is not None
    assert outcome.report["solve"]["status"] == "converged"
    assert (tmp_path / "models" / "waves" / "1").is_dir()
    # A second driver of the same run is refused, and has no say in what it came to.
    assert cli.run(["fit", str(job_file), "--run", RUN]) == 2
    assert read_outcome(place) == outcome


def test_a_run_has_one_driver(job_file: Path, place: AbstractPlace) -> None:
    job = JobSpec.model_validate_json(job_file.read_text())
    with journaled(job.workspace, "waves", ignore, RUN):
        with pytest.raises(ConflictError, match=f"run {RUN} of job waves"):
            run_job(job, run=RUN)
        assert read_outcome(place) is None
    with pytest.raises(InvalidInputError, match=r"run: expected .*'\.\./secrets'"):
        run_job(job, run="../secrets")


@pytest.mark.parametrize(
    ("error", "state", "code", "words"),
    [
        (StoreFullError("no space is left"), "failed", "store_full", "no space is left"),
        (KeyboardInterrupt(), "interrupted", "interrupted", "resume"),
        (RuntimeError("/home/somebody/key"), "failed", "defect", "unexpected RuntimeError"),
    ],
)
def test_an_error_is_told_without_what_is_nobodys_business(
    place: AbstractPlace,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    state: str,
    code: str,
    words: str,
) -> None:
    with pytest.raises(type(error)), concluding(place):
        raise error
    outcome = read_outcome(place)
    assert outcome is not None
    assert outcome.failure is not None
    assert (outcome.state, outcome.failure.code) == (state, code)
    assert words in outcome.failure.message
    assert "somebody" not in outcome.failure.message
    assert ("somebody" in caplog.text) == (code == "defect"), "the log says what it was"


def test_what_went_wrong_first_is_what_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFullError), concluding(open_place(tmp_path / "file") / "run"):
        raise StoreFullError("no space is left")
    assert "not kept" in caplog.text


def test_numbers_that_json_has_no_word_for_are_told_as_unknown(place: AbstractPlace) -> None:
    report = {"condition": np.inf, "residuals": [1e-7, float("nan")], "seconds": {"solve": 1.0}}
    write_outcome(place, Outcome(state="succeeded", version=1, score=np.nan, report=report))
    found = read_outcome(place)
    assert found is not None
    assert (found.score, found.report) == (
        None,
        {"condition": None, "residuals": [1e-7, None], "seconds": {"solve": 1.0}},
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"state": "asleep"}', '{"state": "succeeded"}', b"\xff".hex()]
)
def test_what_is_no_outcome_counts_as_none(
    place: AbstractPlace, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (place / "outcome.json").write_bytes(text.encode())
    assert read_outcome(place) is None
    assert "outcome.json" in caplog.text


def test_a_failure_is_read_as_it_was_written(place: AbstractPlace) -> None:
    outcome: Any = Outcome(state="failed", failure=Failure(code="invalid_data", message="NaN"))
    write_outcome(place, outcome)
    assert read_outcome(place) == outcome
