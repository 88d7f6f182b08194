"""Names of headers and media types, and the records that travel as JSON objects."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ntk_dist.errors import RequestError

__all__ = [
    "ARROW",
    "CONTENT_SHA256",
    "IDEMPOTENCY_KEY",
    "IDEMPOTENT_REPLAY",
    "JSON",
    "KEY_PATTERN",
    "LAST_EVENT_ID",
    "MODEL_VERSION",
    "NEXT_START",
    "NPY",
    "REQUEST_ID",
    "SCOPES",
    "Blocks",
    "Failure",
    "Job",
    "JobPage",
    "JobState",
    "Model",
    "ModelList",
    "Progress",
    "Scope",
    "Upload",
    "Version",
    "of_json",
    "to_json",
]

JSON = "application/json"
NPY = "application/x-npy"
ARROW = "application/vnd.apache.arrow.stream"
REQUEST_ID = "X-Request-Id"
IDEMPOTENCY_KEY = "Idempotency-Key"
KEY_PATTERN = "[\x21-\x7e]{1,200}"
"""What an idempotency key is: visible ASCII characters."""
IDEMPOTENT_REPLAY = "Idempotent-Replay"
MODEL_VERSION = "X-Model-Version"
CONTENT_SHA256 = "X-Content-Sha256"
NEXT_START = "X-Next-Start"
LAST_EVENT_ID = "Last-Event-ID"

Scope = Literal["read", "predict", "submit", "admin"]
"""What a token may do; ``admin`` includes the others, each of the others only itself."""
SCOPES: tuple[Scope, ...] = get_args(Scope)


class JobState(StrEnum):
    """Where a job is; :mod:`ntk_dist.jobs.lifecycle` says how it comes from one to another."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens unless somebody asks for it."""
        return self not in {JobState.QUEUED, JobState.RUNNING}

    @property
    def is_resumable(self) -> bool:
        """Whether it can be queued again, to go on from what it left in the workspace."""
        return self in {JobState.FAILED, JobState.CANCELLED, JobState.LOST}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why something came to nothing."""

    code: str
    """That of the class in :mod:`ntk_dist.errors`."""
    message: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the driver of a job has come, by what it wrote down last."""

    phase: str
    label: str
    """The phase in words."""
    note: str
    """The numbers of the phase in words."""
    done: int = 0
    """Tasks of the phase that are done."""
    total: int | None = None
    step: int | None = None
    """Of the solver."""
    residual: float | None = None
    """The largest true relative residual of all targets."""
    tol: float | None = None
    fraction: float | None = None
    """Of the phase, 0 to 1, where its length is known."""
    rate: float | None = None
    """Tasks or steps a second, lately."""
    eta_s: float | None = None
    """Seconds that are left of the phase."""
    driver_bytes: int | None = None
    resident_bytes: int = 0
    """Blocks that workers keep in memory."""
    retries: int = 0
    lost: int = 0
    duplicates: int = 0
    failures: int = 0
    repairs: int = 0
    """Stored blocks that were found damaged and computed again."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of the phases that are finished."""
    updated: datetime | None = None
    """When the driver was heard of last."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job as a caller sees it."""

    id: str
    name: str
    """The model is published under it."""
    state: JobState
    attempt: int
    """How often a driver was started for it."""
    created: datetime
    updated: datetime
    started: datetime | None = None
    finished: datetime | None = None
    launcher: str
    """Who runs its driver: ``process`` or ``ray``."""
    executor: str
    """Who runs its tasks."""
    warnings: tuple[str, ...] = ()
    """What its caller may not have meant, in words."""
    is_cancelling: bool = False
    """Somebody asked for its end, and it has not come yet."""
    is_resumable: bool = False
    progress: Progress | None = None
    failure: Failure | None = None
    model_version: int | None = None
    """Of the model ``name`` that it left behind."""
    score: float | None = None
    """Accuracy or R^2 on the job's test data, if it names any."""
    report: dict[str, Any] | None = None
    """That of the fit, as plain types."""
    spec: dict[str, Any] = field(default_factory=dict)
    """The job file."""


@dataclass(frozen=True, kw_only=True)
class JobPage:
    """Some jobs, the newest first."""

    items: tuple[Job, ...]
    next: str | None = None
    """What to ask for as ``after`` to see older ones."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """One version of a published model."""

    name: str
    version: int
    versions: tuple[int, ...]
    """All that there are, ascending."""
    task: Literal["classification", "regression"]
    kernel: Literal["ntk", "nngp"]
    architecture: list[Any]
    """As the JSON of :meth:`stax.Network.to_json`."""
    row_shape: tuple[int, ...]
    """Shape of one input."""
    input_range: tuple[float, float] | None = None
    """Smallest and largest number in the training inputs, where the model knows."""
    n_rows: int
    """Distinct training inputs."""
    n_targets: int
    dtype: Literal["float32", "float64"]
    """Of inputs and predictions."""
    classes: tuple[str | float, ...] | None = None
    """Of a classifier, in the order of its scores."""
    n_bytes: int
    """Memory it takes to answer with it."""
    is_loaded: bool = False
    report: dict[str, Any] = field(default_factory=dict)
    """That of the fit, as plain types."""


@dataclass(frozen=True, kw_only=True)
class ModelList:
    """The latest version of every model, by name."""

    items: tuple[Model, ...]


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Which blocks of a symmetric Gram matrix are stored."""

    n_rows: int
    """Of the matrix."""
    block_rows: int
    side: int
    """Blocks across, the upper triangle of which there is."""
    n_blocks: int
    n_stored: int
    packed: str
    """One bit a block, the lowest of a byte first, in base64: the first row of blocks, then the
    second from the diagonal on, and so on."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A data file on its way into the workspace, in numbered parts; jobs read it as ``place``."""

    id: str
    filename: str
    n_bytes: int
    """Of the whole file, as announced."""
    sha256: str
    """Of the whole file, as announced."""
    part_bytes: int
    """Of every part but the last."""
    received: tuple[int, ...]
    """Parts that have arrived whole, from 0."""
    is_complete: bool
    place: str
    """``upload://ID``, for the ``data`` of a job, with ``:array`` behind it for one of an .npz."""
    created: datetime


@dataclass(frozen=True, kw_only=True)
class Version:
    """Which service answers."""

    name: str
    version: str
    api: str = "v1"


Record = TypeVar("Record")


def to_json(record: object) -> Any:
    """JSON types of a record; JSON has no word for a number that is not finite, null it is."""
    if is_dataclass(record) and not isinstance(record, type):
        return {key: to_json(value) for key, value in asdict(record).items()}
    if isinstance(record, datetime):
        return record.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(record, Mapping):
        return {str(key): to_json(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [to_json(value) for value in record]
    return None if isinstance(record, float) and not math.isfinite(record) else record


def of_json(kind: type[Record], found: object) -> Record:
    """The record that :func:`to_json` turned into ``found``.

    Keys that the record does not have are passed over. A word that is none of those a key may have,
    such as another state or task, is not: nobody here would know what to do with it.

    Raises
    ------
    RequestError
        It is no such record.
    """
    try:
        value: Record = _of_json(kind, found)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise RequestError(f"expected a {kind.__name__}, got {error}") from error
    return value


def _of_json(kind: Any, found: Any) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return found
    if origin is Literal:
        if found not in get_args(kind):
            raise ValueError(f"{found!r} in place of {' or '.join(get_args(kind))}")
        return found
    if origin in {Union, types.UnionType}:
        arms = [arm for arm in get_args(kind) if arm is not type(None)]
        return None if found is None else _of_json(arms[0], found) if len(arms) == 1 else found
    if origin is tuple:
        return tuple(_of_json(get_args(kind)[0], value) for value in found)
    if origin in {list, dict}:
        return origin(found)
    if isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(found, Mapping):
            raise TypeError(f"{type(found).__name__} in place of {kind.__name__}")
        hints = _hints(kind)
        return kind(**{name: _of_json(hints[name], found[name]) for name in hints if name in found})
    if kind is datetime:
        return datetime.fromisoformat(found)
    plain = {int, float} if kind is float else {kind}  # bool("false") would be true
    if kind in {bool, int, float, str} and type(found) not in plain:
        raise TypeError(f"{type(found).__name__} in place of {kind.__name__}")
    return kind(found)


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}
