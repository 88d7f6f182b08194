"""What the service counts, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ntk_dist.wire import Job, JobState

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
"""Upper ends of the classes of the histogram: a warm prediction takes some 10 ms."""


class Metrics:
    """Counters of one replica, and what it reads of jobs and models when it is asked.

    Parameters
    ----------
    count_jobs
        How many jobs there are, by state.
    running_jobs
        Those at work now.
    loaded_models
        Bytes of every model in memory, by name and version.
    waiting_rows
        Rows that wait for predictions.
    """

    def __init__(
        self,
        *,
        count_jobs: Callable[[], Mapping[JobState, int]],
        running_jobs: Callable[[], Iterable[Job]],
        loaded_models: Callable[[], Mapping[tuple[str, int], int]],
        waiting_rows: Callable[[], int],
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Seen(count_jobs, running_jobs, loaded_models, waiting_rows))
        self._requests = Counter(
            "ntk_dist_http_requests",
            "Requests that were answered.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "ntk_dist_http_request_seconds",
            "Time from the head of a request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request; ``route`` is the template of its address."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Everything, as it is now.

        Raises
        ------
        StoreUnreachableError
            The database or the workspace does not answer.
        """
        return generate_latest(self._registry)


class _Seen(Collector):
    """What is read when somebody asks for it."""

    def __init__(
        self,
        count_jobs: Callable[[], Mapping[JobState, int]],
        running_jobs: Callable[[], Iterable[Job]],
        loaded_models: Callable[[], Mapping[tuple[str, int], int]],
        waiting_rows: Callable[[], int],
    ) -> None:
        self._waiting_rows = waiting_rows
        self._count_jobs = count_jobs
        self._running_jobs = running_jobs
        self._loaded_models = loaded_models

    def describe(self) -> Iterable[Metric]:
        """Nothing: it would cost the database a question before anybody asked one."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All gauges, read now."""
        jobs = GaugeMetricFamily("ntk_dist_jobs", "Jobs, by state.", labels=["state"])
        counts = self._count_jobs()
        for state in JobState:
            jobs.add_metric([state.value], counts.get(state, 0))
        yield jobs
        queue = GaugeMetricFamily("ntk_dist_queue_length", "Jobs that wait for a driver.")
        queue.add_metric([], counts.get(JobState.QUEUED, 0))
        yield queue
        yield from _of_running(self._running_jobs())
        models = GaugeMetricFamily(
            "ntk_dist_model_bytes", "Memory of the models in it.", labels=["model", "version"]
        )
        loaded = self._loaded_models()
        for (name, version), n_bytes in loaded.items():
            models.add_metric([name, str(version)], n_bytes)
        yield models
        count = GaugeMetricFamily("ntk_dist_models_loaded", "Models in memory.")
        count.add_metric([], len(loaded))
        yield count
        rows = GaugeMetricFamily("ntk_dist_waiting_rows", "Rows that wait for predictions.")
        rows.add_metric([], self._waiting_rows())
        yield rows


_PROGRESS = {
    "tasks_done": ("Tasks of the phase that are done.", "done"),
    "tasks": ("Tasks of the phase, where their number is known.", "total"),
    "task_failures": ("Tasks that failed for good.", "failures"),
    "task_retries": ("Tasks that were tried again.", "retries"),
    "repairs": ("Stored blocks found damaged and computed again.", "repairs"),
    "step": ("Step of the solver.", "step"),
    "residual": ("Largest true relative residual of all targets.", "residual"),
    "driver_bytes": ("Memory of the driver.", "driver_bytes"),
    "resident_bytes": ("Blocks that workers keep in memory.", "resident_bytes"),
}
"""Of every running job: name of the gauge, its help, and where it is in the progress."""


def _of_running(jobs: Iterable[Job]) -> Iterable[Metric]:
    labels = ["job_id", "name", "phase"]  # "job" is a label of Prometheus itself, which would win
    families = {
        key: GaugeMetricFamily(f"ntk_dist_job_{key}", told, labels=labels)
        for key, (told, _) in _PROGRESS.items()
    }
    for job in jobs:
        if job.progress is None:
            continue
        for key, (_, name) in _PROGRESS.items():
            value = getattr(job.progress, name)
            if value is not None:
                of_job = [job.id, job.name, job.progress.phase]
                families[key].add_metric(of_job, float(value))
    return families.values()
