"""What multiplies a vector by the Gram matrix: densely, with a ridge, or block by block on workers.

Every operator is a symmetric n x n matrix that obeys one law: each method answers what the same
question put to ``as_dense()`` would answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntk_dist.errors import InvalidInputError
from ntk_dist.solver.symmetric import PANEL_ROWS

__all__ = [
    "AbstractOperator",
    "DenseOperator",
    "RidgedOperator",
    "ScaledOperator",
    "Shards",
    "StoredGramOperator",
    "ridge_vector",
]

Array = NDArray[np.float64]


class AbstractOperator(ABC):
    """A symmetric matrix known by what it does; numbers in and out are float64."""

    n: int
    """Rows, and columns."""
    dtype: np.dtype[Any]
    """Precision the entries were computed in: float32 entries are known to 6e-8, whatever the
    products are accumulated in."""

    @abstractmethod
    def matmat(self, v: Array) -> Array:
        """The product with ``v``, of shape ``(n, k)``; equals ``as_dense() @ v``."""

    @abstractmethod
    def diagonal(self) -> Array:
        """The diagonal, of shape ``(n,)``; equals ``as_dense().diagonal()``."""

    @abstractmethod
    def columns(self, indices: NDArray[np.intp]) -> Array:
        """Some columns, of shape ``(n, r)``; equals ``as_dense()[:, indices]``."""

    def as_dense(self) -> Array:
        """The whole matrix, of shape ``(n, n)``, gathered a panel of columns at a time."""
        dense = np.empty((self.n, self.n))
        for start in range(0, self.n, PANEL_ROWS):
            stop = min(start + PANEL_ROWS, self.n)
            dense[:, start:stop] = self.columns(np.arange(start, stop))
        return dense


class DenseOperator(AbstractOperator):
    """The plain reference: the whole matrix in memory, in float64.

    Parameters
    ----------
    matrix : (n, n)
        Symmetric; the caller vouches for it. Its dtype is remembered as the precision it has.
    """

    def __init__(self, matrix: ArrayLike) -> None:
        given = np.asarray(matrix)
        if given.ndim != 2 or given.shape[0] != given.shape[1]:
            raise InvalidInputError(
                f"expected a square matrix, got shape {given.shape}; "
                "a Gram matrix has one row and one column per input"
            )
        self.dtype = given.dtype if given.dtype == np.float32 else np.dtype(np.float64)
        self.n = given.shape[0]
        self._matrix: Array = given.astype(np.float64)

    def matmat(self, v: Array) -> Array:
        """One dgemm."""
        product: Array = self._matrix @ v
        return product

    def diagonal(self) -> Array:
        """A copy of the diagonal."""
        return self._matrix.diagonal().copy()

    def columns(self, indices: NDArray[np.intp]) -> Array:
        """Copies of the columns."""
        return self._matrix[:, indices]


class RidgedOperator(AbstractOperator):
    """``operator`` plus a diagonal: K + diag(ridge).

    Parameters
    ----------
    operator
        K.
    ridge : float or (n,)
        What is added to each diagonal entry; differs by row when repeated inputs were collapsed.

    Raises
    ------
    InvalidInputError
        The ridge is negative, not finite, or of another length.
    """

    def __init__(self, operator: AbstractOperator, ridge: ArrayLike) -> None:
        self.n, self.dtype = operator.n, operator.dtype
        self.operator = operator
        self.ridge = ridge_vector(ridge, operator.n)

    def matmat(self, v: Array) -> Array:
        """K v + ridge * v."""
        product: Array = self.operator.matmat(v) + self.ridge[:, None] * v
        return product

    def diagonal(self) -> Array:
        """The diagonal of K, plus the ridge."""
        total: Array = self.operator.diagonal() + self.ridge
        return total

    def columns(self, indices: NDArray[np.intp]) -> Array:
        """Columns of K, with the ridge where they cross the diagonal."""
        columns = self.operator.columns(indices)
        columns[indices, np.arange(len(indices))] += self.ridge[indices]
        return columns


class ScaledOperator(AbstractOperator):
    """diag(scale) K diag(scale).

    With the square roots of their counts as scale, the distinct rows of a data set have the
    spectrum of all its rows: K = E K_u E^T with E = Q diag(scale) and Q orthonormal.

    Parameters
    ----------
    operator
        K.
    scale : (n,)
        Positive.
    """

    def __init__(self, operator: AbstractOperator, scale: ArrayLike) -> None:
        self.n, self.dtype = operator.n, operator.dtype
        self.operator = operator
        self.scale = np.asarray(scale, dtype=np.float64)

    def matmat(self, v: Array) -> Array:
        """Scaled, multiplied, scaled."""
        product: Array = self.scale[:, None] * self.operator.matmat(self.scale[:, None] * v)
        return product

    def diagonal(self) -> Array:
        """The diagonal of K times the squares."""
        diagonal: Array = self.scale**2 * self.operator.diagonal()
        return diagonal

    def columns(self, indices: NDArray[np.intp]) -> Array:
        """Columns of K, scaled on both sides."""
        # One product of the two scales, so that the matrix is symmetric to the last bit.
        both = self.scale[:, None] * self.scale[indices]
        columns: Array = both * self.operator.columns(indices)
        return columns


class Shards(Protocol):
    """Long-lived :class:`~ntk_dist.gram.shard.GramShard` objects, wherever they live."""

    def call(self, method: str, *args: Any) -> list[Any]:
        """Every shard's answer, in a fixed order."""
        ...

    def sum(self, method: str, *args: Any) -> Any:
        """The sum of every shard's answer, added in a fixed order."""
        ...


class StoredGramOperator(AbstractOperator):
    """A Gram matrix whose blocks stay on the workers that own them.

    A product costs one call per shard and the additions of their answers, all on the workers,
    however many blocks there are: the caller sends ``v`` and receives one array of its shape.
    Additions have a fixed order, so the same assignment of blocks gives the same bytes whichever
    shard answers first.

    Parameters
    ----------
    shards
        :class:`~ntk_dist.gram.shard.GramShard` objects that own every block of the upper triangle
        exactly once.
    n
        Rows of the matrix.
    dtype
        Precision of the blocks.
    """

    def __init__(self, shards: Shards, n: int, dtype: np.dtype[Any] | str = "float32") -> None:
        self.n, self.dtype = n, np.dtype(dtype)
        self._shards = shards

    def matmat(self, v: Array) -> Array:
        """The sum of what each shard's blocks contribute."""
        v = np.ascontiguousarray(v, dtype=np.float64)
        if v.ndim != 2 or v.shape[0] != self.n:
            raise InvalidInputError(
                f"expected vectors of shape ({self.n}, k), got {v.shape}; "
                "one row per row of the Gram matrix"
            )
        product: Array = self._shards.sum("matmat", v)
        return product

    def diagonal(self) -> Array:
        """Collected from the blocks on the diagonal, which alone are read."""
        diagonal = np.zeros(self.n)
        for part in self._shards.call("diagonal"):
            for start, values in part:
                diagonal[start : start + len(values)] = values
        return diagonal

    def columns(self, indices: NDArray[np.intp]) -> Array:
        """Collected from the blocks that cross the columns, in one call per shard."""
        indices = np.asarray(indices, dtype=np.intp)
        if indices.size and not (indices.min() >= 0 and indices.max() < self.n):
            raise InvalidInputError(
                f"expected column indices from 0 to {self.n - 1}, "
                f"got {indices.min()} to {indices.max()}"
            )
        columns = np.zeros((self.n, len(indices)))
        for part in self._shards.call("columns", indices):
            for start, positions, values in part:
                columns[start : start + len(values), positions] = values
        return columns


def ridge_vector(ridge: ArrayLike, n: int) -> Array:
    """The ridge of every row, of shape ``(n,)``, from one number or one per row.

    Raises
    ------
    InvalidInputError
        It is negative, not finite, or of another length.
    """
    given = np.asarray(ridge, dtype=np.float64)
    if given.shape not in {(), (n,)}:
        raise InvalidInputError(f"expected one ridge, or {n} of them, got shape {given.shape}")
    if not np.all(np.isfinite(given)) or np.any(given < 0):
        raise InvalidInputError(
            f"expected a ridge of at least 0, got {given.min() if given.size else ridge}; "
            "a negative or undefined ridge makes the system indefinite"
        )
    return np.broadcast_to(given, (n,)).copy()
