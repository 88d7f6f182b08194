"""Solves that are cut off, and go on from what was written down."""

import numpy as np
import pytest

from ntk_dist.errors import ExecutorError, StoreFullError
from ntk_dist.events import CheckpointEvent, StepEvent
from ntk_dist.solver import DenseOperator, RPCholeskyPreconditioner, solve, solve_cg
from ntk_dist.solver import resume as resume_module
from ntk_dist.store.checkpoint import Checkpoint
from ntk_dist.store.location import open_place

IDENTITY = {"gram": "this"}


class Failing(DenseOperator):
    """Loses its workers at one product."""

    def __init__(self, matrix, at):
        super().__init__(matrix)
        self.left = at

    def matmat(self, v):
        self.left -= 1
        if not self.left:
            raise ExecutorError("every worker is gone")
        return super().matmat(v)


@pytest.fixture(name="problem")
def _problem(systems):
    matrix = systems.kernel(80)
    basis = np.linalg.eigh(matrix)[1]
    # One target is done long before the others, so live targets are fewer than all.
    y = np.stack([basis[:, -1], *np.random.default_rng(0).standard_normal((2, 80))], axis=1)
    return matrix, y


def preconditioner(matrix):
    generator = np.random.default_rng(0)
    return RPCholeskyPreconditioner.of(DenseOperator(matrix), rank=10, generator=generator)


@pytest.mark.parametrize("at", [2, 9, 33])
def test_workers_lost_in_the_middle_cost_no_step(problem, tmp_path, at):
    matrix, y = problem
    whole = solve_cg(DenseOperator(matrix), y, preconditioner(matrix), tol=1e-10, check_every=7)
    checkpoint = Checkpoint(open_place(tmp_path), IDENTITY)
    with pytest.raises(ExecutorError, match="every worker"):
        solve_cg(
            Failing(matrix, at),
            y,
            preconditioner(matrix),
            tol=1e-10,
            check_every=7,
            checkpoint=checkpoint,
        )
    events = []
    rest = solve_cg(
        again := Failing(matrix, -1),
        y,
        preconditioner(matrix),
        tol=1e-10,
        check_every=7,
        checkpoint=checkpoint,
        on_step=events.append,
    )
    assert rest.x.tobytes() == whole.x.tobytes()
    assert (rest.report.steps, rest.report.products) == (whole.report.steps, whole.report.products)
    assert -1 - again.left == whole.report.products - (at - 1)
    assert whole.report.resumed_from_step is None
    assert events[0] == CheckpointEvent(state="resumed", step=rest.report.resumed_from_step)
    assert 0 < rest.report.resumed_from_step <= at - 1


class Ungathered(DenseOperator):
    """Loses its workers when the whole matrix is asked for."""

    def columns(self, indices):
        raise ExecutorError("every worker is gone")


def test_a_checkpoint_outlives_the_solve_and_what_comes_after_it(problem, tmp_path, monkeypatch):
    monkeypatch.setattr(resume_module, "SHARE", 1e9)
    matrix, y = problem
    matrix[:, 3] = matrix[3] = 0.0  # no answer: conjugate gradients stagnate
    checkpoint = Checkpoint(open_place(tmp_path), IDENTITY)
    with pytest.raises(ExecutorError, match="every worker"):
        solve(Ungathered(matrix), y, checkpoint=checkpoint, checkpoint_every_s=0)
    report = solve(operator := Failing(matrix, -1), y, checkpoint=checkpoint).report
    assert report.method == "cg, direct"
    assert report.resumed_from_step == report.steps > 0
    assert operator.left == -1  # not one more product
    assert checkpoint.load() is not None


def test_an_interruption_keeps_the_state(problem, tmp_path):
    matrix, y = problem

    def interrupt(event):
        if isinstance(event, StepEvent) and event.step == 12:
            raise KeyboardInterrupt

    checkpoint = Checkpoint(open_place(tmp_path), IDENTITY)
    with pytest.raises(KeyboardInterrupt):
        solve_cg(DenseOperator(matrix), y, checkpoint=checkpoint, on_step=interrupt)
    assert solve(DenseOperator(matrix), y, checkpoint=checkpoint).report.resumed_from_step == 12


def test_states_are_written_down_as_often_as_asked(problem, tmp_path, monkeypatch):
    matrix, y = problem
    monkeypatch.setattr(resume_module, "SHARE", 1e9)
    checkpoint, events = Checkpoint(open_place(tmp_path), IDENTITY), []
    report = solve_cg(
        DenseOperator(matrix),
        y,
        checkpoint=checkpoint,
        checkpoint_every_s=0,
        on_step=events.append,
    ).report
    saved = [event for event in events if isinstance(event, CheckpointEvent)]
    assert len(saved) == report.products
    events.clear()
    checkpoint.delete()
    solve_cg(DenseOperator(matrix), y, checkpoint=checkpoint, on_step=events.append)
    assert not [event for event in events if isinstance(event, CheckpointEvent)]


def test_a_slow_disk_is_written_to_less_often(problem, tmp_path, monkeypatch):
    now = [0.0]

    def clock():
        now[0] += 1e-3  # every look at the clock: a pass is at least one
        return now[0]

    class Slow(Checkpoint):
        saves = 0

        def save(self, arrays):
            now[0] += 0.05
            self.saves += 1

    monkeypatch.setattr(resume_module.time, "perf_counter", clock)
    checkpoint = Slow(open_place(tmp_path), IDENTITY)
    matrix, y = problem
    solve_cg(DenseOperator(matrix), y, checkpoint=checkpoint, checkpoint_every_s=0, tol=1e-12)
    assert checkpoint.saves == 1


def test_a_state_of_another_system_is_not_used(problem, tmp_path, caplog):
    matrix, y = problem
    checkpoint = Checkpoint(open_place(tmp_path), IDENTITY)
    with pytest.raises(ExecutorError):
        solve_cg(Failing(matrix, 5), y, checkpoint=checkpoint)
    report = solve_cg(DenseOperator(matrix), y[:, :2], checkpoint=checkpoint).report
    assert report.resumed_from_step is None
    assert "expected a state of shape (80, 2)" in caplog.text


@pytest.mark.parametrize("name", ["verdict", "checking"])
def test_a_state_with_records_of_other_targets_is_not_used(problem, tmp_path, caplog, name):
    matrix, y = problem
    checkpoint = Checkpoint(open_place(tmp_path), IDENTITY)
    with pytest.raises(ExecutorError):
        solve_cg(Failing(matrix, 5), y, checkpoint=checkpoint)
    arrays = checkpoint.load()
    checkpoint.save({**arrays, name: arrays[name][:1]})
    assert solve_cg(DenseOperator(matrix), y, checkpoint=checkpoint).report.steps > 5
    assert "expected records of 3 targets" in caplog.text


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_solve(problem, tmp_path, caplog):
    class Full(Checkpoint):
        def save(self, arrays):
            raise StoreFullError("no space is left")

    matrix, y = problem
    with pytest.raises(ExecutorError, match="every worker"):
        solve_cg(Failing(matrix, 5), y, checkpoint=Full(open_place(tmp_path), IDENTITY))
    assert "no checkpoint after step 4: no space is left" in caplog.text


def test_a_guess_worse_than_nothing_is_let_go(problem):
    matrix, y = problem
    cold = solve_cg(DenseOperator(matrix), y)
    warm = solve_cg(DenseOperator(matrix), y, x0=np.full(y.shape, 1e6) * [0, 1, 1])
    assert warm.report.steps == cold.report.steps
    np.testing.assert_allclose(warm.x, cold.x, rtol=1e-9)
