import numpy as np
import pytest

from ntk_dist.errors import DataShapeError, NonFiniteDataError
from ntk_dist.solver.columns import as_columns


def test_one_target_becomes_one_column_of_float64():
    columns = as_columns([1, 2, 3], 3, "right-hand side")
    assert columns.shape == (3, 1)
    assert columns.dtype == np.float64


@pytest.mark.parametrize("shape", [(), (4,), (4, 2), (3, 2, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(DataShapeError, match=r"y: expected shape \(3,\) or \(3, n_targets\)"):
        as_columns(np.ones(shape), 3, "y")


def test_rows_that_are_not_finite_are_named():
    values = np.ones((20, 2))
    values[[3, 5], 1] = np.nan
    with pytest.raises(NonFiniteDataError, match=r"in 2 rows \(3, 5\)"):
        as_columns(values, 20, "y")
    values[:, 0] = np.inf
    with pytest.raises(NonFiniteDataError, match=r"in 20 rows \(0, 1, 2, 3, 4, \.\.\.\)"):
        as_columns(values, 20, "y")
