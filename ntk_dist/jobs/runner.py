"""Run one job: read, fit, score, publish; what it reports is kept in its workspace."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ntk_dist.errors import (
    ArchitectureError,
    DataShapeError,
    InvalidInputError,
    JobSpecError,
    LabelError,
    NTKDistError,
)
from ntk_dist.events import EventSink, ignore
from ntk_dist.gram.plan import GramPlan
from ntk_dist.jobs.journal import journaled, run_place
from ntk_dist.jobs.lifecycle import Outcome
from ntk_dist.jobs.outcome import concluding, write_outcome
from ntk_dist.jobs.spec import DataSpec, JobSpec
from ntk_dist.kernels.cache import programs_kept_in
from ntk_dist.kernels.dispatch import Kernel
from ntk_dist.kernels.projection import Projection
from ntk_dist.model import FitReport, GramReport, NTKClassifier, NTKRegressor
from ntk_dist.model.artifact import write_artifact
from ntk_dist.model.load import load_model
from ntk_dist.model.parameters import Parameters
from ntk_dist.model.portable import pack
from ntk_dist.model.preprocess import normalize_steps
from ntk_dist.stax import Network, from_json
from ntk_dist.store.inputs import check_rows, read_array
from ntk_dist.store.location import open_place
from ntk_dist.store.place import AbstractPlace, Draft
from ntk_dist.store.workspace import Workspace

__all__ = [
    "JobResult",
    "compute_job_gram",
    "job_estimator",
    "job_network",
    "plan_job",
    "run_job",
    "self_contained",
]


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What a finished job leaves behind."""

    name: str
    version: int
    model: AbstractPlace
    """Place of the published model."""
    report: FitReport
    score: float | None
    """Accuracy or R^2 on the job's test data; None without any, or where it could not be had."""
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "name": self.name,
            "version": self.version,
            "model": str(self.model),
            "status": self.report.status,
            "score": self.score,
            "seconds": self.seconds,
            "report": self.report.to_dict(),
        }


def run_job(job: JobSpec, on_event: EventSink = ignore, run: str | None = None) -> JobResult:
    """Fit the job's model and publish it in the workspace as the next version of its name.

    Blocks that an earlier run of the same job left in the workspace are used, not recomputed. A
    model that missed its tolerance is published too; its report says so.

    Parameters
    ----------
    job
        What to fit.
    on_event
        Hears what happens.
    run
        What this run is to be called, for whoever started this process to look after it: what it
        comes to is then written down beside its journal, see :mod:`ntk_dist.jobs.outcome`.

    Raises
    ------
    ConflictError
        That run was begun before.
    NTKDistError
        As :meth:`NTKClassifier.fit` and :func:`read_array` do.
    """
    if run is None:
        return _run(job, on_event, None)
    place = run_place(open_place(job.workspace), job.name, run)
    with concluding(place):
        result = _run(job, on_event, run)
    report = result.report.to_dict()
    write_outcome(
        place,
        Outcome(state="succeeded", version=result.version, score=result.score, report=report),
    )
    return result


def _run(job: JobSpec, on_event: EventSink, run: str | None) -> JobResult:
    start = time.perf_counter()
    with journaled(job.workspace, job.name, on_event, run) as events:
        model, draft, score = _fit_and_publish(job, events)
    assert draft.published is not None
    assert draft.version is not None
    return JobResult(
        name=job.name,
        version=draft.version,
        model=draft.published,
        report=model.report_,
        score=score,
        seconds=time.perf_counter() - start,
    )


def _fit_and_publish(
    job: JobSpec, on_event: EventSink
) -> tuple[NTKClassifier | NTKRegressor, Draft, float | None]:
    model, workspace = job_estimator(job), Workspace(job.workspace)
    if job.solver.warm_start and job.name in workspace.models():
        earlier = load_model(place := workspace.model_place(job.name))
        if type(earlier) is not type(model):
            raise JobSpecError(
                f"solver.warm_start: expected a {type(model).__name__} to start from, got a "
                f"{type(earlier).__name__}, {place}: give the job a name of its own, or leave out "
                "warm_start"
            )
        model = earlier.set_params(**model.get_params(deep=False))
    x, y = read_array(job.data.x), read_array(job.data.y)
    # Read before the work starts: a typo in a file name must not show after hours.
    held_out = _held_out(job.test, x, y) if job.test else None
    with programs_kept_in(workspace.compilation_cache), model.fitting(x, y, on_event):
        # Scored first: a driver that is killed in it goes on from the end of the solve.
        score = _score(model, held_out) if held_out else None
        with workspace.new_model(job.name) as draft:
            write_artifact(draft.place, pack(model))
    return model, draft, score


def _score(
    model: NTKClassifier | NTKRegressor, held_out: tuple[np.ndarray, np.ndarray]
) -> float | None:
    """Accuracy or R^2; None where it cannot be had, which is no reason to give the model up."""
    try:
        return float(model.score(*held_out))
    except NTKDistError as error:
        log.warning("the model is kept without a score, which failed: %s", error)
        return None


def _held_out(test: DataSpec, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The test data, known to fit the training data.

    Raises
    ------
    DataError
        It does not: found now, and not when the fit is done.
    """
    x_test, y_test = read_array(test.x), read_array(test.y)
    check_rows(x_test, "test.x")
    if x_test.shape[1:] != x.shape[1:]:
        raise DataShapeError(
            f"test.x: expected rows of shape {x.shape[1:]} as in data.x, got {x_test.shape[1:]}"
        )
    if len(y_test) != len(x_test):
        raise LabelError(f"test.y: expected {len(x_test)} targets, got {len(y_test)}")
    if (y_test.dtype.kind in "US") != (y.dtype.kind in "US"):
        raise LabelError(f"test.y: expected {y.dtype} as in data.y, got {y_test.dtype}")
    return x_test, y_test


def plan_job(job: JobSpec) -> tuple[GramPlan, Projection, int | None]:
    """What the job still has to compute, what that takes here, and the bytes that are free for it.

    Nothing is started or made. Object storage does not say what is free: None.
    """
    planned = job_estimator(job).plan(read_array(job.data.x))
    kernel = Kernel(job_network(job).layer, (job.kernel,), job.gram.dtype)
    free_bytes = Workspace(job.workspace, read_only=True).free_bytes()
    return planned, kernel.project(planned.input_shape), free_bytes


def compute_job_gram(job: JobSpec, on_event: EventSink = ignore) -> GramReport:
    """Compute the job's Gram matrix and stop there."""
    with journaled(job.workspace, job.name, on_event) as events:
        x = read_array(job.data.x)
        with programs_kept_in(Workspace(job.workspace).compilation_cache):
            return job_estimator(job).compute_gram(x, on_event=events)


def job_estimator(job: JobSpec) -> NTKClassifier | NTKRegressor:
    """The estimator that a job describes, not yet fitted."""
    estimator = NTKClassifier if job.task == "classification" else NTKRegressor
    return estimator(
        job_network(job),
        kernel=job.kernel,
        ridge=job.solver.ridge,
        preprocess=job.preprocess,
        executor=job.executor,
        workspace=job.workspace,
        block_rows=job.gram.block_rows,
        dtype=job.gram.dtype,
        tol=job.solver.tol,
        solver=job.solver.method,
        preconditioner=job.solver.preconditioner.type,
        rank=job.solver.preconditioner.rank,
        refine=job.solver.refine,
        max_steps=job.solver.max_steps,
        random_state=job.solver.seed,
        warm_start=job.solver.warm_start,
    )


def self_contained(job: JobSpec) -> JobSpec:
    """The job with its architecture inside, as it can be sent to another machine.

    What its driver would refuse before it reads any data is refused here, not after a wait in a
    queue.

    Raises
    ------
    ArchitectureError
        The file is missing, or what it holds is no architecture.
    JobSpecError
        There is no such step of preprocessing, or it cannot be fitted that way.
    """
    try:
        normalize_steps(job.preprocess)
        Parameters.checked(job_estimator(job).get_params(deep=False))
    except ArchitectureError:
        raise
    except InvalidInputError as error:
        raise JobSpecError(str(error)) from error
    return job.model_copy(update={"architecture": json.loads(job_network(job).to_json())})


def job_network(job: JobSpec) -> Network:
    """The job's architecture, from its file or inline.

    Raises
    ------
    ArchitectureError
        The file is missing, or what it holds is no architecture.
    """
    given = job.architecture
    if not isinstance(given, str):
        try:
            return from_json(json.dumps(given))
        except TypeError as error:  # YAML knows types that JSON does not, such as dates
            raise ArchitectureError(f"architecture: expected plain JSON, got {error}") from error
    if given.lstrip().startswith("["):
        return from_json(given)
    try:
        return from_json(Path(given).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArchitectureError(
            f"architecture: expected a JSON file, got {given}: {error}"
        ) from error
