"""Command lines, read as the programs that they name would read them, without running them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


def parse_command(words: Sequence[str]) -> dict[str, Any]:
    """The parameters that a command line of ntk-dist, dask or ray gives.

    Raises
    ------
    click.UsageError
        The program would refuse it.
    LookupError
        There is no such program or subcommand.
    """
    program, *rest = words
    command = _program(program)
    while isinstance(command, click.Group):
        command, rest = command.commands[rest[0]], rest[1:]
    return dict(command.make_context(program, list(rest)).params)


def _program(name: str) -> click.Command:
    if name == "ntk-dist":
        from ntk_dist.cli.entry import cli

        return cli
    if name == "ray":
        from ray.scripts.scripts import cli as ray

        return ray
    if name == "dask":
        from distributed.cli import dask_scheduler, dask_worker

        commands = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}
        return click.Group("dask", commands)
    raise LookupError(f"expected ntk-dist, dask or ray, got {name!r}")
