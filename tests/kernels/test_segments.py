"""How the compiled engine is kept between processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ONE_BLOCK = """
import numpy as np
from ntk_dist import stax
from ntk_dist.kernels.fused_cpu import fused_block
from ntk_dist.kernels.program import compile_both
from ntk_dist.kernels.segments import _ENGINES
from ntk_dist.kernels.statistics import Side

net = stax.serial(stax.Conv(1, (3, 3), padding="SAME"), stax.Flatten()).layer
left, right = Side(np.ones((1, 4, 4, 1)), []), Side(2 * np.ones((2, 4, 4, 1)), [])
fused_block(compile_both(net, (4, 4, 1)), left, right, np.dtype("float64"))
stats = _ENGINES["float64"].stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_a_second_process_compiles_nothing() -> None:
    for _ in range(2):
        command = [sys.executable, "-c", ONE_BLOCK]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0"]


def test_the_first_process_says_that_it_compiles_and_the_second_is_silent(tmp_path: Path) -> None:
    told = []
    for _ in range(2):
        told.append(
            subprocess.run(
                [sys.executable, "-c", "import logging; logging.basicConfig(level=20)" + ONE_BLOCK],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            ).stderr
        )
    assert told[0].count("compiling the convolution engine in float64") == 1
    assert str(tmp_path) in told[0]
    assert "compiling" not in told[1]
