import dataclasses
import json

import numpy as np
import pytest

from ntk_dist.errors import BreakdownError, NotConvergedError
from ntk_dist.solver.result import Solution, SolveReport, SolveStatus, describe


def report(status):
    return SolveReport(
        status=status,
        text=describe(status, np.array([1e-7, 3e-4]), 1e-6, "12 steps"),
        method="cg",
        n=10,
        steps=12,
        products=14,
        residuals=(1e-7, 3e-4),
        tol=1e-6,
        ritz_smallest=0.5,
        warnings=("singular",),
    )


@pytest.mark.parametrize("status", SolveStatus)
def test_a_report_survives_json(status):
    made = report(status)
    text = json.dumps(made.to_dict(), allow_nan=False)
    assert SolveReport.from_dict(json.loads(text)) == made
    assert set(made.to_dict()) == {field.name for field in dataclasses.fields(SolveReport)}


@pytest.mark.parametrize("status", SolveStatus)
def test_every_status_explains_itself(status):
    made = report(status)
    assert made.text.startswith(status.explanation)
    assert "1 of 2 targets at or below 1.0e-06" in made.text
    assert "3.0e-04 (target 1) after 12 steps" in made.text


def test_explanations_differ():
    assert len({status.explanation for status in SolveStatus}) == len(SolveStatus)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (SolveStatus.MAX_STEPS, NotConvergedError),
        (SolveStatus.STAGNATED, NotConvergedError),
        (SolveStatus.INDEFINITE, BreakdownError),
        (SolveStatus.NON_FINITE, BreakdownError),
    ],
)
def test_what_is_no_solution_raises_with_its_text(status, error):
    solution = Solution(np.zeros((10, 2)), report(status))
    with pytest.raises(error) as caught:
        solution.raise_for_status()
    assert str(caught.value) == solution.report.text


@pytest.mark.parametrize("status", [SolveStatus.CONVERGED, SolveStatus.MINIMUM_NORM])
def test_a_solution_passes_through(status):
    solution = Solution(np.zeros((10, 2)), report(status))
    assert solution.raise_for_status() is solution
