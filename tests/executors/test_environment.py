from __future__ import annotations

import pytest

from ntk_dist.executors.environment import count_gpus, worker_environment

POOLS = [
    "NPROC",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NTK_DIST_THREADS",
]


@pytest.mark.parametrize(
    ("n_workers", "threads", "share"), [(1, 8, "8"), (2, 8, "4"), (3, 8, "2"), (16, 8, "1")]
)
def test_threads_are_shared_out_and_never_none(n_workers: int, threads: int, share: str) -> None:
    env = worker_environment(n_workers, threads)
    assert [env[name] for name in POOLS] == [share] * len(POOLS)
    assert env["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert "CUDA_VISIBLE_DEVICES" not in env


def test_devices_are_dealt_in_turn_and_shared_by_their_workers() -> None:
    envs = [worker_environment(3, 6, gpus=2, index=index) for index in range(3)]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in envs] == ["0", "1", "0"]
    fractions = [float(env["XLA_PYTHON_CLIENT_MEM_FRACTION"]) for env in envs]
    assert fractions == pytest.approx([0.45, 0.9, 0.45])


def test_extra_variables_win() -> None:
    env = worker_environment(2, 8, extra={"NPROC": "7", "JAX_COMPILATION_CACHE_DIR": "/cache"})
    assert env["NPROC"] == "7"
    assert env["JAX_COMPILATION_CACHE_DIR"] == "/cache"


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("0,2,5", 3)])
def test_visible_devices_are_counted(
    visible: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_gpus() == count
