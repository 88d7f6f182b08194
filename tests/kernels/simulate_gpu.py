"""Runs the GPU engine in numba's simulator, in a process of its own: one line per case.

The simulator must be chosen before numba is imported. Each thread of a block is a Python thread
there, so blocks have three of them, with two rows each: enough to need every barrier, and to go
round every loop.
"""

from __future__ import annotations

import os
import sys

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numba.cuda.simulator import kernelapi
from numba.cuda.simulator.cudadrv import devicearray

from ntk_dist import stax
from ntk_dist.kernels import fused_gpu, gpu_program, recursion
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.kernels.statistics import Side

S = 2**0.5
RELU = stax.Relu()
HEAD = (stax.GlobalAvgPool(), stax.Dense(1, W_std=1.3, b_std=0.2), RELU, stax.Dense(1))
FLAT = (stax.Flatten(), stax.Dense(1))


def conv(window: int = 3, padding: str = "SAME", stride: int = 1) -> stax.Network:
    return stax.Conv(7, (window, window), (stride, stride), padding, W_std=S, b_std=0.1)


def residual(*branch: stax.Network) -> stax.Network:
    both = stax.parallel(stax.serial(*branch), stax.Identity())
    return stax.serial(stax.FanOut(2), both, stax.FanInSum())


NETS: dict[str, tuple[tuple[int, ...], tuple[stax.Network, ...]]] = {
    "same": ((4, 3, 2), (conv(), RELU, conv(), RELU, *HEAD)),
    "strips of rows": ((7, 2, 1), (conv(), RELU, *FLAT)),
    "valid and strides": ((5, 4, 2), (conv(2, "VALID"), RELU, conv(3, "SAME", 2), RELU, *HEAD)),
    "circular": ((4, 2, 1), (conv(3, "CIRCULAR"), RELU, conv(5, "CIRCULAR"), RELU, *HEAD)),
    "pooled": (
        (4, 4, 1),
        (conv(), RELU, stax.AvgPool((2, 2), (2, 2)), conv(), RELU, *FLAT),
    ),
    "overlapping pool": (
        (4, 3, 1),
        (conv(), RELU, stax.AvgPool((3, 2), (2, 1), "SAME"), conv(), stax.LeakyRelu(0.3), *HEAD),
    ),
    "residual, normalized": (
        (3, 3, 2),
        (conv(), residual(stax.LayerNorm(), RELU, conv()), RELU, *HEAD),
    ),
}


def as_on_a_gpu() -> None:
    """What the simulator of numba itself lacks: alignment of shared memory, and speed."""
    plain = kernelapi.FakeCUDAShared.array

    def aligned(self: Any, shape: Any, dtype: Any, alignment: int = 0) -> Any:
        del alignment
        return plain(self, shape, dtype)

    def field(self: Any, name: str) -> Any:
        array = self._item._ary
        return array[name] if array.dtype.names else getattr(array, name)

    kernelapi.FakeCUDAShared.array = aligned
    devicearray.FakeWithinKernelCUDAArray.__getattr__ = field


def reference(layer: Any, x1: np.ndarray, x2: np.ndarray, variances: list[np.ndarray]) -> Any:
    """Both kernels by the recursion, in float64; the variances are those of x1 and then x2."""
    n = len(x1)
    with jax.enable_x64(True):
        first, second = ([jnp.asarray(v) for v in side] for side in _split(variances, n))
        return recursion.all_pairs(layer, jnp.asarray(x1), jnp.asarray(x2), first, second, True)


def _split(variances: list[np.ndarray], n: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [v[:n] for v in variances], [v[n:] for v in variances]


def say(name: str, dtype: str, found: Any, expected: Any) -> None:
    """The largest relative error of both kernels."""
    errors = [np.abs(f / np.asarray(e) - 1).max() for f, e in zip(found, expected, strict=True)]
    sys.stdout.write(f"{name}\t{dtype}\t{max(errors)}\n")


def main() -> None:
    as_on_a_gpu()
    gpu_program.WARP, gpu_program.MOST_THREADS, gpu_program.ROWS = 1, 3, 2
    fused_gpu.PAIRS_PER_LAUNCH = 1
    assert fused_gpu.available() is None
    rng = np.random.default_rng(0)
    for name, (shape, layers) in NETS.items():
        layer = stax.serial(*layers).layer
        x = rng.standard_normal((3, *shape))
        known = list(Kernel(layer, dtype="float64").statistics(x).variances)
        expected = reference(layer, x[:1], x[1:], known)
        side, programs = Side(x, known), gpu_program.lay_out(layer, shape)
        for dtype in ("float64", "float32"):
            found = fused_gpu.gpu_block(programs, side[:1], side[1:], np.dtype(dtype))
            say(name, dtype, found, expected)
    layer = stax.serial(conv(), RELU, *FLAT).layer
    x = rng.standard_normal((3, 3, 2, 1))
    x[2] = x[1] + 1e-4 * x[0]
    v = list(Kernel(layer, dtype="float64").statistics(x).variances)
    expected = reference(layer, x, x, [np.concatenate([each, each]) for each in v])
    programs = gpu_program.lay_out(layer, x.shape[1:])
    found = fused_gpu.gpu_block(programs, Side(x, v), None, np.dtype("float32"))
    assert all((each == each.T).all() for each in found)
    off = ~np.eye(3, dtype=bool)
    say(
        "close, symmetric", "float32", [f[off] for f in found], [np.array(e)[off] for e in expected]
    )


if __name__ == "__main__":
    main()
