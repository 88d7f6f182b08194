"""How much of this machine one process may use, and how loudly it talks.

One frozen, validated object, read from ``NTK_DIST_*`` environment variables, or from the YAML
file that ``NTK_DIST_SETTINGS_FILE`` names (variables win). Nothing here changes a number that is
computed: dtype, tolerance and ridge travel with the job, never with the process.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Literal

import psutil
import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from ntk_dist.errors import SettingsError

__all__ = [
    "ServiceSettings",
    "Settings",
    "available_memory",
    "cpu_count",
    "get_settings",
    "process_bytes",
]

MIB = 2**20


def cpu_count() -> int:
    """CPUs this process may run on (affinity, not what the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int:
    """Memory that can still be had without swapping, in bytes."""
    return int(psutil.virtual_memory().available)


def process_bytes() -> int:
    """Memory that this process holds, its resident set, in bytes."""
    return int(psutil.Process().memory_info().rss)


class ServiceSettings(BaseModel):
    """Limits of ``ntk-dist serve``, where it keeps its records, and what its callers may ask for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database_url: SecretStr | None = None
    """As SQLAlchemy writes it, ``postgresql+psycopg://USER:PASSWORD@HOST/NAME``; None for SQLite in
    the workspace."""
    data_roots: tuple[str, ...] = ()
    """Folders and ``s3://`` prefixes whose files a submitted job may read, as a JSON list."""
    executors: tuple[str, ...] = ("local",)
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
    """Process-wide limits; executors divide them between the workers they start.

    Those of :class:`ServiceSettings` are ``NTK_DIST_SERVICE__*``, or ``service:`` in the file.
    """

    model_config = SettingsConfigDict(
        env_prefix="NTK_DIST_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        env_ignore_empty=True,
    )

    threads: PositiveInt = Field(default_factory=cpu_count)
    """Threads to divide between the workers that are started on this machine."""
    block_max_bytes: PositiveInt = 256 * MIB
    """Working memory of one block, beyond its inputs and its output, in bytes."""
    shard_max_bytes: PositiveInt = 2048 * MIB
    """Memory of one shard for blocks, in bytes: those that stay, and some that are read ahead of
    each product."""
    preconditioner_max_bytes: PositiveInt = 1024 * MIB
    """Memory of the driver that building the preconditioner may take, in bytes."""
    checkpoint_every_s: float = Field(default=10.0, ge=0)
    """Seconds between checkpoints of the solver, at least; they never take more than 1 % of its
    time."""
    task_timeout_s: float = Field(default=3600.0, gt=0)
    """Longest one task may run before it counts as lost, in seconds."""
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
        if not Path(path).is_file():
            raise SettingsError(
                f"NTK_DIST_SETTINGS_FILE: expected a YAML file, got {path!r}, which is no file"
            )
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=path)


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
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"NTK_DIST_SETTINGS_FILE: expected a YAML file: {error!r}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"NTK_DIST_{'__'.join(map(str, e['loc'])).upper()}: {e['msg']}, got {e['input']!r}"
            for e in error.errors()
        )
        raise SettingsError(f"settings do not validate: {problems}") from error
