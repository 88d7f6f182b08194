"""Blocks take the memory that was projected, measured in a process of their own."""

import json
import subprocess
import sys

import pytest

MIB = 2**20
ALLOCATOR_BYTES = 48 * MIB
"""What the C library and XLA keep of memory that was freed, and their threads' stacks."""

MEASURE = """
import ctypes, gc, json, sys
import numpy as np
from ntk_dist import stax
from ntk_dist.gram.block import compute_block, compute_statistics, split_block, working_bytes
from ntk_dist.kernels.dispatch import Kernel

def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def conv(activation, padding="SAME"):
    return stax.serial(stax.Conv(1, (3, 3), padding=padding, W_std=1.4, b_std=0.1), activation)

dense = stax.serial(stax.Dense(1, 1.4, 0.1), stax.Erf())
# No engine takes filters that wrap round beside others that do not.
mixed = [conv(stax.Relu()), conv(stax.Erf(), "CIRCULAR")]
cases = {
    "dense": (stax.serial(*[dense] * 3, stax.Dense(1)), (600,), 1500, "float32"),
    "flatten": (
        stax.serial(*mixed, *mixed, stax.Flatten(), stax.Dense(1)), (16, 16, 3), 120,
        "float32",
    ),
    "pooled": (
        stax.serial(*mixed, stax.AvgPool((2, 2)), stax.Flatten()),
        (8, 8, 3), 40, "float64",
    ),
    "fused": (
        stax.serial(*[conv(stax.Relu())] * 3, stax.Flatten(), stax.Dense(1)), (24, 24, 3), 400,
        "float32",
    ),
}
rng = np.random.default_rng(0)
for name, (net, shape, n, dtype) in cases.items():
    kernel = Kernel(net.layer, ("ntk",), dtype)
    assert kernel.choice(shape, "cpu").fused == (name == "fused"), name
    sides = [rng.normal(size=(n, *shape)).astype(dtype) for _ in range(2)]
    cut = split_block(kernel, shape, n, n, max_bytes=2**28, square=False, pad_rows=n)
    few = min(n, max(cut.rows1, cut.rows2) + 1 if cut.padded else 2)
    # Compiled before: programs take memory of their own, once.
    compute_block(kernel, sides[0][:few], sides[1][:few], max_bytes=2**28, pad_rows=n)
    known = [compute_statistics(kernel, x, pad_rows=n) for x in sides]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = memory("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    (block,) = compute_block(kernel, *sides, *known, max_bytes=2**28, pad_rows=n).values()
    print(json.dumps([name, memory("VmHWM") - before - block.nbytes,
                      working_bytes(kernel, shape, n, 2**28)]), flush=True)
"""


@pytest.fixture(scope="module")
def measured():
    told = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=300, check=False
    )
    assert told.returncode == 0, told.stderr
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    return {name: (peak, projected) for name, peak, projected in lines}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("case", ["dense", "flatten", "pooled", "fused"])
def test_a_block_takes_no_more_than_projected(measured, case):
    peak, projected = measured[case]
    assert peak <= 1.2 * projected + ALLOCATOR_BYTES
    assert projected <= 256 * MIB
