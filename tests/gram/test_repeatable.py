"""A block repeats bit for bit on workers with other threads and other memory."""

import json
import os
import subprocess
import sys

import pytest

BLOCKS = """
import hashlib, json
import numpy as np
from ntk_dist import stax
from ntk_dist.gram.block import compute_block, compute_statistics
from ntk_dist.kernels.dispatch import Kernel

def conv(activation, padding="SAME"):
    return stax.serial(stax.Conv(1, (3, 3), padding=padding, W_std=1.4, b_std=0.1), activation)

# No engine takes filters that wrap round beside others that do not.
mixed = [conv(stax.Erf()), conv(stax.Erf(), "CIRCULAR")]

networks = {
    "fused": ([conv(stax.Relu())] * 2 + [stax.GlobalAvgPool(), stax.Dense(1)], (6, 6, 3), 50),
    "fused dense": ([stax.Dense(1, 1.4, 0.1), stax.Relu(), stax.Dense(1)], (700,), 600),
    "flatten": (mixed + [stax.Flatten(), stax.Dense(1)], (9, 9, 3), 70),
    "pooled": (mixed + [stax.AvgPool((2, 2)), stax.Flatten()], (6, 6, 3), 12),
    "dense": ([stax.Dense(1, 1.4, 0.1), stax.Erf(), stax.Dense(1)], (700,), 600),
}
rng = np.random.default_rng(0)
digests = {}
for name, (layers, shape, n) in networks.items():
    x = rng.normal(size=(n, *shape))
    for dtype in ("float32", "float64"):
        kernel = Kernel(stax.serial(*layers).layer, ("nngp", "ntk"), dtype)
        assert kernel.choice(shape, "cpu").fused == name.startswith("fused"), name
        for budget in (2**24, 2**28):
            known = compute_statistics(kernel, x, pad_rows=n)
            blocks = compute_block(kernel, x, None, known, max_bytes=budget, pad_rows=n)
            digest = hashlib.sha256()
            for each in ("nngp", "ntk"):
                digest.update(known.kernels[each].tobytes() + blocks[each].tobytes())
            for v in known.variances:
                digest.update(np.ascontiguousarray(v).tobytes())
            digests[f"{name} {dtype} {budget}"] = digest.hexdigest()
print(json.dumps(digests))
"""


@pytest.fixture(scope="module")
def digests():
    processes = []
    for threads in ("1", "3"):
        pools = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NTK_DIST_THREADS")
        env = os.environ | dict.fromkeys(pools, threads)
        command = [sys.executable, "-c", BLOCKS]
        processes.append(subprocess.run(command, env=env, capture_output=True, text=True))
    assert not any(told.returncode for told in processes), processes
    return [json.loads(told.stdout) for told in processes]


def test_bits_do_not_depend_on_threads(digests):
    one, three = digests
    assert one == three


def test_bits_do_not_depend_on_memory(digests):
    for name in ("fused", "fused dense", "flatten", "pooled", "dense"):
        for dtype in ("float32", "float64"):
            assert digests[0][f"{name} {dtype} {2**24}"] == digests[0][f"{name} {dtype} {2**28}"]
