"""How much of this machine one process may use, and how loudly it talks.

One frozen, validated object, read from ``NTK_DIST_*`` environment variables, or from the YAML
file that ``NTK_DIST_SETTINGS_FILE`` names (variables win). Nothing here changes a number that is
computed: dtype, tolerance and ridge travel with the job, never with the process.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as NoJSONError

from ntk_dist.errors import SettingsError
from ntk_dist.job_file import parse_yaml

__all__ = [
    "MOST_CPUS",
    "SHARD_BYTES_ELSEWHERE",
    "ServiceSettings",
    "Settings",
    "available_memory",
    "control_groups",
    "cpu_count",
    "get_settings",
    "group_room",
    "process_bytes",
]

MIB = 2**20
SHARD_BYTES_ELSEWHERE = 2048 * MIB
"""Memory for blocks of a worker whose machine is not known here, or that shares it with a service,
unless a setting says otherwise."""
MOST_CPUS = 4096
"""Of one machine: twice what the largest have; more is a slip of the pen."""

GROUPS = Path("/sys/fs/cgroup")
MEMORY_FILES = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)
"""Where a control group of version 2, or 1, keeps its limit, what it uses, and how much of that are
files in the page cache."""


def cpu_count() -> int:
    """CPUs this process may run on (affinity, not what the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int:
    """Memory that this process can still have without swapping, in bytes.

    What the machine has, or the limit of a container if that leaves less.
    """
    own = Path("/proc/self/cgroup")
    groups = control_groups(own.read_text(), GROUPS) if own.is_file() else []
    rooms = (group_room(folder) for folder in groups)
    machine = int(psutil.virtual_memory().available)
    return min([machine, *(room for room in rooms if room is not None)])


def control_groups(membership: str, root: Path) -> list[Path]:
    """Folders of the groups that limit a process's memory, each with those around it.

    Parameters
    ----------
    membership
        What ``/proc/PID/cgroup`` says. Inside a container the groups it names need not be there;
        what is at ``root`` is the container's own then.
    root
        Where control groups are mounted.
    """
    folders: list[Path] = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        group = top / path.strip("/")
        folders += [group, *(parent for parent in group.parents if parent.is_relative_to(top))]
    return folders


def group_room(folder: Path) -> int | None:
    """Memory that a control group still leaves its processes, in bytes; None without a limit.

    Files in the page cache count as used, but are dropped when somebody needs their memory: they
    were 9.8 of 14.8 GB on a machine that streamed blocks from its disk.
    """
    for limit, usage, cached in MEMORY_FILES:
        try:
            most = (folder / limit).read_text().strip()
            used = int((folder / usage).read_text())
            counts = dict(map(str.split, (folder / "memory.stat").read_text().splitlines()))
        except OSError:  # there is no such group, or none of this version
            continue
        if most != "max":
            return max(0, int(most) - used + sum(int(counts.get(name, 0)) for name in cached))
    return None


def process_bytes() -> int:
    """Memory that this process holds, its resident set, in bytes."""
    return int(psutil.Process().memory_info().rss)


class ServiceSettings(BaseModel):
    """Limits of ``ntk-dist serve``, where its records are, and what its callers may ask for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database_url: SecretStr | None = None
    """As SQLAlchemy writes it, ``postgresql+psycopg://USER:PASSWORD@HOST/NAME``; None for SQLite in
    the workspace."""
    data_roots: tuple[str, ...] = ()
    """Folders and ``s3://`` prefixes whose files a submitted job may read, as a JSON list."""
    executors: tuple[str, ...] = Field(default=("local",), min_length=1)
    """Executors that a submitted job may name, as a JSON list; the first is for those that name
    none."""
    ray_jobs_url: str | None = None
    """``http://HEAD:8265``: drivers run as jobs of that Ray cluster; None for processes of the
    service."""
    max_running_jobs: PositiveInt = 1
    """Drivers at work at a time, of this replica."""
    max_queued_jobs: PositiveInt = 1000
    max_body_bytes: PositiveInt = 64 * MIB
    """Of one request, in bytes; uploads come in parts of at most so much."""
    max_upload_bytes: PositiveInt = 64 * 1024 * MIB
    """Of one uploaded file, in bytes."""
    upload_days: PositiveInt = 30
    """Days after which an uploaded file is removed that no job reads, or has read since."""
    max_rows: PositiveInt = 100_000
    """Of one prediction."""
    max_waiting_rows: PositiveInt = 200_000
    """Rows that wait for predictions, of all callers; beyond them the answer is 429."""
    max_waiting_requests: PositiveInt = 256
    """Predictions that wait, of all callers; beyond them the answer is 429."""
    prediction_timeout_s: float = Field(default=60.0, gt=0)
    """Longest that a prediction may take, waiting included, in seconds."""
    batch_rows: PositiveInt = 1024
    """Rows of small requests for one model that are answered with one block, at most."""
    models_max_bytes: PositiveInt = 4096 * MIB
    """Memory for models that stay loaded, in bytes; the one asked for longest ago goes first."""
    max_resumes: PositiveInt = 3
    """How often a job whose driver is gone is started again without being asked to."""


class Settings(BaseSettings):
    """Limits of one process.

    ``threads`` are divided between the workers that an executor starts here; bytes are those of
    every worker, or of the driver. Those of :class:`ServiceSettings` are ``NTK_DIST_SERVICE__*``,
    or ``service:`` in the file.
    """

    model_config = SettingsConfigDict(
        env_prefix="NTK_DIST_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        env_ignore_empty=True,
    )

    threads: PositiveInt = Field(default_factory=cpu_count, le=MOST_CPUS)
    """Threads to divide between the workers that are started on this machine."""
    block_max_bytes: PositiveInt = 256 * MIB
    """Working memory of one block, beyond its inputs and its output, in bytes."""
    shard_max_bytes: PositiveInt | None = None
    """Memory of one shard for blocks, in bytes: those that stay, and some that are read ahead of
    each product. Workers on this machine share half of what is free there, and have no more than
    that; None is :data:`SHARD_BYTES_ELSEWHERE` for workers on others."""
    preconditioner_max_bytes: PositiveInt = 1024 * MIB
    """Memory of the driver that building the preconditioner may take, in bytes."""
    checkpoint_every_s: float = Field(default=10.0, ge=0)
    """Seconds between checkpoints of the solver, at least; they never take more than 1 % of its
    time."""
    task_timeout_s: float = Field(default=3600.0, gt=0)
    """Longest one task, or one worker's part of a product, may run before it counts as lost, in
    seconds."""
    store_retry_s: float = Field(default=60.0, gt=0)
    """Longest that a request to object storage is made again when it fails, in seconds."""
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    service: ServiceSettings = ServiceSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over variables, variables over the file."""
        path = os.environ.get("NTK_DIST_SETTINGS_FILE")
        if not path:
            return init_settings, env_settings
        file_settings = InitSettingsSource(settings_cls, _file_values(Path(path)))
        return init_settings, env_settings, file_settings


@cache
def get_settings() -> Settings:
    """The settings of this process, read once.

    Raises
    ------
    SettingsError
        A variable or the settings file does not validate; the message names each culprit.
    """
    try:
        return Settings()
    except NoJSONError as error:
        # What it comes from has the text, which may be a password.
        raise SettingsError(f"NTK_DIST_*: expected JSON for lists and mappings: {error}") from None
    except ValidationError as error:
        problems = "; ".join(map(_problem, error.errors()))
        raise SettingsError(f"settings do not validate: {problems}") from None


def _file_values(path: Path) -> dict[str, Any]:
    """What the settings file says; what it says is quoted nowhere, for it may be a password."""
    expected = "NTK_DIST_SETTINGS_FILE: expected a YAML file with a mapping of settings, got"
    if not path.is_file():
        raise SettingsError(f"{expected} {str(path)!r}, which is no file")
    try:
        found = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{expected} {path}: {error}") from None
    if found is None:  # nothing but comments
        return {}
    if not isinstance(found, dict):
        raise SettingsError(f"{expected} {path}, which is a {type(found).__name__}")
    if strange := [key for key in found if not isinstance(key, str)]:
        raise SettingsError(f"{expected} {path}, where {strange[0]!r} is the name of none")
    return found


def _problem(found: ErrorDetails) -> str:
    """What is wrong with one setting; those of the service are not quoted: one is a password."""
    place = [str(part).upper() for part in found["loc"]]
    got = "" if place[:1] == ["SERVICE"] else f", got {found['input']!r}"
    return f"NTK_DIST_{'__'.join(place)}: {found['msg']}{got}"
