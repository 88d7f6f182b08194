"""What several commands share: options, exit codes, how a result is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ntk_dist.errors import InvalidInputError, StoreUnreachableError
from ntk_dist.units import parse_bytes

if TYPE_CHECKING:
    from ntk_dist.jobs.spec import JobSpec

__all__ = [
    "BAD_INPUT",
    "DEFECT",
    "INTERRUPTED",
    "MANY",
    "NOT_CONVERGED",
    "NO_READER",
    "OK",
    "as_size",
    "executor_option",
    "job_argument",
    "json_option",
    "open_job",
    "require_workspace",
    "show",
    "workspace_option",
]

OK, DEFECT, BAD_INPUT, NOT_CONVERGED, INTERRUPTED = 0, 1, 2, 3, 130
NO_READER = 141
"""What a shell says of a program whose output went into a closed pipe."""

MANY = click.IntRange(1, 10**9)
"""Of whatever is simulated: no matrix of more rows would fit all disks there are."""
json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on standard output."
)
executor_option = click.option(
    "--executor", metavar="WHO", help="local, dask, dask://HOST:PORT, ray or ray://HOST:PORT."
)
workspace_option = click.option("--workspace", metavar="DIR", help="Instead of the job file's.")
job_argument = click.argument("job", type=click.Path(dir_okay=False))


def as_size(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """Bytes, as people write them."""
    if value is None:
        return None
    try:
        return parse_bytes(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from error


def require_workspace(workspace: str, *, instead: str) -> None:
    """Refuse to look for records where there is nothing: opening their database would make it.

    Parameters
    ----------
    workspace
        As it was given.
    instead
        What else to give.
    """
    from ntk_dist.store.location import open_place

    if not open_place(workspace).is_folder():
        raise InvalidInputError(
            f"--workspace: expected a workspace, got {workspace}, where there is none; give "
            f"{instead}"
        )


def open_job(path: str | Path, **overrides: str | None) -> JobSpec:
    """The job in a file, with what options say in place of what it says."""
    from ntk_dist.jobs.spec import load_job

    spec = load_job(path)
    return spec.model_copy(update={k: v for k, v in overrides.items() if v is not None})


def show(result: Any, text: str, as_json: bool) -> None:
    """The result of a command: JSON types for machines, or words for people.

    Raises
    ------
    StoreUnreachableError
        Standard output cannot be written.
    """
    try:
        click.echo(json.dumps(result) if as_json else text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StoreUnreachableError(f"standard output: {error.strerror}") from error
