"""Benchmarks are run, small, so that they never rot; no time is asserted."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def run(script, *arguments):
    told = subprocess.run(
        [sys.executable, str(FOLDER / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


def test_the_main_job_agrees_with_the_dense_solver():
    assert "all checks held" in run("bench_cifar.py", "synthetic", "--executors", "local")


def test_the_fused_engine_agrees_with_the_recursion():
    small = ["--side", "8", "--pairs", "64", "--repeats", "1"]
    assert "all checks held" in run("bench_kernels.py", *small)


def test_a_later_process_finds_the_same_block():
    small = ["--repeats", "1", "--networks", "dense", "--places", "process"]
    assert "all checks held" in run("bench_cold_start.py", *small)


@pytest.mark.slow
def test_ranks_agree(tmp_path, rng):
    x = rng.normal(size=(1100, 3))
    y = np.sin(x[:, 0]) + x[:, 1]
    path = tmp_path / "waves.npz"
    np.savez(path, x_train=x[:1050], y_train=y[:1050], x_test=x[1050:], y_test=y[1050:])
    assert "all checks held" in run("bench_solver.py", path)
