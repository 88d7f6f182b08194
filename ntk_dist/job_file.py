"""Job files as they are written: JSON, or YAML with the numbers that JSON has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from ntk_dist.errors import JobSpecError

__all__ = ["read_job_file"]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, to which ``1e-6``, which has no dot, would be text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_job_file(path: Path) -> dict[str, Any]:
    """What a job file says, its values not looked at yet.

    A file named ``*.json`` is read as JSON, which YAML almost includes: not its numbers, and not
    its way to write characters beyond 16 bits.

    Raises
    ------
    JobSpecError
        There is no such file, it is neither JSON nor YAML, or no mapping.
    """
    is_json = path.suffix.lower() == ".json"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise JobSpecError(f"expected a job file at {path}, got: {error}") from error
    try:
        # _Loader makes plain types only, as yaml.safe_load does.
        record = json.loads(text) if is_json else yaml.load(text, _Loader)
    except (ValueError, yaml.YAMLError) as error:
        kind = "JSON" if is_json else "YAML"
        raise JobSpecError(f"{path} is not {kind}: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise JobSpecError(f"{path}: expected a job file, got brackets nested too deep") from error
    if not isinstance(record, dict):
        raise JobSpecError(f"{path}: expected a mapping with name, task, data and architecture")
    return record
