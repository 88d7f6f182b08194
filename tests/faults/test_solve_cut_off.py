"""Fits that end in the middle of the solve: killed, or left without workers."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
from required import require
from sklearn.base import clone

from ntk_dist import NTKRegressor, cli, stax
from ntk_dist.errors import ExecutorError, StoreFullError
from ntk_dist.events import CheckpointEvent, StepEvent
from ntk_dist.jobs import load_job
from ntk_dist.jobs.runner import run_job
from ntk_dist.store.checkpoint import Checkpoint

NET = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))
JOB = """
name: waves
task: regression
data: {x: data.npz:x, y: data.npz:y}
architecture: arch.json
gram: {block_rows: 60}
solver: {tol: 1.0e-9, preconditioner: {type: none}}
workspace: ./ws
"""
SETTINGS = {"block_rows": 60, "tol": 1e-9, "preconditioner": "none"}
KILLED_AT = 60
# The command itself, in a process that kills itself without a word after a certain step.
FIT = f"""
import os, sys, time
from ntk_dist import cli
from ntk_dist.events import StepEvent
from ntk_dist.jobs import progress

def show(self, event):
    if isinstance(event, StepEvent):
        time.sleep(0.01)
        if event.step == {KILLED_AT}:
            os.kill(os.getpid(), 9)

progress.ProgressDisplay.__call__ = show
sys.exit(cli.run(["fit", sys.argv[1], "--json"]))
"""
# The same, but dies with the answer in its hands.
DIES_PUBLISHING = """
import os, sys
from ntk_dist import cli
from ntk_dist.jobs import runner
from ntk_dist.solver import resume

resume.SHARE = 1e9  # so short a solve is not worth a checkpoint otherwise

def write(place, artifact):
    os.kill(os.getpid(), 9)

runner.write_artifact = write
sys.exit(cli.run(["fit", sys.argv[1], "--json"]))
"""


def _run(program, job):
    environment = {**os.environ, "NTK_DIST_CHECKPOINT_EVERY_S": "0"}
    return subprocess.run([sys.executable, "-c", program, str(job)], env=environment, check=False)


@pytest.fixture(name="cut", scope="module")
def _cut(tmp_path_factory):
    """A folder with a job that died in its solve, and what an undisturbed run answers."""
    folder = tmp_path_factory.mktemp("cut")
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(180, 4)), generator.normal(size=(180, 2))
    np.savez(folder / "data.npz", x=x, y=y)
    (folder / "arch.json").write_text(NET.to_json())
    (folder / "job.yaml").write_text(JOB)
    died = _run(FIT, folder / "job.yaml")
    assert died.returncode == -signal.SIGKILL
    return folder, NTKRegressor(NET, **SETTINGS).fit(x, y)


@pytest.fixture(name="again")
def _again(cut, tmp_path, capsys):
    """Runs the same command on a copy of what the dead one left, after ``spoil(checkpoint)``."""

    def again(spoil=lambda path: None, job=JOB):
        folder = shutil.copytree(cut[0], tmp_path / "copy")
        (left,) = folder.glob("ws/solves/*")
        spoil(left)
        (folder / "job.yaml").write_text(job)
        assert cli.run(["fit", str(folder / "job.yaml"), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)["report"]
        model = NTKRegressor.load(folder / "ws/models/waves/1")
        return report, model.dual_coef_, list(folder.glob("ws/solves/*"))

    return again


def test_a_driver_killed_in_the_solve_goes_on_from_its_checkpoint(cut, again):
    undisturbed = cut[1]
    report, dual_coef, left = again()
    assert 0 < report["solve"]["resumed_from_step"] <= KILLED_AT < report["solve"]["steps"]
    assert report["solve"]["steps"] == undisturbed.report_.iterations
    assert report["gram"]["n_computed"] == 0
    assert dual_coef.tobytes() == undisturbed.dual_coef_.tobytes()
    assert left == []


def test_a_checkpoint_that_was_flipped_is_not_used(cut, again):
    def flip(path):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    report, dual_coef, left = again(flip)
    assert report["solve"]["resumed_from_step"] is None
    assert dual_coef.tobytes() == cut[1].dual_coef_.tobytes()
    assert left == []


def test_another_ridge_does_not_go_on_from_it(again):
    report, _, left = again(job=JOB.replace("{tol:", "{ridge: 0.5, tol:"))
    assert report["solve"]["resumed_from_step"] is None
    assert len(left) == 1


def test_a_driver_killed_after_the_solve_has_only_to_publish(cut, tmp_path, capsys):
    job = shutil.copytree(cut[0], tmp_path / "copy") / "job.yaml"
    shutil.rmtree(job.parent / "ws/solves")
    died = _run(DIES_PUBLISHING, job)
    assert died.returncode == -signal.SIGKILL
    assert not list(job.parent.glob("ws/models/waves/1"))
    assert cli.run(["fit", str(job), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["report"]["solve"]
    assert report["resumed_from_step"] == report["steps"] == cut[1].report_.iterations
    model = NTKRegressor.load(job.parent / "ws/models/waves/1")
    assert model.dual_coef_.tobytes() == cut[1].dual_coef_.tobytes()
    assert not list(job.parent.glob("ws/solves/*"))


def test_a_model_that_could_not_be_kept_is_not_solved_for_again(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("ntk_dist.solver.resume.SHARE", 1e9)
    monkeypatch.setenv("NTK_DIST_CHECKPOINT_EVERY_S", "0")
    x, y = rng.normal(size=(80, 4)), rng.normal(size=80)
    model = NTKRegressor(NET, workspace=tmp_path, ridge=(0.0, 0.1, 1.0), **SETTINGS)
    events = []
    with pytest.raises(StoreFullError), model.fitting(x, y, on_event=events.append):
        raise StoreFullError("no space left")
    assert [e for e in events if isinstance(e, StepEvent)]
    again = []
    repeated = clone(model).fit(x, y, on_event=again.append)
    assert not [e for e in again if isinstance(e, StepEvent)]
    assert repeated.report_.solve.resumed_from_step == model.report_.iterations
    assert repeated.report_.ridge_scores == model.report_.ridge_scores
    assert len(repeated.report_.ridge_scores) == 3
    assert repeated.dual_coef_.tobytes() == model.dual_coef_.tobytes()
    assert not list(tmp_path.glob("solves/*"))


def test_a_job_that_is_cut_off_while_it_is_scored_publishes_once(cut, tmp_path, monkeypatch):
    monkeypatch.setattr("ntk_dist.solver.resume.SHARE", 1e9)
    monkeypatch.setenv("NTK_DIST_CHECKPOINT_EVERY_S", "0")
    folder = tmp_path / "scored"
    folder.mkdir()
    for name in ("data.npz", "arch.json"):
        shutil.copy(cut[0] / name, folder)
    test = "test: {x: data.npz:x, y: data.npz:y}\n"
    (folder / "job.yaml").write_text(JOB + test)
    score = NTKRegressor.score

    def interrupted(self, x, y):
        raise KeyboardInterrupt

    monkeypatch.setattr(NTKRegressor, "score", interrupted)
    job = load_job(folder / "job.yaml")
    with pytest.raises(KeyboardInterrupt):
        run_job(job)
    assert not list(folder.glob("ws/models/waves/[0-9]*"))
    monkeypatch.setattr(NTKRegressor, "score", score)
    result = run_job(job)
    assert result.version == 1
    assert result.report.solve.resumed_from_step == result.report.solve.steps
    assert result.score > 0.99


def test_a_score_that_cannot_be_had_does_not_lose_the_model(cut, tmp_path, monkeypatch, caplog):
    shutil.copytree(cut[0], tmp_path / "copy")
    test = "test: {x: data.npz:x, y: data.npz:y}\n"
    (tmp_path / "copy/job.yaml").write_text(JOB + test)

    def failing(self, x, y):
        raise ExecutorError("no worker is left")

    monkeypatch.setattr(NTKRegressor, "score", failing)
    result = run_job(load_job(tmp_path / "copy/job.yaml"))
    assert (result.version, result.score) == (1, None)
    assert "without a score, which failed: no worker is left" in caplog.text


@pytest.mark.parametrize("change", ["torn", "another field", "no number"])
def test_scores_of_ridges_that_are_damaged_are_made_again(tmp_path, rng, change, monkeypatch):
    x, y = rng.normal(size=(80, 4)), rng.normal(size=80)
    model = NTKRegressor(NET, workspace=tmp_path, ridge=(0.1, 1.0), block_rows=60)
    with pytest.raises(StoreFullError), model.fitting(x, y):
        raise StoreFullError("no space left")
    (scores,) = tmp_path.glob("solves/*")  # the solve took no time worth a checkpoint
    if change == "torn":
        scores.write_bytes(scores.read_bytes()[:-9])
    load = Checkpoint.load

    def changed(self):
        found = load(self)
        if change == "another field" and found:
            found["score"] = found.pop("error")
        elif change == "no number" and found and "error" in found:
            found["error"][:] = np.nan
        return found

    monkeypatch.setattr(Checkpoint, "load", changed)
    events = []
    repeated = clone(model).fit(x, y, on_event=events.append)
    assert [e for e in events if isinstance(e, StepEvent)]
    assert repeated.report_.ridge_scores == model.report_.ridge_scores
    assert not list(tmp_path.glob("solves/*"))


def test_a_fit_cut_off_in_a_refinement_keeps_its_first_solve(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("ntk_dist.solver.resume.SHARE", 1e9)
    monkeypatch.setenv("NTK_DIST_CHECKPOINT_EVERY_S", "0")
    x, y = rng.normal(size=(80, 4)), rng.normal(size=(80, 2))
    settings = {"block_rows": 60, "tol": 1e-11, "preconditioner": "none", "refine": True}
    whole = NTKRegressor(NET, **settings).fit(x, y)
    assert whole.report_.solve.refinements > 0
    saved = []

    def interrupt(event):
        if isinstance(event, CheckpointEvent):
            saved.append(event.step)
        elif isinstance(event, StepEvent) and saved and event.step > saved[-1] + 1:
            raise KeyboardInterrupt

    model = NTKRegressor(NET, workspace=tmp_path, **settings)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, on_event=interrupt)
    report = model.fit(x, y).report_.solve
    assert 0 < report.resumed_from_step == saved[-1] < report.steps
    assert model.dual_coef_.tobytes() == whole.dual_coef_.tobytes()
    assert not list(tmp_path.glob("solves/*"))


def test_a_workspace_tells_of_states_that_are_left(again, cut, tmp_path, capsys):
    assert cli.run(["info", str(cut[0] / "ws")]) == 0
    told = capsys.readouterr().out
    assert "1 kept from unfinished solves" in told
    assert str(cut[0] / "ws/solves") in told
    again()
    assert cli.run(["info", str(tmp_path / "copy/ws"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unfinished_solves"] == 0
    assert cli.run(["info", str(tmp_path / "copy/ws")]) == 0
    assert "unfinished" not in capsys.readouterr().out


@pytest.mark.dask
def test_every_worker_killed_in_the_solve_leaves_a_state_to_go_on_from(tmp_path, rng, monkeypatch):
    require("dask")
    from ntk_dist.executors.dask import DaskExecutor

    monkeypatch.setattr("ntk_dist.executors.dask_workers.FIRST_WORKER_S", 2.0)

    x, y = rng.normal(size=(180, 4)), rng.normal(size=(180, 2))
    events = []

    def kill(event):
        events.append(event)
        if isinstance(event, StepEvent) and event.step == 20:
            for process in workers:
                process.kill()

    before = set(psutil.Process().children(recursive=True))
    with DaskExecutor(n_workers=1) as executor:
        workers = set(psutil.Process().children(recursive=True)) - before
        model = NTKRegressor(NET, executor=executor, workspace=tmp_path, **SETTINGS)
        with pytest.raises(ExecutorError) as caught:
            model.fit(x, y, on_event=kill)
    assert caught.value.exit_code == 4
    assert CheckpointEvent(state="saved", step=20) in events
    again = NTKRegressor(NET, workspace=tmp_path, **SETTINGS).fit(x, y)
    assert again.report_.solve.resumed_from_step == 20
    whole = NTKRegressor(NET, **SETTINGS).fit(x, y)
    # Another number of shards adds products up in another order.
    assert abs(again.report_.iterations - whole.report_.iterations) < 10
    np.testing.assert_allclose(again.dual_coef_, whole.dual_coef_, rtol=1e-6, atol=1e-8)
    assert "went on from step 20" in str(again.report_)
