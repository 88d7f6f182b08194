"""What every test starts from: a clean environment, seeded data, one compilation cache."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# Before jax is imported anywhere: compiled kernels are shared by the whole run, and by its workers.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


# A busy machine must not fail a property for being slow, nor a landing for a draw of luck.
settings.register_profile("steady", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("steady")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("jax-cache")
    variables = {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    os.environ.update(variables)
    yield
    for name in variables:
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from ntk_dist.settings import get_settings

    for name in list(os.environ):
        if name.startswith("NTK_DIST_") and name != "NTK_DIST_REQUIRE":
            monkeypatch.delenv(name)
    get_settings.cache_clear()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)
