"""Right-hand sides as the solvers want them."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_dist.errors import DataShapeError, NonFiniteDataError
from ntk_dist.units import first_few

__all__ = ["as_columns", "scaled_start", "unit_columns"]

log = logging.getLogger(__name__)


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
        raise NonFiniteDataError(
            f"{name}: expected finite numbers, got NaN or infinity in {bad.size} rows "
            f"({first_few(bad, 5)}); remove or repair those rows"
        )
    return columns


def unit_columns(y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns of length 1 and the lengths they had, at any scale: 1e160 squared is no number.

    Absolute and relative residuals are one number for them.

    Parameters
    ----------
    y : (n, n_targets)
        Finite.

    Returns
    -------
    unit : (n, n_targets)
        Columns of zeros stay what they are.
    lengths : (n_targets,)
        ``y == unit * lengths`` but for rounding; 1 for columns of zeros.
    """
    largest = np.max(np.abs(y), axis=0, initial=0.0)
    largest[largest == 0] = 1.0
    scaled = y / largest
    norms = np.linalg.norm(scaled, axis=0)
    norms[norms == 0] = 1.0
    return scaled / norms, largest * norms


def scaled_start(x0: NDArray[np.float64], lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """A start for columns of length 1, of one for those that had ``lengths``.

    Columns that no float64 holds any more, because the start is that of targets larger by 1e308,
    are zeros: there is no start for them.
    """
    with np.errstate(over="ignore"):
        start = x0 / lengths
    lost = np.flatnonzero(~np.isfinite(start).all(axis=0))
    if lost.size:
        log.warning(
            "%d of %d targets start from zero: what they were to start from is too large for them",
            lost.size,
            lengths.size,
        )
        start[:, lost] = 0.0
    return start
