"""What this machine offers: devices, executors, libraries, limits."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ntk_dist._version import __version__
from ntk_dist.kernels.device import describe_devices
from ntk_dist.settings import available_memory, get_settings
from ntk_dist.units import format_bytes

__all__ = ["examine"]

REQUIRED = ("jax", "jaxlib", "numba", "numpy", "scipy", "scikit-learn", "zarr", "pyarrow")
_SERVICE = (
    "httpx",
    "alembic",
    "fastapi",
    "jinja2",
    "prometheus-client",
    "sqlalchemy",
    "uvicorn",
)
EXTRAS = {
    "client": ("httpx",),
    "dask": ("dask", "distributed"),
    "gpu": ("numba-cuda",),
    "plot": ("matplotlib",),
    "postgresql": ("psycopg",),
    "ray": ("ray",),
    "s3": ("obstore",),
    "serve": (*_SERVICE, "ray", "grpcio-reflection"),  # the last comes with ray[serve] alone
    "service": _SERVICE,
}


def examine() -> tuple[dict[str, Any], str]:
    """What was found, as plain types and as text."""
    settings = get_settings()
    devices = describe_devices()
    absent = [name for name, needed in EXTRAS.items() if not all(map(_version, needed))]
    executors = {"local": True} | {name: name not in absent for name in ("dask", "ray")}
    libraries = {name: _version(name) for name in (*REQUIRED, *sum(EXTRAS.values(), ()))}
    memory, free = available_memory(), shutil.disk_usage(Path.cwd()).free
    record = {
        "version": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "devices": devices,
        "threads": settings.threads,
        "memory_bytes": memory,
        "disk_bytes": free,
        "temporary_folder": tempfile.gettempdir(),
        "executors": executors,
        "libraries": libraries,
    }
    lines = [
        f"ntk_dist {__version__} on Python {record['python']}, {record['machine']}",
        f"devices     {', '.join(devices)}",
        f"threads     {settings.threads} for workers started here (NTK_DIST_THREADS)",
        f"memory      {format_bytes(memory)} available",
        f"disk        {format_bytes(free)} free in {Path.cwd()}",
    ]
    for name, found in executors.items():
        note = "ready" if found else f"not installed: pip install 'ntk_dist[{name}]'"
        lines.append(f"{name:<12}{note}")
    others = [name for name in absent if name not in executors]
    if others:
        lines.append(f"extras      not installed: pip install 'ntk_dist[{','.join(others)}]'")
    lines.append(
        "libraries   " + ", ".join(f"{n} {v}" for n, v in libraries.items() if v is not None)
    )
    missing = [name for name in REQUIRED if libraries[name] is None]
    if missing:
        lines.append(f"missing     {', '.join(missing)}: pip install ntk_dist again")
    return record, "\n".join(lines)


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
