"""A place that is a prefix in a bucket of object storage, spoken to in the S3 protocol.

One file is one object, and one object is one PUT: it is there whole or not at all. Versions of a
model are claimed by conditional PUTs (``If-None-Match: *``), because nothing can be renamed::

    MODELS/NAME/.3.draft        claimed by a writer, who may still be at work; never removed, so
                                that no number is given twice
    MODELS/NAME/.3.published    everything below MODELS/NAME/3 is there

Where the storage is and who is asking is said by the environment alone, in the variables that every
S3 client knows; nothing of it is kept in an object of this module, in a pickle or in a message.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache, wraps
from itertools import chain
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from ntk_dist.errors import StoreFullError, StoreUnreachableError
from ntk_dist.settings import get_settings
from ntk_dist.store.place import AbstractPlace, Draft, numbers_in

__all__ = ["Objects"]

_LOCATION = re.compile(r"s3://([a-z0-9][a-z0-9.-]+)(?:/(.*))?", re.DOTALL)
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
"""One of these is set where there is a way to ask; else the client would try a network address that
only some machines have, and say nothing for a minute."""

_CODE = re.compile(r"<Code>(\w+)</Code>")
_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"}
_ONE_PUT_BYTES = 5 * 2**30
"""What the protocol takes in one PUT; more is sent in parts, and appears with the last of them."""
_CLAIM = re.compile(r"\.([1-9][0-9]*)\.(draft|published)")


_PAUSES_S = (0.1, 0.4, 1.6)
"""Before asking again for an answer that broke off: of those the library asks for no more."""

P = ParamSpec("P")
T = TypeVar("T")


class _AnswerCutError(StoreUnreachableError):
    """An answer began and broke off."""


def _asked_again(ask: Callable[P, T]) -> Callable[P, T]:
    """The same, asked again when the answer breaks off; for what may be done twice."""

    @wraps(ask)
    def patiently(*args: P.args, **kwargs: P.kwargs) -> T:
        for pause_s in _PAUSES_S:
            with suppress(_AnswerCutError):
                return ask(*args, **kwargs)
            time.sleep(pause_s)
        return ask(*args, **kwargs)

    return patiently


class Objects(AbstractPlace):
    """``s3://BUCKET/PREFIX``.

    Raises
    ------
    StoreUnreachableError
        The text is none, or the environment names no credentials.
    """

    folder = None

    def __init__(self, location: str) -> None:
        match = _LOCATION.fullmatch(location.rstrip("/"))
        parts = match[2].split("/") if match and match[2] else []
        if match is None or {"", ".", ".."} & set(parts) or "\0" in location:
            # Not quoted: people write credentials into addresses.
            raise StoreUnreachableError(
                "expected an address of object storage as s3://BUCKET/PREFIX, with nothing else "
                "before the bucket and no empty name, '.' or '..' in the prefix, got another one"
            )
        self._bucket, self._key = match[1], "/".join(parts)
        self.location = "/".join((f"s3://{self._bucket}", *parts))

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self.location}/{name}")

    def make(self) -> None:
        """Put an object here for a moment; a prefix needs no making."""
        probe = self / f".{uuid.uuid4().hex}.probe"
        probe.write_bytes(b"")
        probe.delete()

    @_asked_again
    def names(self) -> tuple[str, ...]:
        """Objects and prefixes directly here."""
        with _answers(self):
            listed = obstore.list_with_delimiter(self._client(), self._key)
        paths = [*listed["common_prefixes"], *(item["path"] for item in listed["objects"])]
        names = {path.removeprefix(self._key).strip("/") for path in paths}
        return tuple(sorted(names - {""}))

    def is_file(self) -> bool:
        """Whether there is an object of exactly this name."""
        if not self._key:
            return False
        with _answers(self):
            try:
                obstore.head(self._client(), self._key)
            except FileNotFoundError as error:
                _refuse_no_bucket(error, self)
                return False
        return True

    @_asked_again
    def is_folder(self) -> bool:
        """Whether some object is below this prefix."""
        with _answers(self):
            return any(obstore.list(self._client(), self._key, chunk_size=1))

    @_asked_again
    def read_bytes(self) -> bytes:
        """The whole object."""
        with _answers(self):
            return bytes(obstore.get(self._client(), self._key).bytes())

    def write_bytes(self, content: bytes) -> None:
        """Put an object."""
        with _answers(self):
            obstore.put(self._client(), self._key, content, use_multipart=False)

    @_asked_again
    def delete(self) -> None:
        """Delete the object, and all below the prefix."""
        keys = [*self._keys(), *filter(None, [self._key])]  # the listing is of what is below
        with _answers(self):
            obstore.delete(self._client(), keys)

    def zarr_store(self, *, create: bool = False) -> _ZarrObjects:
        """The prefix as a Zarr store; whether anything is there shows when it is read."""
        return _ZarrObjects(self._client(), self)

    @contextmanager
    def local_copy(self) -> Iterator[Path]:
        """The object, or all below the prefix, in a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="ntk_dist-") as folder:
            copy = Path(folder, self.name or self._bucket)
            if self.is_file():
                self._fetch(self._key, copy)
            else:
                for key in self._keys():
                    self._fetch(key, copy / key.removeprefix(self._key).lstrip("/"))
                if not copy.exists():
                    raise FileNotFoundError(f"there is nothing at {self}")
            yield copy

    @_asked_again
    def _keys(self) -> list[str]:
        with _answers(self):
            listed = chain.from_iterable(obstore.list(self._client(), self._key))
            return [item["path"] for item in listed]

    @_asked_again
    def _fetch(self, key: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _answers(self), target.open("wb") as file:
            for part in obstore.get(self._client(), key).stream():
                file.write(part)

    def free_bytes(self) -> None:
        """None: buckets do not say."""
        return

    def sweep_orphans(self, older_than_s: float) -> None:
        """Nothing: an object whose PUT was cut off is not there."""

    def versions(self) -> tuple[int, ...]:
        """Numbered prefixes here, without those that are still being written."""
        names = self.names()
        drafts, published = _claims(names, "draft"), _claims(names, "published")
        return tuple(n for n in numbers_in(names) if n in published or n not in drafts)

    def next_version(self) -> int:
        """The number after the last, published or only claimed."""
        names = self.names()
        return max({*numbers_in(names), *_claims(names, "draft")}, default=0) + 1

    @contextmanager
    def new_version(self) -> Iterator[Draft]:
        """The next number, claimed now, and said to be published at the end."""
        number = self._claim()
        draft = Draft(self / str(number))
        try:
            yield draft
            (self / f".{number}.published").write_bytes(b"")
        except BaseException:
            # The claim goes last: until then nobody else writes where this is being removed.
            with suppress(StoreUnreachableError):
                draft.folder.delete()
                (self / f".{number}.draft").delete()
            raise
        draft.version, draft.published = number, draft.folder

    def _claim(self) -> int:
        mine = uuid.uuid4().hex.encode()
        while True:
            number = self.next_version()
            claim = self / f".{number}.draft"
            with _answers(self):
                try:
                    obstore.put(self._client(), claim._key, mine, mode="create")
                except AlreadyExistsError:
                    # By another writer since we looked; or by us, and the answer was lost.
                    if claim.read_bytes() != mine:
                        continue
            return number

    @contextmanager
    def replacing(self, last: str) -> Iterator[Self]:
        """A hidden prefix beside this one, copied to its place by the storage itself.

        Nothing can be renamed, so a process that is killed while it copies leaves no model here;
        the new one is whole in the hidden prefix then.
        """
        parent = self.location.rpartition("/")[0]
        draft = type(self)(f"{parent}/.{self.name}.{uuid.uuid4().hex}")
        try:
            yield draft
        except BaseException:
            with suppress(StoreUnreachableError):
                draft.delete()
            raise
        try:
            (self / last).delete()
            self.delete()
            self._copy_from(draft, last)
        except StoreUnreachableError as error:
            raise StoreUnreachableError(
                f"{error}; the new model is whole at {draft}: copy it from there"
            ) from error
        draft.delete()

    @_asked_again
    def _copy_from(self, draft: Self, last: str) -> None:
        client, final = self._client(), (draft / last)._key
        for key in sorted(draft._keys(), key=lambda k: k == final):
            with _answers(self):
                obstore.copy(client, key, self._key + key.removeprefix(draft._key))

    def _client(self) -> S3Store:
        if not any(os.environ.get(name) for name in _CREDENTIALS):
            raise StoreUnreachableError(
                f"expected credentials for {self} in the environment, got none: set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_SKIP_SIGNATURE=true for a "
                "public bucket), and AWS_ENDPOINT_URL where it is not Amazon's"
            )
        return _client_of(self._bucket, _environment_mark(), get_settings().store_retry_s)


class _ZarrObjects(ObjectStore[S3Store]):
    """What Zarr asks of a prefix; what goes wrong is said in our words.

    All prefixes of a bucket share one client: making one takes 50 ms.
    """

    def __init__(self, store: S3Store, place: Objects, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._place = place
        self._prefix = f"{place._key}/" if place._key else ""

    def with_read_only(self, read_only: bool = False) -> Self:
        return type(self)(self.store, self._place, read_only=read_only)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ZarrObjects) and self._place == other._place

    def __str__(self) -> str:
        return self._place.location

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return _open_store, (self._place.location,)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        for pause_s in _PAUSES_S:
            with suppress(_AnswerCutError), _answers(self._place):
                return await super().get(self._prefix + key, prototype, byte_range)
            await asyncio.sleep(pause_s)
        with _answers(self._place):
            return await super().get(self._prefix + key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        with _answers(self._place):
            return await super().exists(self._prefix + key)

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        content = value.as_buffer_like()
        with _answers(self._place):
            await obstore.put_async(
                self.store,
                self._prefix + key,
                content,
                use_multipart=memoryview(content).nbytes > _ONE_PUT_BYTES,
            )

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        with _answers(self._place):
            await super().set_if_not_exists(self._prefix + key, value)

    async def delete(self, key: str) -> None:
        with _answers(self._place):
            await super().delete(self._prefix + key)

    async def delete_dir(self, prefix: str) -> None:
        self._check_writable()
        await asyncio.to_thread(self._below(prefix).delete)

    async def list(self) -> AsyncGenerator[str, None]:
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncGenerator[str, None]:
        for key in await asyncio.to_thread(self._below(prefix)._keys):
            yield key.removeprefix(self._prefix)

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        for name in await asyncio.to_thread(self._below(prefix).names):
            yield name

    def _below(self, prefix: str) -> Objects:
        return self._place / prefix.rstrip("/") if prefix else self._place


def _open_store(location: str) -> _ZarrObjects:
    return Objects(location).zarr_store()


def _environment_mark() -> int:
    """Changes with every variable that a client is made of, and tells none of them."""
    return hash(tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))


@lru_cache(maxsize=16)
def _client_of(bucket: str, environment: int, retry_s: float) -> S3Store:
    """The client for a bucket; it reads the environment itself."""
    return S3Store(
        bucket,
        client_options={
            "allow_http": True,  # an endpoint that says http:// means it
            # Of one whole request: a block of 64 MiB takes a minute on a slow line.
            "timeout": timedelta(minutes=10),
        },
        retry_config={
            "max_retries": 1000,  # time is what counts
            "retry_timeout": timedelta(seconds=retry_s),
            "backoff": {"max_backoff": timedelta(seconds=min(5.0, retry_s))},
        },
    )


def _claims(names: tuple[str, ...], kind: str) -> set[int]:
    matches = (_CLAIM.fullmatch(name) for name in names)
    return {int(match[1]) for match in matches if match and match[2] == kind}


@contextmanager
def _answers(place: Objects) -> Iterator[None]:
    """Raise what the storage refuses in the body as an error of this package.

    The library's own errors end here: they quote what the server sent, which may quote what it was
    sent.
    """
    try:
        yield
    except FileNotFoundError as error:
        _refuse_no_bucket(error, place)
        raise FileNotFoundError(f"there is nothing at {place}") from None
    except BaseError as error:
        raise _in_words(error, place) from None


def _refuse_no_bucket(error: FileNotFoundError, place: Objects) -> None:
    # The library takes a bucket that is missing for an object that is.
    if "<Code>NoSuchBucket<" in str(error):
        raise _no_bucket(place) from None


def _no_bucket(place: Objects) -> StoreUnreachableError:
    return StoreUnreachableError(
        f"expected a bucket for {place}, got NoSuchBucket; create it, or check its name and "
        "AWS_ENDPOINT_URL"
    )


def _in_words(error: BaseError, place: Objects) -> StoreFullError | StoreUnreachableError:
    text = str(error)
    found = _CODE.search(text)
    code = found[1] if found else ""
    if code == "NoSuchBucket":
        return _no_bucket(place)
    if code in _FULL:
        return StoreFullError(
            f"no space is left for {place} ({code}); what was finished before is kept: "
            "free some space and run the same again"
        )
    if code in _DENIED or isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return StoreUnreachableError(
            f"access to {place} is denied ({code or type(error).__name__}); check "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do in this bucket"
        )
    line = text.partition("\n")[0].rpartition(" - ")[2]
    reason = line.partition(": <")[0] + (f" ({code})" if code else "")
    kind = _AnswerCutError if "body error" in reason else StoreUnreachableError
    return kind(
        f"expected {place} to answer, got: {reason}; check AWS_ENDPOINT_URL, AWS_REGION and the "
        "network; what was finished before is kept: run the same again to go on"
    )
