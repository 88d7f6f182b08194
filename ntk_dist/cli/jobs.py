"""Commands about jobs that run elsewhere: in a process, on a Ray cluster, or beside a service."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from ntk_dist.cli.options import (
    NOT_CONVERGED,
    OK,
    executor_option,
    job_argument,
    json_option,
    open_job,
    require_workspace,
    show,
    workspace_option,
)
from ntk_dist.errors import (
    JobCancelledError,
    JobError,
    JobLostError,
)
from ntk_dist.screen import standard_error
from ntk_dist.units import format_seconds
from ntk_dist.wire import Job, JobState, error_of, to_json

if TYPE_CHECKING:
    from ntk_dist.client import Client
    from ntk_dist.jobs.desk import JobDesk
    from ntk_dist.jobs.spec import JobSpec

__all__ = ["COMMANDS"]

LOG_EVERY_S = 1.0
address_option = click.option(
    "--address", metavar="URL", help="http://HEAD:8265 of a Ray cluster to run the driver on."
)
database_option = click.option(
    "--database", metavar="URL", help="Records of the jobs [a file in the workspace]."
)
# The token is in NTK_DIST_TOKEN, never an argument: other users of this machine see those.
service_option = click.option(
    "--service", metavar="URL", help="http://HOST:8080 of a service; its token is NTK_DIST_TOKEN."
)


@click.command()
@job_argument
@address_option
@service_option
@database_option
@executor_option
@workspace_option
@click.option("--key", metavar="KEY", help="Names this request: the same again makes no new job.")
@click.option("--upload", is_flag=True, help="With --service: send the data files too.")
@click.option("--follow", is_flag=True, help="Show progress until it is over.")
@json_option
def submit(
    job: str,
    executor: str | None,
    workspace: str | None,
    key: str | None,
    upload: bool,
    follow: bool,
    as_json: bool,
    **where: str | None,
) -> int:
    """Run a job file without waiting for it.

    Its driver is a process of this machine, a job of a Ray cluster (--address), or the matter of a
    service (--service).
    """
    if where["service"] and workspace:
        raise click.UsageError("--workspace: expected no --service with it, which has its own")
    if upload and not where["service"]:
        raise click.UsageError("--upload: expected --service with it")
    from ntk_dist.jobs.runner import self_contained

    # Absolute, for the driver has another working folder, if not another machine.
    spec = self_contained(open_job(Path(job).absolute(), executor=executor, workspace=workspace))
    with _office(spec.workspace, **where) as office:
        submitted = office.submit(spec, key=key, upload=upload)
        if follow:
            return _end(office.follow(submitted.id), as_json)
    show(to_json(submitted), _words(submitted), as_json)
    return OK


@click.command("jobs")
@click.argument("job_id", metavar="[ID]", required=False)
@click.option("--workspace", default="./ws", metavar="DIR", help="Whose jobs [./ws].")
@database_option
@service_option
@click.option("--state", type=click.Choice([str(s) for s in JobState]), help="Only such jobs.")
@click.option("--follow", is_flag=True, help="Show progress, or with --logs what is printed.")
@click.option("--logs", is_flag=True, help="Show what the driver printed.")
@click.option("--cancel", is_flag=True, help="Have it end; what it computed is kept.")
@click.option("--resume", is_flag=True, help="Have it go on where it was.")
@address_option
@json_option
def show_jobs(
    job_id: str | None,
    workspace: str,
    state: str | None,
    follow: bool,
    logs: bool,
    cancel: bool,
    resume: bool,
    as_json: bool,
    **where: str | None,
) -> int:
    """Show the jobs of a workspace or service, or do something with one of them."""
    if cancel and resume:
        raise click.UsageError("expected --cancel or --resume, got both")
    if where["address"] and not resume:
        raise click.UsageError("--address: expected --resume with it")
    if job_id is not None and state is not None:
        raise click.UsageError("--state: expected no ID with it, for it chooses from the list")
    if not where["service"]:
        require_workspace(workspace, instead="that of the jobs, or --service")
    with _office(workspace, **where) as office:
        if job_id is None:
            if follow or logs or cancel or resume:
                raise click.UsageError("expected the ID of a job, got none: list them with 'jobs'")
            jobs = list(office.jobs(JobState(state) if state else None))
            text = "\n".join(map(_line, jobs)) or "no jobs"
            show([to_json(job) for job in jobs], text, as_json)
            return OK
        if cancel or resume:
            job = office.cancel(job_id) if cancel else office.resume(job_id)
        else:
            job = office.job(job_id)
        if logs:
            return _print_logs(office, job, follow)
        if follow:
            return _end(office.follow(job_id), as_json)
    show(to_json(job), _words(job), as_json)
    return OK


@click.command("job-schema")
def show_schema() -> int:
    """Print the JSON Schema of job files, for editors and other programs."""
    from ntk_dist.jobs.spec import job_schema

    show(job_schema(), "", as_json=True)
    return OK


COMMANDS = (submit, show_jobs, show_schema)


class _Office(Protocol):
    """Where jobs are handed in and asked for."""

    def submit(self, spec: JobSpec, *, key: str | None, upload: bool) -> Job: ...
    def jobs(self, state: JobState | None) -> Iterable[Job]: ...
    def job(self, job_id: str) -> Job: ...
    def cancel(self, job_id: str) -> Job: ...
    def resume(self, job_id: str) -> Job: ...
    def log_piece(self, job_id: str, start: int) -> tuple[bytes, int]: ...
    def follow(self, job_id: str) -> Job: ...


@contextmanager
def _office(
    workspace: str,
    *,
    service: str | None,
    database: str | None,
    address: str | None,
) -> Iterator[_Office]:
    """The service, or what stands in for one in a workspace that has none."""
    if service is None:
        from ntk_dist.jobs.desk import JobDesk

        with JobDesk(workspace, database=database, address=address) as desk:
            yield _Here(desk)
        return
    if database or address:
        option = "database" if database else "address"
        raise click.UsageError(f"--{option}: expected no --service with it, which has its own")
    from ntk_dist.client import Client

    with Client(service) as client:
        yield _There(client)


class _Here:
    """Jobs of a workspace."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk
        self.jobs, self.job = desk.jobs, desk.job
        self.cancel, self.resume = desk.cancel, desk.resume

    def submit(self, spec: JobSpec, *, key: str | None, upload: bool) -> Job:
        job, is_new = self._desk.submit(spec, key=key)
        if not is_new:
            click.echo(f"key {key} was used before, for this job", err=True)
        return job

    def follow(self, job_id: str) -> Job:
        from ntk_dist.jobs.progress import ProgressDisplay

        with ProgressDisplay(standard_error()) as display:
            return self._desk.follow(job_id, on_event=display)

    def log_piece(self, job_id: str, start: int) -> tuple[bytes, int]:
        found = self._desk.logs(job_id, start)
        return found, start + len(found)


class _There:
    """Jobs of a service."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def submit(self, spec: JobSpec, *, key: str | None, upload: bool) -> Job:
        # What the file does not say is for the service to say; what it says counts.
        sent = spec.model_dump(mode="json", exclude={"workspace"}, exclude_unset=True)
        return self._client.submit(sent, key=key, upload=upload).info

    def jobs(self, state: JobState | None) -> Iterable[Job]:
        return (handle.info for handle in self._client.jobs(state=state))

    def job(self, job_id: str) -> Job:
        return self._client.job(job_id).info

    def cancel(self, job_id: str) -> Job:
        return self._client.job(job_id).cancel()

    def resume(self, job_id: str) -> Job:
        return self._client.job(job_id).resume()

    def log_piece(self, job_id: str, start: int) -> tuple[bytes, int]:
        return self._client.job(job_id).log_piece(start)

    def follow(self, job_id: str) -> Job:
        handle = self._client.job(job_id)
        with suppress(JobError):  # the job itself says what it came to
            handle.wait(progress=True)
        return handle.info


def _print_logs(office: _Office, job: Job, follow: bool) -> int:
    """What the driver printed so far; with ``follow`` until it has printed its last."""
    start = 0
    while True:
        is_last = not follow or job.state.is_over
        while True:
            printed, start = office.log_piece(job.id, start)
            if not printed:
                break
            click.echo(printed, nl=False)
        if is_last:
            return OK
        time.sleep(LOG_EVERY_S)
        job = office.job(job.id)


def _end(job: Job, as_json: bool) -> int:
    """What ``fit`` would have said of a job that is over, and its exit code."""
    if job.state is JobState.SUCCEEDED:
        from ntk_dist.solver.result import SolveStatus

        show(to_json(job), _words(job), as_json)
        status = SolveStatus(job.report["solve"]["status"]) if job.report else None
        return OK if status is None or status.is_success else NOT_CONVERGED
    if job.state is JobState.CANCELLED:
        raise JobCancelledError(f"job {job.id} was cancelled; what it computed is kept")
    why = job.failure
    if job.state is JobState.FAILED and why is not None:
        raise error_of(500, {"error": {"code": why.code, "message": why.message}})
    raise JobLostError(f"job {job.id} is {job.state}" + (f": {why.message}" if why else ""))


def _line(job: Job) -> str:
    return f"{job.id}  {job.state:<9}  {job.name}  {_note(job)}".rstrip()


def _words(job: Job) -> str:
    """A job in a few lines."""
    where = "on Ray" if job.launcher == "ray" else "in a process"
    took = ""
    if job.started and job.finished:
        took = f", {format_seconds((job.finished - job.started).total_seconds())}"
    lines = [
        f"job {job.id}: {job.name}, {job.state}",
        f"  attempt {job.attempt}, driver {where}, tasks on {job.executor}{took}",
        f"  {_note(job)}",
        *(f"  warning: {text}" for text in job.warnings),
    ]
    if job.is_resumable:
        lines.append(f"  it can go on where it was: ntk-dist jobs {job.id} --resume")
    return "\n".join(line for line in lines if line.strip())


def _note(job: Job) -> str:
    """What matters most about a job in its state."""
    if job.failure:
        return f"{job.failure.code}: {job.failure.message}"
    if job.state is JobState.SUCCEEDED:
        score = "" if job.score is None else f", score {job.score:.4f}"
        return f"model {job.name} version {job.model_version}{score}"
    if job.is_cancelling:
        return "told to end"
    if job.state is JobState.RUNNING and job.progress:
        return ": ".join(part for part in (job.progress.label, job.progress.note) if part)
    return ""
