"""Benchmarks are run, small, so that they never rot; no time is asserted."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from required import require

FOLDER = Path(__file__).parents[1] / "benchmarks"
PEER = os.environ.get("NEURAL_TANGENTS_PYTHON")


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


def test_out_of_core_and_dense_agree():
    small = ["--n", "300", "--n-test", "50", "--dense-n", "200"]
    told = run("bench_end_to_end.py", "synthetic", *small)
    assert "all checks held" in told
    projected, stored = re.search(r"projected (.*?), stored (.*?);", told).groups()
    assert projected == stored


def test_fast_kernels_agree_with_the_recursion(tmp_path):
    cases = ["--case", "fc-symmetric", "--case", "gap", "--case", "flatten"]
    small = ["--side", "8", "--pairs", "64", "--repeats", "1", "--json", tmp_path / "rows.json"]
    told = run("bench_kernels.py", *cases, *small)
    assert "all checks held" in told
    assert "neural-tangents: left out" in told
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(rows) == 6
    assert all(row["pairs_per_s"][0] > 0 < row["bound_pairs_per_s"][0] for row in rows)


@pytest.mark.skipif(not PEER, reason="NEURAL_TANGENTS_PYTHON names no interpreter that has it")
def test_neural_tangents_agrees_with_the_recursion():
    small = ["--case", "gap", "--side", "6", "--pairs", "4", "--repeats", "1"]
    assert "all checks held" in run("bench_kernels.py", *small, "--neural-tangents", PEER)


def test_errors_are_as_promised():
    assert "all checks held" in run("bench_accuracy.py", "--side", "6", "--depths", "2")


def test_a_later_process_finds_the_same_block():
    small = ["--repeats", "1", "--networks", "dense", "--places", "process"]
    assert "all checks held" in run("bench_cold_start.py", *small)


def test_listening_changes_no_bit_of_a_fit():
    small = ["--rows", "200", "--block-rows", "50", "--repeats", "1"]
    assert "all checks held" in run("bench_events.py", *small)


def test_planes_in_jax_agree_with_the_engine():
    assert "all checks held" in run("bench_jax.py", "--side", "5", "--pairs", "4", "--repeats", "1")


def test_products_are_those_of_float64():
    small = ["--targets", "3", "--blocks", "2", "--block-rows", "70", "--repeats", "1"]
    assert "all checks held" in run("bench_product.py", *small)


def test_a_server_answers_as_the_model_and_bears_overload():
    small = ["--rows", "100", "--seconds", "0.2", "--clients", "4", "--rounds", "1"]
    assert "all checks held" in run("bench_service.py", *small)


@pytest.mark.dask
def test_blocks_through_an_engine_are_the_same():
    require("dask")
    small = ["--engines", "dask", "--features", "5", "--block-rows", "32", "--repeats", "1"]
    assert "all checks held" in run("bench_overhead.py", *small)


@pytest.mark.slow
def test_ranks_agree(tmp_path, rng):
    x = rng.normal(size=(1100, 3))
    y = np.sin(x[:, 0]) + x[:, 1]
    path = tmp_path / "waves.npz"
    np.savez(path, x_train=x[:1050], y_train=y[:1050], x_test=x[1050:], y_test=y[1050:])
    assert "all checks held" in run("bench_solver.py", path)
