import dataclasses
import pickle

import numpy as np
import pytest

from ntk_dist.solver.preconditioners import IdentityPreconditioner
from ntk_dist.solver.recurrence import CGRules, advance, start
from ntk_dist.solver.result import SolveStatus

RULES = CGRules(tol=1e-8, max_steps=100, check_every=7, patience=100, flat=1e-12, rounding=1e-12)
NO_HELP = IdentityPreconditioner()


@pytest.fixture(name="system")
def _system(systems):
    y = np.random.default_rng(0).standard_normal((40, 3))
    return systems.kernel(40), y / np.linalg.norm(y, axis=0)


def contents(state):
    return pickle.dumps(state)


def run(state, matrix, y, passes=10_000):
    while state.live.size and passes:
        state = advance(state, matrix @ state.wanted, y, NO_HELP, RULES)
        passes -= 1
    return state


def test_a_pass_leaves_the_state_before_as_it_was(system):
    matrix, y = system
    state = start(y, NO_HELP)
    while state.live.size:
        before = contents(state)
        after = advance(state, matrix @ state.wanted, y, NO_HELP, RULES)
        assert contents(state) == before
        state = after
    assert state.worst is SolveStatus.CONVERGED


@pytest.mark.parametrize("passes", [1, 8, 20])
def test_a_state_written_down_goes_on_to_the_same_bytes(system, passes):
    matrix, y = system
    whole = run(start(y, NO_HELP), matrix, y)
    half = run(start(y, NO_HELP), matrix, y, passes)
    resumed = run(pickle.loads(contents(half)), matrix, y)
    assert resumed.best_x.tobytes() == whole.best_x.tobytes()
    assert resumed.products == whole.products


def test_a_check_asks_for_the_answer_and_a_step_for_the_direction(system):
    matrix, y = system
    state = start(y, NO_HELP)
    np.testing.assert_array_equal(state.wanted, state.p)
    state = run(state, matrix, y, RULES.check_every)
    assert state.checking.all()
    np.testing.assert_array_equal(state.wanted, state.x)
    checked = run(state, matrix, y, 1)
    np.testing.assert_array_equal(checked.steps, state.steps)
    np.testing.assert_allclose(checked.best, np.linalg.norm(y - matrix @ state.x, axis=0))


def test_a_residual_that_drifted_is_replaced_and_its_direction_started_afresh(system):
    matrix, y = system
    state = run(start(y, NO_HELP), matrix, y, RULES.check_every)
    wrong = dataclasses.replace(state, r=state.r * [1.0, 1.5, 1.0])
    after = run(wrong, matrix, y, 1)
    true = y - matrix @ state.x
    np.testing.assert_allclose(after.r[:, 1], true[:, 1], rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(after.p[:, 1], after.r[:, 1])
    np.testing.assert_array_equal(after.p[:, [0, 2]], state.p[:, [0, 2]])
    assert run(after, matrix, y).worst is SolveStatus.CONVERGED
