"""Right-hand sides as the solvers want them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_dist.errors import DataShapeError, NonFiniteDataError

__all__ = ["as_columns"]


def as_columns(values: ArrayLike, n: int, name: str) -> NDArray[np.float64]:
    """``values`` in float64 with one column per target, of shape ``(n, n_targets)``.

    Parameters
    ----------
    values : (n,) or (n, n_targets)
        One number per row and target.
    n
        Rows of the matrix.
    name
        What the message calls them.

    Raises
    ------
    DataShapeError
        The rank or the number of rows is wrong.
    NonFiniteDataError
        Some rows hold NaN or infinity.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2) or array.shape[0] != n:
        raise DataShapeError(
            f"{name}: expected shape ({n},) or ({n}, n_targets), got {array.shape}; "
            "one row per row of the matrix"
        )
    columns = array[:, None] if array.ndim == 1 else array
    bad = np.flatnonzero(~np.isfinite(columns).all(axis=1))
    if bad.size:
        shown = ", ".join(map(str, bad[:5])) + (", ..." if bad.size > 5 else "")
        raise NonFiniteDataError(
            f"{name}: expected finite numbers, got NaN or infinity in {bad.size} rows ({shown}); "
            "remove or repair those rows"
        )
    return columns
