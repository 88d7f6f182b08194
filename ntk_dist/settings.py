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
from pydantic import Field, PositiveInt, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from ntk_dist.errors import SettingsError

__all__ = ["Settings", "available_memory", "cpu_count", "get_settings", "process_bytes"]

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


class Settings(BaseSettings):
    """Process-wide limits; executors divide them between the workers they start."""

    model_config = SettingsConfigDict(
        env_prefix="NTK_DIST_", frozen=True, extra="forbid", env_ignore_empty=True
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
    task_timeout_s: float = Field(default=3600.0, gt=0)
    """Longest one task may run before it counts as lost, in seconds."""
    log_level: Literal["debug", "info", "warning", "error"] = "warning"

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
            f"NTK_DIST_{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}, got {e['input']!r}"
            for e in error.errors()
        )
        raise SettingsError(f"settings do not validate: {problems}") from error
