"""What a client does, written once for callers that block and for callers that await.

A *flow* is a generator. It yields what it wants done (send this, pause so long), receives what came
of it, and returns the result; it waits for nothing and opens nothing itself. A *driver* does what
is wanted: :class:`Blocking` on the caller's thread, :class:`Awaiting` on the caller's event loop.
A method that is decorated with :func:`flow` is an ordinary one where the driver blocks and a
coroutine where it awaits, for the reader, the type checker and :func:`help` alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from collections.abc import Iterable as Many
from dataclasses import dataclass, field
from functools import wraps
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeAlias, TypeVar, overload

from ntk_dist.errors import ServiceError

__all__ = [
    "Answer",
    "Awaiting",
    "Blocking",
    "Bound",
    "Done",
    "Driver",
    "Flow",
    "Item",
    "Listen",
    "NextChunk",
    "Pause",
    "Request",
    "Send",
    "Step",
    "StepResult",
    "Stream",
    "Together",
    "Unanswered",
    "Work",
    "flow",
    "proceed",
    "stream",
]

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One HTTP request, its path relative to the address of the service."""

    method: str
    path: str
    """Names in it are percent-encoded."""
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    is_repeatable: bool = True
    """Whether a second one does no harm if nobody knows what became of the first."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back, whatever its status."""

    status: int
    headers: Mapping[str, str]
    """To be asked for in lower case."""
    body: bytes = b""
    """Empty while it is still to be listened to."""


@dataclass(frozen=True, kw_only=True)
class Unanswered:
    """No answer came, or not all of it."""

    error: ServiceError
    was_sent: bool
    """Whether the service may have begun with it."""
    may_pass: bool = True
    """Whether asking again could go better."""


# Steps: what a flow wants done. The comment says what it receives.


@dataclass(frozen=True)
class Send:
    """One request, answered whole."""  # Answer | Unanswered

    request: Request


@dataclass(frozen=True)
class Listen:
    """One request whose answer comes bit by bit; ends the one before."""  # Answer | Unanswered

    request: Request


@dataclass(frozen=True)
class NextChunk:
    """Some bytes of what is listened to; None at its end."""  # bytes | None | Unanswered


@dataclass(frozen=True)
class Pause:
    """Some seconds of nothing."""  # None

    seconds: float


@dataclass(frozen=True)
class Work:
    """A function that reads files or computes for long."""  # what it returns

    function: Callable[[], Any]


@dataclass(frozen=True)
class Together:
    """Flows whose order does not matter; at most ``limit`` at a time."""  # list of their results

    flows: Many[Generator[Any, Any, Any]]
    limit: int


@dataclass(frozen=True)
class Item(Generic[T]):
    """A value for whoever iterates over the flow."""  # None

    value: T


Step: TypeAlias = Send | Listen | NextChunk | Pause | Work | Together
Flow: TypeAlias = Generator[Step, Any, T]
"""Returns a ``T``."""
Stream: TypeAlias = Generator[Step | Item[T], Any, None]
"""Hands out any number of ``T``."""


@dataclass(frozen=True)
class StepResult:
    """What came of a step."""

    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class Done:
    """The flow came to its end."""

    value: Any


def proceed(steps: Generator[Any, Any, Any], last: StepResult) -> Any:
    """The next step of a flow that is told what came of the last one, or :class:`Done`."""
    try:
        return steps.throw(last.error) if last.error else steps.send(last.value)
    except StopIteration as end:
        return Done(end.value)


class Blocking(ABC):
    """A driver on the thread of the caller; several threads may use one."""

    @abstractmethod
    def run(self, steps: Flow[T]) -> T:
        """The result of a flow."""

    @abstractmethod
    def iterate(self, steps: Stream[T]) -> Iterator[T]:
        """The values of a flow, each as soon as it is there."""


class Awaiting(ABC):
    """A driver on the asyncio loop of the caller."""

    @abstractmethod
    async def run(self, steps: Flow[T]) -> T:
        """The result of a flow."""

    @abstractmethod
    def iterate(self, steps: Stream[T]) -> AsyncIterator[T]:
        """The values of a flow, each as soon as it is there."""


Driver = TypeVar("Driver", bound=Blocking | Awaiting)


class Bound(Generic[Driver]):
    """Something whose flows are driven by ``driver``."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver


class _FlowMethod(Generic[P, T]):
    def __init__(self, function: Callable[Concatenate[Any, P], Flow[T]]) -> None:
        self._function = function

    @overload
    def __get__(self, one: Bound[Blocking], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, one: Bound[Awaiting], owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, one: None, owner: type) -> Callable[Concatenate[Any, P], Flow[T]]: ...
    def __get__(self, one: Any, owner: type) -> Any:
        if one is None:
            return self._function

        @wraps(MethodType(self._function, one))
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return one._driver.run(self._function(one, *args, **kwargs))

        return method


class _StreamMethod(Generic[P, T]):
    def __init__(self, function: Callable[Concatenate[Any, P], Stream[T]]) -> None:
        self._function = function

    @overload
    def __get__(self, one: Bound[Blocking], owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, one: Bound[Awaiting], owner: type) -> Callable[P, AsyncIterator[T]]: ...
    @overload
    def __get__(self, one: None, owner: type) -> Callable[Concatenate[Any, P], Stream[T]]: ...
    def __get__(self, one: Any, owner: type) -> Any:
        if one is None:
            return self._function

        @wraps(MethodType(self._function, one))
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return one._driver.iterate(self._function(one, *args, **kwargs))

        return method


def flow(function: Callable[Concatenate[Any, P], Flow[T]]) -> _FlowMethod[P, T]:
    """A method that returns what its flow returns, or a coroutine that does."""
    return _FlowMethod(function)


def stream(function: Callable[Concatenate[Any, P], Stream[T]]) -> _StreamMethod[P, T]:
    """A method that returns an iterator over the items of its flow, or an asynchronous one."""
    return _StreamMethod(function)
