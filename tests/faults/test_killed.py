"""Workers, nodes and the driver are killed in the middle, or nodes join: the answer is the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from required import require

from ntk_dist import NTKRegressor
from ntk_dist.store.zarr import ZarrBlockStore

sys.path.insert(0, str(Path(__file__).parent))
import scenarios

N_BLOCKS = 12 * 13 // 2
WINDOW_PER_SLOT = 4
"""Tries in flight for each worker; what is in flight on a lost one may have to be repeated."""
ENGINES = [
    pytest.param("dask", marks=pytest.mark.dask, id="a Dask worker"),
    pytest.param("ray", marks=pytest.mark.ray, id="a Ray node"),
]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A fit in this process, undisturbed, and its workspace."""
    folder = tmp_path_factory.mktemp("quiet")
    model = NTKRegressor(scenarios.NET, workspace=folder, block_rows=scenarios.BLOCK_ROWS, tol=1e-8)
    return model.fit(*scenarios.data()), folder


def run(scenario: str, engine: str, folder: Path) -> dict[str, int]:
    require("dask" if engine == "dask" else "ray")
    # No block stays resident: a product reads them all, which takes long enough to be hit.
    told = subprocess.run(
        [sys.executable, scenarios.__file__, scenario, engine, str(folder)],
        env={**os.environ, "NTK_DIST_SHARD_MAX_BYTES": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    found: dict[str, int] = json.loads(told.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_killed_in_the_gram_costs_a_few_blocks(engine: str, quiet: Any, tmp_path: Path) -> None:
    found = run("gram", engine, tmp_path)
    assert found["stored"] == N_BLOCKS
    assert 1 <= found["lost"] <= WINDOW_PER_SLOT
    assert found["ended"] < found["begun"] <= N_BLOCKS + WINDOW_PER_SLOT * found["slots"]
    disturbed, undisturbed = (
        ZarrBlockStore.open(next(folder.glob("grams/*")))
        for folder in (tmp_path / "gram", quiet[1])
    )
    for index in undisturbed.grid:
        np.testing.assert_array_equal(*(s.read("ntk", index) for s in (disturbed, undisturbed)))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_killed_in_a_product_costs_a_step_and_no_digit(
    engine: str, quiet: Any, tmp_path: Path
) -> None:
    found = run("product", engine, tmp_path)
    assert found["converged"]
    assert found["computed"] == N_BLOCKS
    assert 1 <= found["repeated"] <= 4
    disturbed = np.load(tmp_path / "disturbed.npy")
    np.testing.assert_array_equal(disturbed, np.load(tmp_path / "quiet.npy"))
    np.testing.assert_allclose(disturbed, quiet[0].dual_coef_, atol=1e-6)


@pytest.mark.slow
@pytest.mark.ray
def test_a_cluster_that_grows_is_used_from_then_on(tmp_path: Path) -> None:
    found = run("grown", "growing_ray", tmp_path)
    assert (found["before"], found["first"]) == (1, WINDOW_PER_SLOT), "enough wait to grow for"
    assert found["most"] == 2 * WINDOW_PER_SLOT
    assert (found["workers"], found["after"], found["homes"]) == (2, 2, 2)


JOB = """
name: killed
task: regression
data: {x: data.npz:x, y: data.npz:y}
architecture: arch.json
gram: {block_rows: 50}
solver: {tol: 1.0e-8}
workspace: ./ws
"""


def test_a_driver_killed_in_the_gram_goes_on_where_it_was(quiet: Any, tmp_path: Path) -> None:
    x, y = scenarios.data()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    (tmp_path / "arch.json").write_text(scenarios.NET.to_json())
    (tmp_path / "job.yaml").write_text(JOB)
    command = [sys.executable, "-c", "from ntk_dist.cli import main; main()", "fit"]
    command += ["job.yaml", "--json"]

    def blocks() -> int:
        return len(list(tmp_path.glob("ws/grams/*/ntk/c/*/*[0-9]")))

    with subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1) as driver:
        while blocks() < 3 and driver.poll() is None:
            time.sleep(0.001)
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
    kept = blocks()
    assert 3 <= kept < N_BLOCKS
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=120)
    gram = json.loads(told.stdout)["report"]["gram"]
    assert gram["n_computed"] == N_BLOCKS - kept
    (model,) = tmp_path.glob("ws/models/killed/*")
    np.testing.assert_array_equal(NTKRegressor.load(model).dual_coef_, quiet[0].dual_coef_)
