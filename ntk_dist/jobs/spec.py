"""The one definition of a job file, and its validation.

Paths inside a job file are relative to the file, so that a job can be run from anywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
)

from ntk_dist.errors import JobSpecError
from ntk_dist.job_file import read_job_file
from ntk_dist.options import (
    Count,
    GramOptions,
    KernelName,
    Method,
    PreconditionerName,
    Rank,
    Record,
    Refine,
    Seed,
    SolverOptions,
)
from ntk_dist.settings import MOST_CPUS
from ntk_dist.store.location import is_remote
from ntk_dist.store.workspace import NAME_PATTERN
from ntk_dist.validation import UNION_ARMS, describe_problems

__all__ = [
    "DataSpec",
    "JobSpec",
    "PreconditionerSpec",
    "ResourcesSpec",
    "SolverSpec",
    "job_schema",
    "load_job",
]


class DataSpec(Record):
    """Where arrays are: ``PATH``, or ``PATH:array`` inside an .npz, a table or a Zarr group."""

    x: str
    """Inputs, rows first."""
    y: str
    """Targets or labels, one per row (or rows x targets)."""


class PreconditionerSpec(Record):
    """What speeds the solver up."""

    type: PreconditionerName = "rpcholesky"
    rank: Rank = "auto"


class SolverSpec(SolverOptions):
    """How the linear system is solved."""

    method: Method = "cg"
    preconditioner: PreconditionerSpec = PreconditionerSpec()
    refine: Refine = False
    """Correct the answer from float64 residuals: whether, or how many rounds at most."""
    seed: Seed = 0


class ResourcesSpec(Record):
    """What the driver of a submitted job gets; its tasks are the matter of the executor."""

    driver_cpus: Annotated[Count, Field(le=MOST_CPUS)] | None = None
    """CPUs of one machine, also for the tasks of a ``local`` executor. None takes what there is;
    on a Ray cluster that is the head node, beside what else runs there. The tasks of a ``ray``
    executor get the CPUs that are left, at least one."""
    driver_memory_bytes: Count | None = None
    """Memory that a Ray cluster keeps free for the driver, in bytes."""


def _as_text(value: object) -> object:
    """YAML reads ``name: 2024`` as a number; names are text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class JobSpec(Record):
    """A job: everything needed to fit one model."""

    name: Annotated[
        str,
        BeforeValidator(_as_text),
        Field(pattern=f"^{NAME_PATTERN}$", max_length=100),
    ]
    """Letters, digits, dot, dash and underscore; the model is published under it."""
    task: Literal["classification", "regression"]
    data: DataSpec
    test: DataSpec | None = None
    """Held-out data to score the fitted model on."""
    preprocess: list[str | dict[str, Any]] = Field(default=[])
    architecture: str | list[Any]
    """A path to the architecture's JSON, or the JSON itself."""
    kernel: KernelName = "ntk"
    gram: GramOptions = GramOptions()
    solver: SolverSpec = SolverSpec()
    executor: str = "local"
    """``local``, ``dask``, ``dask://HOST:PORT``, ``ray`` or ``ray://HOST:PORT``."""
    resources: ResourcesSpec = ResourcesSpec()
    workspace: str = "./ws"


def job_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a job file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **JobSpec.model_json_schema(),
    }


def load_job(path: str | Path) -> JobSpec:
    """The job in a YAML or JSON file, its relative paths resolved against the file's folder.

    Raises
    ------
    JobSpecError
        The file is missing, or neither JSON nor YAML, or a key is unknown, missing or of the wrong
        kind; every problem is named with its place.
    """
    path = Path(path)
    record = read_job_file(path)
    try:
        job = JobSpec.model_validate(record)
    except ValidationError as error:
        raise JobSpecError(f"{path}: {describe_problems(error, UNION_ARMS)}") from error
    return _resolved(job, path.parent)


def _resolved(job: JobSpec, folder: Path) -> JobSpec:
    def resolve(place: str) -> str:
        return place if is_remote(place) else str(folder / Path(place).expanduser())

    def resolve_data(data: DataSpec) -> DataSpec:
        return DataSpec(x=resolve(data.x), y=resolve(data.y))

    architecture = job.architecture
    if isinstance(architecture, str) and not architecture.lstrip().startswith("["):
        architecture = resolve(architecture)
    resolved = {
        "data": resolve_data(job.data),
        "architecture": architecture,
        "workspace": resolve(job.workspace),
    }
    if job.test:
        resolved["test"] = resolve_data(job.test)
    return job.model_copy(update=resolved)
