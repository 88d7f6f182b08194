"""Systems with a known spectrum, and an operator that counts what it is asked."""

from types import SimpleNamespace

import numpy as np
import pytest

from ntk_dist.solver.operators import AbstractOperator


class CountingOperator(AbstractOperator):
    """Another operator, with a record of the widths of its products and of its column requests."""

    def __init__(self, operator):
        self.operator = operator
        self.n, self.dtype = operator.n, operator.dtype
        self.widths = []
        self.requests = []

    def matmat(self, v):
        self.widths.append(v.shape[1])
        return self.operator.matmat(v)

    def diagonal(self):
        return self.operator.diagonal()

    def columns(self, indices):
        self.requests.append(len(indices))
        return self.operator.columns(indices)


def with_spectrum(values, seed=0):
    """A dense symmetric matrix with the given eigenvalues, and its eigenvectors."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values),) * 2))
    matrix = (basis * np.asarray(values, dtype=np.float64)) @ basis.T
    return (matrix + matrix.T) / 2, basis


def kernel(n, seed=0):
    """A smooth Gram matrix in three dimensions: eigenvalues decay fast."""
    points = np.random.default_rng(seed).standard_normal((n, 3))
    distance = ((points[:, None] - points[None]) ** 2).sum(-1)
    return np.exp(-np.sqrt(distance))


@pytest.fixture(name="systems", scope="session")
def _systems():
    return SimpleNamespace(
        CountingOperator=CountingOperator, with_spectrum=with_spectrum, kernel=kernel
    )
