"""Kernels that depend on the angle of two samples alone, as one polynomial each.

Without biases the kernels of a network are the product of both norms and a function of the angle,
which is smooth on [0, π] whatever the depth: a polynomial of it replaces all layers. Where all
samples have one norm that holds with biases too, of the angle behind the first of them: of the
samples' own angle the kernels are not smooth near π, from where the bias leads away.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev

__all__ = ["Curves", "fit"]

DEGREES = range(6, 33, 2)
"""Beyond, the layers themselves are cheaper, each of them as much as fourteen powers or more."""
LARGEST_ERRORS = {np.dtype(np.float32): 3e-7, np.dtype(np.float64): 1e-13}
"""Relative, of polynomials and their evaluation; the gap of a product adds as much again."""
SMALL = 0.1
"""Of the product of the deviations: smaller kernels, of nearly opposite samples, err by this much.
The layers are no better where a kernel changes sign."""
POINTS = 1000


@dataclass(frozen=True, eq=False)
class Curves:
    """Both kernels as polynomials of ``2 t / largest - 1``, with t an angle."""

    coefficients: np.ndarray
    """Highest power first: (2, degree + 1)."""
    largest: float = math.pi
    """Angles go from 0 to this."""
    lead: int = 0
    """Steps of a program that come before."""

    def __call__(self, angles: np.ndarray) -> np.ndarray:
        """Both kernels at angles (n,), over the product of the deviations: (2, n)."""
        dtype = self.coefficients.dtype
        return _evaluate(self.coefficients, (2 / self.largest * angles - 1).astype(dtype))


def fit(
    kernels_at: Callable[[np.ndarray], np.ndarray],
    dtype: np.dtype[np.floating],
    largest: float = math.pi,
    lead: int = 0,
) -> Curves | None:
    """The polynomials of least degree that are as good as layers; None if that is not moderate.

    Parameters
    ----------
    kernels_at
        Both kernels at angles (n,), the first of which is 0, in float64: (2, n). They are divided
        by the first kernel there, the product of the deviations.
    dtype
        Of the coefficients and of the arithmetic with them.
    largest, lead
        See ``Curves``.
    """
    x = np.concatenate([[-1.0], np.sin(np.linspace(-np.pi / 2, np.pi / 2, POINTS))[1:]])
    exact = kernels_at(largest / 2 * (x + 1))
    if exact[0, 0] == 0:
        return None  # without weights there is no deviation to divide by; layers give the zeros
    exact = exact / exact[0, 0]
    for degree in DEGREES:
        nodes = np.concatenate([[-1.0], chebyshev.chebpts1(degree + 1)])
        values = kernels_at(largest / 2 * (nodes + 1))
        values = values[:, 1:] / values[0, 0]
        fitted = chebyshev.chebfit(nodes[1:], values.T, degree)
        coefficients = np.zeros((2, degree + 1), dtype)
        for powers, column in zip(coefficients, fitted.T, strict=True):
            lowest_first = chebyshev.cheb2poly(column)
            # Zeros at its end are cut off: of the NTK of frozen layers a single one is left.
            powers[degree + 1 - len(lowest_first) :] = lowest_first[::-1]
        error = np.abs(_evaluate(coefficients, x.astype(dtype)) - exact)
        if (error <= LARGEST_ERRORS[dtype] * np.maximum(np.abs(exact), SMALL)).all():
            return Curves(coefficients, largest, lead)
    return None


def _evaluate(curves: np.ndarray, x: np.ndarray) -> np.ndarray:
    """As the engine does, but for its contracted products and sums."""
    value = np.repeat(curves[:, :1], len(x), axis=1)
    for coefficients in curves.T[1:]:
        value = value * x + coefficients[:, None]
    return value
