"""The GPU engine without a GPU: its arithmetic in numba's simulator, its compilation for real."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntk_dist.kernels.fused_gpu import available
from ntk_dist.kernels.gpu_program import ABSENT, packed_slots

TOLERANCES = {"float64": 1e-12, "float32": 1e-6}
FOLDER = Path(__file__).parent


def run(script: str) -> list[list[str]]:
    """The lines that a script of this folder prints, split at tabs."""
    result = subprocess.run(
        [sys.executable, "-W", "error", str(FOLDER / script)],
        capture_output=True,
        text=True,
        timeout=240,
        env=dict(os.environ),
    )
    assert not result.returncode, result.stderr
    return [line.split("\t") for line in result.stdout.splitlines()]


def test_the_simulated_engine_equals_the_recursion() -> None:
    lines = run("simulate_gpu.py")
    errors = {(name, dtype): float(error) for name, dtype, error in lines}
    assert len(errors) == 15
    assert {case: e for case, e in errors.items() if not e < TOLERANCES[case[1]]} == {}


@given(size=st.integers(1, 40), reach=st.integers(0, 40))
def test_packed_planes_hold_every_displacement_once(size: int, reach: int) -> None:
    reach = min(reach, size - 1)
    slots = packed_slots(size, reach)
    parts = [(d, size - d) for d, _ in slots if d < ABSENT]
    parts += [(-d, size - d) for _, d in slots if d < ABSENT]
    assert sorted(parts) == [(d, size - abs(d)) for d in range(-reach, reach + 1)]
    # No packed plane is longer than an image, and if all are wanted, all are full.
    rows = [sum(size - d for d in pair if d < ABSENT) for pair in slots]
    assert max(rows) == size
    assert reach < size - 1 or set(rows) == {size}


@pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is not None, reason="numba-cuda is installed"
)
def test_what_is_missing_is_said() -> None:
    assert "ntk_dist[gpu]" in str(available())


@pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed"
)
def test_it_compiles_for_a_gpu_that_is_not_here() -> None:
    lines = run("compile_gpu.py")
    assert [line[:2] for line in lines] == [["32", "shared"], ["64", "shared"], ["32", "global"]]
    for bits, _, doubles, *usage in lines:
        if bits == "32":
            # Sums over positions only.
            assert set(doubles.split(",")) <= {"add", "cvt", "ld", "st", "mov", "selp"}
        if usage:
            registers, stored, loaded = map(int, usage)
            assert registers <= {"32": 80, "64": 128}[bits]
            assert max(stored, loaded) < 640
