"""Command lines as the programs themselves would read them, without running them."""

from __future__ import annotations

import re
from typing import Any

import click
from charts import Object

REFERENCE = re.compile(r"(?<!\$)\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


def words(container: Object) -> list[str]:
    return [*container.get("command", []), *container.get("args", [])]


def programs() -> dict[str, click.Command]:
    """By the first word."""
    from distributed.cli import dask_scheduler, dask_worker

    from ntk_dist.cli.entry import cli

    dask = click.Group("dask")
    dask.add_command(dask_scheduler.main, "scheduler")
    dask.add_command(dask_worker.main, "worker")
    return {"ntk-dist": cli, "dask": dask}


def complaint(program: click.Command, given: list[str]) -> str | None:
    """What the program would say about its arguments; None if it would take them."""
    command, rest = program, list(given)
    while isinstance(command, click.Group):
        name = rest.pop(0) if rest else ""
        found = command.commands.get(name)
        if found is None:
            return f"there is no command {name!r} among {', '.join(sorted(command.commands))}"
        command = found
    context = click.Context(command)
    try:
        options, left, _ = command.make_parser(context).parse_args(rest)
    except click.UsageError as error:
        return error.format_message()
    for parameter in command.params:
        value = options.get(parameter.name)
        if parameter.required and value in (None, (), ""):
            return f"{parameter.name} is missing"
        said = _type_complaint(parameter, value)
        if said:
            return said
    return f"{left} is too much" if left else None


def _type_complaint(parameter: click.Parameter, value: Any) -> str | None:
    """Files need not exist here, so only words and numbers are looked at."""
    if value is None or isinstance(parameter.type, click.Path | click.File):
        return None
    flag = getattr(parameter, "is_flag", False) or getattr(parameter, "flag_value", None) is value
    if flag:
        return None
    for one in value if isinstance(value, list | tuple) else [value]:
        try:
            parameter.type.convert(one, parameter, None)
        except click.UsageError as error:
            return error.format_message()
    return None


def unknown_variables(container: Object, known: set[str]) -> set[str]:
    """``$(NAME)`` in the command line that Kubernetes would leave as it is."""
    return {name for word in words(container) for name in REFERENCE.findall(word)} - known
