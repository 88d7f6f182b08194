"""Where a process that runs one job keeps the programs that JAX compiles for it.

Only jobs come here: in somebody else's process JAX's settings are theirs, and the variable
``JAX_COMPILATION_CACHE_DIR`` is for them. The fused CPU engines look after themselves
(``compiling.py``): numba keeps them beside this package, or where ``NUMBA_CACHE_DIR`` says, or in
the user's cache folder where the package cannot be written to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

__all__ = ["programs_kept_in", "user_cache"]

FOLDER = "jax_compilation_cache_dir"
SETTINGS = {
    # JAX keeps what took a second; the many programs that took less were 5 s out of 7 s.
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def user_cache() -> Path:
    """The folder for compiled programs of this user, for jobs without a workspace."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ntk_dist"


@contextmanager
def programs_kept_in(folder: Path) -> Iterator[None]:
    """Compiled programs are looked for in ``folder`` and left there, until the end of the body.

    Nothing changes where JAX has a folder already, or where this one cannot be written to.
    """
    before = {name: getattr(jax.config, name) for name in (FOLDER, *SETTINGS)}
    if before[FOLDER] or not _writable(folder):
        yield
        return
    try:
        _configure({FOLDER: str(folder), **SETTINGS})
        yield
    finally:
        _configure(before)


def _configure(settings: dict[str, object]) -> None:
    config: Any = jax.config  # has no types
    for name, value in settings.items():
        config.update(name, value)
    # Whether there is a cache is looked up once, by the first program of a process.
    compilation_cache.reset_cache()


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
