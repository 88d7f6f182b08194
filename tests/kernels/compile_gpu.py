"""Compiles the GPU engine for a GPU that is not here, in a process of its own.

One line per kernel: bits, where planes are, registers, bytes spilled, and names of instructions in
its PTX that are in float64.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path

from numba import complex64, complex128, cuda, float32, float64, int32
from numba.cuda import dispatcher
from numba.cuda.np.numpy_support import from_dtype
from numba.types import Array

from ntk_dist.kernels.gpu_program import BLOCK_SEGMENT, BLOCK_STEP
from ntk_dist.kernels.gpu_segments import REGISTERS, kernel

HOPPER = (9, 0)
# Functions called by a kernel are compiled for the device at hand.
dispatcher.get_current_device = lambda: types.SimpleNamespace(compute_capability=HOPPER)


def row_major(dtype: object, ndim: int) -> Array:
    return Array(dtype, ndim, "C")


def ptx(bits: int, shared: bool) -> str:
    real, both = {32: (float32, complex64), 64: (float64, complex128)}[bits]
    signature = (
        row_major(from_dtype(BLOCK_SEGMENT), 1),
        row_major(from_dtype(BLOCK_STEP), 1),
        row_major(real, 2),
        *[row_major(int32, 2)] * 3,
        row_major(real, 1),
        row_major(int32, 2),
        *[row_major(real, 1)] * 4,
        int32,
        int32,
        *[row_major(both, 2)] * 2,
        row_major(float64, 3),
        row_major(float64, 2),
        real,
    )
    run = kernel(bits, shared)
    fastmath = run.targetoptions["fastmath"]
    code, _ = cuda.compile_ptx(run.py_func, signature, cc=HOPPER, fastmath=fastmath)
    return str(code)


def main() -> None:
    for bits, shared in ((32, True), (64, True), (32, False)):
        code = ptx(bits, shared)
        doubles = sorted(set(re.findall(r"\b(\w+)\S*\.f64\b", code)))
        line = [str(bits), "shared" if shared else "global", ",".join(doubles)]
        if ptxas := shutil.which("ptxas"):
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "kernel.ptx").write_text(code)
                limit = f"--maxrregcount={REGISTERS[bits]}"
                command = [ptxas, "--verbose", "--gpu-name=sm_90", limit, "kernel.ptx"]
                said = subprocess.run(
                    command, cwd=folder, capture_output=True, text=True, check=True
                ).stderr
            line += re.findall(r"Used (\d+) registers", said)
            line += re.findall(r"(\d+) bytes spill", said)
        sys.stdout.write("\t".join(line) + "\n")


if __name__ == "__main__":
    main()
