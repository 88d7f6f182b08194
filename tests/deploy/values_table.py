"""The chart's values as a table: names and defaults from values.yaml, the rest from its schema.

    python tests/deploy/values_table.py            # print it
    python tests/deploy/values_table.py --write    # put it into the chart's README

The README keeps it between the two marks below; a test fails when it is not what this prints.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm" / "ntk-dist"
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
NOTHING = object()


def rows(schema: Any, root: Any, value: Any, path: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and description of every value below ``path``, in the schema's order."""
    schema = resolved(schema, root)
    if schema.get("properties"):
        for key, part in schema["properties"].items():
            inner = value.get(key, NOTHING) if isinstance(value, dict) else NOTHING
            yield from rows(part, root, inner, f"{path}.{key}".lstrip("."))
        return
    items = resolved(schema.get("items") or {}, root)
    yield path, kind(schema, items), default(value), schema.get("description", "")
    if items.get("properties"):
        yield from rows(items, root, NOTHING, f"{path}[]")


def resolved(schema: Any, root: Any) -> Any:
    """The schema that a reference names, with what stands beside the reference on top."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found = root
    for key in reference.removeprefix("#/").split("/"):
        found = found[key]
    beside = {key: part for key, part in schema.items() if key != "$ref"}
    return {**resolved(found, root), **beside}


def kind(schema: Any, items: Any) -> str:
    """``integer or null``, or the words that may be chosen."""
    if "enum" in schema:
        return " or ".join("null" if word is None else f"`{word}`" for word in schema["enum"])
    named = schema.get("type", "any")
    names = [named] if isinstance(named, str) else list(named)
    of = items.get("type")
    return " or ".join(
        f"list of {of}s" if name == "array" and isinstance(of, str) else name for name in names
    )


def default(value: Any) -> str:
    return "" if value is NOTHING else f"`{json.dumps(value, ensure_ascii=False)}`"


def table(chart: Path = CHART) -> str:
    """The whole table in Markdown."""
    schema = json.loads((chart / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))
    lines = ["| Value | Type | Default | What it is |", "|---|---|---|---|"]
    for name, type_, given, description in rows(schema, schema, values):
        cells = (f"`{name}`", type_, given, " ".join(description.split()))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def with_table(readme: str, text: str) -> str:
    """The page with ``text`` between its marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"expected the lines {BEGIN} and {END} in the README, got none")
    return f"{before}{begin}\n{text}\n{end}{after}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        page = CHART / "README.md"
        page.write_text(with_table(page.read_text(encoding="utf-8"), table()), encoding="utf-8")
    else:
        sys.stdout.write(table() + "\n")
