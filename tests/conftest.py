"""What every test starts from: a clean environment, seeded data, one compilation cache."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# Every folder of tests may import what lies here. Last, so that no name here hides another.
sys.path.append(str(Path(__file__).parent))

from required import asked_for, leave_out, require

# Before jax is imported anywhere: compiled kernels are shared by the whole run, and by its workers.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


# A busy machine must not fail a property for being slow, nor a landing for a draw of luck.
settings.register_profile("steady", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("steady")


def pytest_configure() -> None:
    """A name that is not known is refused before the first test."""
    asked_for()


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "jax-cache"
    folder.mkdir(exist_ok=True)
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


SECRET = "sentinel-of-the-secret-key"


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the S3 protocol, in a process of its own."""
    require("s3")
    require("s3", "moto")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    log = tmp_path_factory.mktemp("s3") / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/").close()
                break
            except urllib.error.URLError:
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the S3 server did not start: {log.read_text()}")
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a new bucket, and an environment that opens it."""
    from ntk_dist.settings import get_settings

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("NTK_DIST_STORE_RETRY_S", "10")
    get_settings.cache_clear()
    name = f"bucket-{uuid.uuid4().hex}"
    request = urllib.request.Request(f"{s3_endpoint}/{name}", method="PUT")
    urllib.request.urlopen(request).close()
    return f"s3://{name}"


@dataclass(frozen=True)
class PostgreSQL:
    """A server that listens in a folder only."""

    folder: Path

    @property
    def parameters(self) -> str:
        return f"host={self.folder} user=tester dbname=postgres"

    def new_database(self) -> str:
        """The URL of a place without tables: a schema, for a database is a copy of 8 MB."""
        import psycopg

        name = f"tests_{uuid.uuid4().hex}"
        with psycopg.connect(self.parameters, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        options = f"host={self.folder}&options=-csearch_path%3D{name}"
        return f"postgresql+psycopg://tester@/postgres?{options}"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server of this machine's own programs, gone with the session."""
    found = [shutil.which("initdb"), *Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    programs = [Path(initdb).parent for initdb in found if initdb]
    if not programs:
        missing = "no PostgreSQL server is installed here (apt-get install postgresql)"
        leave_out("postgresql", missing)
    psycopg = require("postgresql")

    # A folder of the session would be out of reach: root may not run the server, and only root
    # may look into the folders of root.
    folder = Path(tempfile.mkdtemp(prefix="ntk_dist-pg-"))
    user = None
    if os.geteuid() == 0:
        user = "postgres"
        shutil.chown(folder, user)
    bin_folder, data = programs[-1], folder / "data"
    log = folder / "server.log"
    log.touch()
    identity = {"user": user, "group": user, "extra_groups": []} if user else {}
    options = {"cwd": folder, "stderr": subprocess.STDOUT, **identity}
    with log.open("ab") as output:
        initialised = subprocess.run(
            [
                bin_folder / "initdb",
                *f"-D {data} -U tester -A trust -E UTF8".split(),
                "--no-locale",
            ],
            stdout=output,
            check=False,
            **options,
        )
        if initialised.returncode:
            pytest.fail(f"initdb failed: {log.read_text()}")
        server = subprocess.Popen(
            [bin_folder / "postgres", *f"-D {data} -k {folder} -c listen_addresses= -F".split()],
            stdout=output,
            **options,
        )
    made = PostgreSQL(folder)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(made.parameters).close()
                break
            except psycopg.OperationalError:
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the PostgreSQL server did not start: {log.read_text()}")
                time.sleep(0.1)
        yield made
    finally:
        server.send_signal(signal.SIGQUIT)  # at once: nothing has to be written down any more
        server.wait(60)
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'service' / 'state.db'}"
    return request.getfixturevalue("postgresql").new_database()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)
