"""Everything one replica of the service holds, from its database to its counters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from ntk_dist.database import database_url, open_database
from ntk_dist.errors import InvalidInputError, NTKDistError, ServiceError
from ntk_dist.jobs.desk import state_folder
from ntk_dist.jobs.launch import AbstractLauncher, ProcessLauncher
from ntk_dist.jobs.queue import JobQueue
from ntk_dist.jobs.spec import JobSpec
from ntk_dist.jobs.supervisor import Supervisor
from ntk_dist.service.auth import Gate
from ntk_dist.service.event_stream import EventStreams
from ntk_dist.service.metrics import Metrics
from ntk_dist.service.model_host import ModelHost
from ntk_dist.service.places import Roots, admitted, require_executors
from ntk_dist.service.public_names import PublicNames
from ntk_dist.service.uploads import Uploads
from ntk_dist.settings import ServiceSettings, get_settings
from ntk_dist.store.place import AbstractPlace
from ntk_dist.store.workspace import Workspace
from ntk_dist.wire import JobState

__all__ = ["Service", "ServiceConfig", "ServiceHere"]

log = logging.getLogger(__name__)

SWEEP_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """What a service is started with."""

    workspace: str
    """A folder, or ``s3://BUCKET/PREFIX``."""
    database_url: str | None = field(default=None, repr=False)
    """In place of that of the settings; it may hold a password."""
    is_open: bool = False
    """No tokens are asked for; only for callers on this machine."""
    settings: ServiceSettings = field(default_factory=lambda: get_settings().service)


class Service:
    """Opened when it is made; :meth:`start` lets it work, :meth:`stop` ends that.

    Raises
    ------
    SettingsError
        Some limit or place makes no sense.
    StoreUnreachableError
        The workspace or the database does not answer.
    MissingDependencyError
        A library is not installed.
    """

    def __init__(self, config: ServiceConfig) -> None:
        settings = config.settings
        self.config = config
        self.is_stopping = False
        require_executors(settings.executors)
        self._roots = Roots(settings.data_roots)
        workspace = Workspace(config.workspace)
        self.place = workspace.place
        url = database_url(self.place, config.database_url or settings.database_url)
        self.database = open_database(url)
        self.launchers = launchers_of(self.place, settings)
        self.queue = JobQueue(
            self.database,
            self.place,
            settings,
            self.launchers,
            usual_executor=settings.executors[0],
        )
        self.supervisor = Supervisor(
            self.database,
            self.place,
            self.launchers,
            max_running=settings.max_running_jobs,
            max_resumes=settings.max_resumes,
        )
        self.uploads = Uploads(self.place, self.database, settings)
        self.models = ModelHost(workspace, settings)
        self.gate = Gate(self.database.tokens.get, is_open=config.is_open)
        self.names = PublicNames(self.place, state_folder(self.place), settings.data_roots)
        self.event_streams = EventStreams(
            self.queue, lambda: self.is_stopping, as_json=self.names.json
        )
        self.metrics = Metrics(
            count_jobs=self.queue.counts,
            running_jobs=lambda: self.queue.page(JobState.RUNNING, limit=200).items,
            loaded_models=self.models.loaded,
            waiting_rows=lambda: self.models.waiting_rows,
        )
        self._looking_after = ExitStack()
        self._sweeping: asyncio.Task[None] | None = None

    def admitted(self, job: JobSpec) -> JobSpec:
        """A job of a caller as a driver of this service is to run it; see :mod:`.places`."""
        try:
            return admitted(
                job,
                workspace=self.place.location,
                settings=self.config.settings,
                roots=self._roots,
                uploads=self.uploads,
            )
        except InvalidInputError as error:
            raise type(error)(self.names.text(str(error))) from error

    def require_ready(self) -> None:
        """Refuse if nobody should be sent here now.

        Raises
        ------
        ServiceError
            The service is about to end.
        StoreUnreachableError
            Its database does not answer.
        """
        if self.is_stopping:
            raise ServiceError("the service is about to end; ask again in a moment")
        self.database.ping()

    async def start(self) -> None:
        """Begin to look after jobs."""
        self._looking_after.enter_context(self.supervisor.run_in_thread())
        self._sweeping = asyncio.create_task(self._sweep_now_and_then())

    async def stop(self) -> None:
        """Look after nothing any more; drivers go on, and the next service finds them."""
        self.is_stopping = True
        if self._sweeping is not None:
            self._sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeping
        await run_in_threadpool(self.close)

    def close(self) -> None:
        """Let everything go; nothing can be asked any more."""
        self._looking_after.close()
        self.models.close()
        self.database.close()

    async def _sweep_now_and_then(self) -> None:
        while True:
            try:
                count = await run_in_threadpool(self.uploads.sweep, datetime.now(UTC))
            except NTKDistError as error:  # the same again in an hour
                log.warning("old uploads are not removed: %s", error)
            else:
                if count:
                    log.info("removed %d uploads that nobody completed, or reads", count)
            await asyncio.sleep(SWEEP_S)


def launchers_of(place: AbstractPlace, settings: ServiceSettings) -> Mapping[str, AbstractLauncher]:
    """Who can run drivers for a service, by name."""
    folder = state_folder(place) / "drivers"
    launchers: dict[str, AbstractLauncher] = {"process": ProcessLauncher(folder)}
    if settings.ray_jobs_url is not None:
        from ntk_dist.jobs.ray_jobs import RayLauncher  # takes a second, and Ray

        launchers["ray"] = RayLauncher(settings.ray_jobs_url)
    return launchers


def _service_of(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


ServiceHere = Annotated[Service, Depends(_service_of)]
"""The service, as the argument of a route."""
