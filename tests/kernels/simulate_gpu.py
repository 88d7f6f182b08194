"""Runs the GPU engine in numba's simulator, in a process of its own: one line per case.

The simulator must be chosen before numba is imported. Each thread of a block is a Python thread
there, so blocks have three of them: enough to need every barrier, and to go round every loop.
"""

from __future__ import annotations

import os

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"

from typing import Any

import numpy as np
from numba.cuda.simulator import kernelapi
from numba.cuda.simulator.cudadrv import devicearray

from ntk_dist import stax
from ntk_dist.kernels import fused_cpu, fused_gpu, gpu_program
from ntk_dist.kernels.dispatch import Kernel

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
    "two strips of rows": ((10, 2, 1), (conv(), RELU, *FLAT)),
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


def main() -> None:
    as_on_a_gpu()
    gpu_program.WARP, gpu_program.MOST_THREADS = 1, 3
    fused_gpu.CHUNK_PAIRS = 2
    assert fused_gpu.available() is None
    rng = np.random.default_rng(0)
    for name, (shape, layers) in NETS.items():
        layer = stax.serial(*layers).layer
        x = rng.standard_normal((3, *shape))
        variances = Kernel(layer, dtype="float64").statistics(x).variances
        v1, v2 = [v[:1] for v in variances], [v[1:] for v in variances]
        expected = fused_cpu.fused_block(layer, x[:1], x[1:], v1, v2, np.dtype("float64"))
        for dtype in ("float64", "float32"):
            found = fused_gpu.gpu_block(layer, x[:1], x[1:], v1, v2, np.dtype(dtype))
            errors = (np.abs(f / e - 1).max() for f, e in zip(found, expected, strict=True))
            print(name, dtype, max(errors), sep="\t", flush=True)


if __name__ == "__main__":
    main()
