"""The kernels between samples as users hand them over: checked, in one precision, in one piece."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ntk_dist.errors import DataError, NonFiniteDataError
from ntk_dist.gram.block import compute_block
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.kernels.layers import Layer
from ntk_dist.settings import get_settings
from ntk_dist.units import first_few

__all__ = ["kernels_between"]


def kernels_between(
    layer: Layer, names: tuple[str, ...], x1: npt.ArrayLike, x2: npt.ArrayLike | None
) -> dict[str, np.ndarray]:
    """Each named kernel between samples, ``(n1, n2)``; parameters and law of ``Network.kernel_fn``.

    Raises
    ------
    InvalidInputError
        There is no kernel of such a name.
    ArchitectureError, DataShapeError
        The architecture has no kernel for such samples, or they do not fit each other.
    DataError
        The samples are not real numbers.
    NonFiniteDataError
        Samples hold NaN or infinity, or their kernel is too large for its precision.
    """
    left = _samples("x1", x1)
    right = None if x2 is None else _samples("x2", x2)
    double = np.float64 in (left.dtype, None if right is None else right.dtype)
    dtype = "float64" if double else "float32"
    with np.errstate(over="ignore"):  # found below, and said in words
        kernel = Kernel(layer, names, dtype)
        block = compute_block(kernel, left, right, max_bytes=get_settings().block_max_bytes)
    if not all(np.isfinite(values).all() for values in block.values()):
        raise NonFiniteDataError(
            f"expected a kernel of at most {np.finfo(dtype).max:.1e} ({dtype}), got more: "
            f"scale the inputs down{'' if double else ', or pass them in float64'}"
        )
    return block


def _samples(name: str, x: npt.ArrayLike) -> np.ndarray:
    """The samples as an array of finite numbers, those of eight bytes or more in native float64."""
    samples = np.asarray(x)
    if not np.can_cast(samples.dtype, np.float64, "same_kind"):
        raise DataError(
            f"{name}: expected real numbers, got dtype {samples.dtype}; convert them to float32 or "
            "float64"
        )
    if samples.dtype.kind == "f" and samples.dtype.itemsize >= 8:
        with np.errstate(over="ignore"):  # what float64 cannot hold is refused below
            samples = samples.astype(np.float64, copy=False)
    finite = np.isfinite(samples).all(axis=tuple(range(1, samples.ndim)))
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise NonFiniteDataError(
            f"{name}: expected finite numbers, got NaN or infinity in {bad.size} of {finite.size} "
            f"rows: {first_few(bad)}; remove or repair those rows"
        )
    return samples
