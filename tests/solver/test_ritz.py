import numpy as np
import pytest

from ntk_dist.solver.ritz import LanczosTrace


def coefficients(matrix, y):
    """Step lengths and direction coefficients of plain conjugate gradients, run to the end."""
    alphas, betas = [], []
    r, p = y, y
    for _ in range(len(y)):
        q = matrix @ p
        alphas.append(r @ r / (p @ q))
        after = r - alphas[-1] * q
        betas.append(after @ after / (r @ r))
        r, p = after, after + betas[-1] * p
    return np.array(alphas), np.array(betas)


def test_a_full_run_finds_every_end_of_the_spectrum(systems):
    matrix, _ = systems.with_spectrum([1.0, 2.0, 5.0, 9.0, 20.0])
    alphas, betas = coefficients(matrix, np.ones(5))
    trace = LanczosTrace(alphas[:, None], betas[:, None])
    np.testing.assert_allclose(trace.extremes(), (1, 20), rtol=1e-8)


def test_passes_without_a_step_do_not_count():
    trace = LanczosTrace.empty(2)
    nothing = np.full(2, np.nan)
    assert trace.extremes() is None
    trace = trace.extended(np.array([0.5, np.nan]), np.array([0.1, np.nan]))
    trace = trace.extended(nothing, nothing)
    assert trace.extremes() == (2.0, 2.0)


def test_a_restart_parts_two_recurrences():
    first, second = np.array([[0.5, 0.5]]), np.array([[0.25, 0.25]])
    trace = LanczosTrace.empty(2).extended(first[0], np.array([0.3, 0.3]))
    trace = trace.restarted(np.array([1])).extended(second[0], np.array([0.3, 0.3]))
    # Target 1 now has two 1 x 1 matrices, 2 and 4; target 0 one of 2 x 2, which reaches further.
    joined = np.linalg.eigvalsh([[2, np.sqrt(0.3) / 0.5], [np.sqrt(0.3) / 0.5, 4 + 0.3 / 0.5]])
    assert trace.extremes() == pytest.approx((joined[0], joined[1]))
    alone = LanczosTrace(trace.alphas[:, 1:], trace.betas[:, 1:])
    assert alone.extremes() == (2.0, 4.0)


@pytest.mark.parametrize(("alpha", "beta"), [(-1.0, 0.2), (0.0, 0.2), (1.0, -0.2)])
def test_coefficients_that_rounding_spoiled_end_the_segment_before_them(alpha, beta):
    sound = LanczosTrace(np.array([[0.5], [0.25]]), np.array([[0.3], [0.2]]))
    spoiled = LanczosTrace(np.array([[0.5], [0.25], [alpha]]), np.array([[0.3], [beta], [0.1]]))
    assert spoiled.extremes() == pytest.approx(sound.extremes())


def test_a_trace_without_a_sound_step_says_nothing():
    assert LanczosTrace(np.array([[-1.0]]), np.array([[0.5]])).extremes() is None
