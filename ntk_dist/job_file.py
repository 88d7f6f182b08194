"""Files as people write them: JSON, or YAML with the numbers that JSON has; no key twice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ntk_dist.errors import JobSpecError

__all__ = ["no_key_twice", "parse_yaml", "read_job_file"]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, to which ``1e-6``, which has no dot, would be text.

    ``1:20`` is text here, and not the 80 of a number in base 60.

    Of a key that is there twice PyYAML would take the last, and say nothing.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it is written, before what it merges with ``<<`` is put into it."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} twice", problem_mark=key.start_mark
                )
            seen.add((key.tag, key.value))
        return node


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [one for one in known if one[0] not in {_INT, _FLOAT}]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _INT,
    re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$"
        r"|[-+]?[0-9]+[eE][-+]?[0-9]+$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def parse_yaml(text: str) -> Any:
    """What a YAML document says, as plain types.

    Raises
    ------
    ValueError
        It is none, or has a key twice. The line is named and not quoted: it may be a password.
    """
    try:
        return yaml.load(text, _Loader)  # _Loader makes plain types only, as yaml.safe_load does
    except yaml.MarkedYAMLError as error:
        told = ", ".join(filter(None, (error.context, error.problem)))
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{told}{where}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("brackets nested too deep") from None


def no_key_twice(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON document, for ``object_pairs_hook``.

    Raises
    ------
    ValueError
        A key is there twice; ``json`` would take the last, and say nothing.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} twice")
        found[key] = value
    return found


def read_job_file(path: Path) -> dict[str, Any]:
    """What a job file says, its values not looked at yet.

    A file named ``*.json`` is read as JSON, which YAML almost includes: not its numbers, and not
    its way to write characters beyond 16 bits.

    Raises
    ------
    JobSpecError
        There is no such file, it is neither JSON nor YAML, has a key twice, or is no mapping.
    """
    is_json = path.suffix.lower() == ".json"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise JobSpecError(f"expected a job file at {path}, got: {error}") from error
    try:
        record = json.loads(text, object_pairs_hook=no_key_twice) if is_json else parse_yaml(text)
    except ValueError as error:
        kind = "JSON" if is_json else "YAML"
        raise JobSpecError(f"{path}: expected {kind}, got: {error}") from error
    except RecursionError as error:
        raise JobSpecError(f"{path}: expected a job file, got brackets nested too deep") from error
    if not isinstance(record, dict):
        raise JobSpecError(f"{path}: expected a mapping with name, task, data and architecture")
    return record
