"""Drivers as jobs of a Ray cluster, by Ray's own Jobs API.

Ray's table of jobs dies with its head node and refuses an id it has seen, so nothing is kept there
that is not kept by us: the id of a submission is that of our job and the number of the attempt, and
what Ray says is believed of drivers alone, not of jobs. The cluster has to have this package
installed and to reach the workspace and the data under the same names.

Where the cluster asks for a token, this process needs the same ``RAY_AUTH_TOKEN``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ntk_dist.database.records import JobRecord
from ntk_dist.errors import (
    ExecutorError,
    ExecutorUnreachableError,
    InvalidInputError,
    MissingDependencyError,
    NTKDistError,
)
from ntk_dist.jobs.launch import (
    LOG_BYTES,
    SPEC_FILE,
    STOP_S,
    AbstractLauncher,
    DriverState,
    driver_command,
    driver_variables,
)
from ntk_dist.settings import Settings

try:
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient
except ImportError as error:
    raise MissingDependencyError(
        "jobs of a Ray cluster need Ray, which is not installed; pip install 'ntk_dist[ray]', or "
        "leave the address of the cluster out"
    ) from error

__all__ = ["RayLauncher"]

log = logging.getLogger(__name__)
for _chatterer in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
    # They tell of every job file that is sent, on standard error.
    logging.getLogger(_chatterer).setLevel(logging.WARNING)

ANSWER_S = 30.0
"""Longest that a head node may take for an answer, in seconds; Ray's own client waits for ever."""
HERE = "ray:auto"
"""The executor of a driver whose tasks run on the cluster it runs on itself."""
_STATES: Mapping[str, DriverState] = {"PENDING": "pending", "RUNNING": "alive"}
"""Ray's words; its others are ends, of which ``outcome.json`` knows more."""
_UNMANAGED = re.compile(r"node_?[0-9a-f]{56}", re.IGNORECASE)
"""What Ray calls the kind of a node, one for each, where no autoscaler has kinds of its own."""
_environment_lock = threading.Lock()


class RayLauncher(AbstractLauncher):
    """Drivers on a Ray cluster.

    Parameters
    ----------
    url
        ``http://HEAD:8265``. None for one that only looks after drivers that are there: a handle
        has the address it was made at.

    Raises
    ------
    InvalidInputError
        It is no such address.
    """

    def __init__(self, url: str | None = None) -> None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise InvalidInputError(
                "the address of a Ray cluster for jobs: expected that of its dashboard, such as "
                f"http://HEAD:8265, got {url!r}"
            )
        self._url = url
        self._clients: dict[str, Any] = {}

    def check(self) -> None:
        """Ask the head node for its version."""
        url = self._required()
        self._clients.pop(url, None)
        with _answers(url):
            self._jobs(url)

    def launch(self, record: JobRecord) -> dict[str, Any]:
        """Submit the driver; its handle is the address and the id of the submission.

        Raises
        ------
        InvalidInputError
            Its CPUs would leave none for its tasks, or there are not so many: it would wait for
            ever.
        """
        url = self._required()
        assert record.run is not None
        submission = f"{record.id}-{record.attempt}"
        resources = record.spec.get("resources") or {}
        if cpus := resources.get("driver_cpus"):
            self._require_room(url, cpus, _inside(record.spec.get("executor", "local")))
        with _answers(url), tempfile.TemporaryDirectory() as folder:
            jobs = self._jobs(url)
            # All that the driver is sent is its job file; the rest is where it says.
            spec = {**record.spec, "executor": _inside(record.spec.get("executor", "local"))}
            (Path(folder) / SPEC_FILE).write_text(json.dumps(spec), encoding="utf-8")
            try:
                jobs.submit_job(
                    submission_id=submission,
                    entrypoint=shlex.join(driver_command("python", SPEC_FILE, record.run)),
                    runtime_env={"working_dir": folder, "env_vars": _variables(record.spec)},
                    metadata={"ntk_dist_job": record.id, "name": record.name, "run": record.run},
                    entrypoint_num_cpus=resources.get("driver_cpus"),
                    entrypoint_memory=resources.get("driver_memory_bytes"),
                )
            except _AnswerLostError as lost:
                # Ray may have it: looked for from now on, and lost if nothing is heard of it.
                log.warning("job %s: whether Ray has its driver is not known: %s", record.id, lost)
        return {"url": url, "submission": submission}

    def _require_room(self, url: str, cpus: int, executor: Any) -> None:
        with _answers(url):
            total = self._jobs(url).unmanaged_cpus()
        for_tasks = 1 if executor == HERE else 0
        if total is not None and cpus > total - for_tasks:
            beside = ", one of which its tasks need" if for_tasks else ""
            raise InvalidInputError(
                f"resources.driver_cpus: expected at most {total - for_tasks:g} on the Ray cluster "
                f"at {url}, which has {total:g} CPUs{beside}, got {cpus}; ask for fewer, or for "
                "none in particular"
            )

    def look(self, record: JobRecord) -> DriverState:
        """What Ray says of it; unknown where Ray does not answer, or knows of no such driver."""
        try:
            with self._about(record) as (jobs, submission):
                status = str(jobs.get_job_info(submission).status)
        except (ExecutorError, InvalidInputError) as error:
            log.info("job %s: %s", record.id, error)
            return "unknown"
        return _STATES.get(status, "gone")

    def stop(self, record: JobRecord) -> None:
        """SIGTERM to the driver, and after 10 s SIGKILL, all by Ray."""
        with self._about(record) as (jobs, submission):
            jobs.stop_job(submission)

    def logs(self, record: JobRecord, start: int = 0) -> bytes:
        """What the driver printed."""
        with self._about(record) as (jobs, submission):
            text: str = jobs.get_job_logs(submission)
        return text.encode()[start : start + LOG_BYTES]

    @contextmanager
    def _about(self, record: JobRecord) -> Iterator[tuple[Any, str]]:
        """Ray's client, and what Ray calls the driver of this attempt."""
        url = record.handle.get("url") or self._required()
        with _answers(url):
            yield self._jobs(url), f"{record.id}-{record.attempt}"

    def _jobs(self, url: str) -> Any:
        if url not in self._clients:
            self._clients[url] = _connect(url)
        return self._clients[url]

    def _required(self) -> str:
        if self._url is None:
            raise InvalidInputError(
                "expected the address of a Ray cluster to run the driver on, got none: give "
                "--address http://HEAD:8265"
            )
        return self._url


class _AnswerLostError(Exception):
    """A driver was submitted, and no answer came."""


class _Jobs(JobSubmissionClient):
    """Ray's client, with an end to its patience."""

    def unmanaged_cpus(self) -> float | None:
        """CPUs of all nodes together.

        None where an autoscaler may add nodes, or Ray does not say: it does so every 5 s.
        """
        try:
            told = self._do_request("GET", "/api/cluster_status").json()["data"]["clusterStatus"]
            kinds = told["autoscalerReport"]["activeNodes"]
            total = float(told["loadMetricsReport"]["usage"]["CPU"][1])
        except (IndexError, KeyError, TypeError, ValueError):
            return None
        return total if kinds and all(map(_UNMANAGED.fullmatch, kinds)) else None

    def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> Any:
        try:
            return super()._do_request(method, endpoint, **{"timeout": ANSWER_S, **kwargs})
        except OSError as error:  # what any trouble with the connection is to Ray's client
            if (method, endpoint) == ("POST", "/api/jobs/"):
                raise _AnswerLostError(str(error)) from error
            raise


def _connect(url: str) -> Any:
    token = os.environ.get("RAY_AUTH_TOKEN")
    # In words: Ray's client looks for a token only if RAY_AUTH_MODE was set when it was imported.
    headers = {"Authorization": f"Bearer {token}"} if token else None
    with _environment_lock:
        # Ray takes the address of these variables before the one it is given; in a process that
        # a cluster started they are another kind of address.
        before = os.environ.get("RAY_API_SERVER_ADDRESS")
        os.environ["RAY_API_SERVER_ADDRESS"] = url
        try:
            return _Jobs(url, headers=headers)
        finally:
            if before is None:
                del os.environ["RAY_API_SERVER_ADDRESS"]
            else:
                os.environ["RAY_API_SERVER_ADDRESS"] = before


@contextmanager
def _answers(url: str) -> Iterator[None]:
    """Raise whatever keeps Ray from doing as it is asked as an error of this package.

    Raises
    ------
    ExecutorUnreachableError
        It does not answer, or lets nobody in.
    ExecutorError
        It has answered, and refuses.
    """
    try:
        yield
    except NTKDistError:
        raise
    except (OSError, RuntimeError, ValueError, RayError) as error:
        if isinstance(error, OSError | RayError):
            raise ExecutorUnreachableError(
                f"the Jobs API of the Ray cluster at {url} does not answer ({_first_line(error)}); "
                "check that its head node runs, that this is the address of its dashboard, and "
                "that both sides have the same RAY_AUTH_TOKEN"
            ) from error
        raise ExecutorError(
            f"the Jobs API of the Ray cluster at {url} refuses ({_first_line(error)}); mend that, "
            "or see the log of its head node"
        ) from error


def _first_line(error: Exception) -> str:
    """What Ray says in one line; of a traceback the last one, where the reason is."""
    lines = [line for line in str(error).splitlines() if line.strip(" .")]
    if not lines:
        return type(error).__name__
    return lines[0].replace("Traceback (most recent call last):", lines[-1].strip())


def _inside(executor: Any) -> Any:
    """The executor as a driver on the cluster has to name it: ``ray`` means that cluster."""
    return HERE if executor == "ray" else executor


def _variables(spec: Mapping[str, Any]) -> dict[str, str]:
    """Settings of this process that are the driver's business too, on whichever machine."""
    names = [f"NTK_DIST_{name.upper()}" for name in Settings.model_fields]
    machine = {"NTK_DIST_THREADS", "NTK_DIST_SERVICE"}
    told = {n: os.environ[n] for n in names if n in os.environ and n not in machine}
    # Ray's own patience with a driver that was told to stop is 3 s.
    return {**told, "RAY_JOB_STOP_WAIT_TIME_S": f"{STOP_S:.0f}", **driver_variables(spec)}
