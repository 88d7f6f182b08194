"""Requests to a bucket of object storage in the S3 protocol, and its refusals in our words.

Where the storage is and who is asking is said by the environment alone, in the variables that every
S3 client knows; nothing of it is kept in an object of this module, in a pickle or in a message.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, wraps
from itertools import chain
from pathlib import Path
from typing import ParamSpec, TypeAlias, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from ntk_dist.errors import StoreFullError, StoreUnreachableError
from ntk_dist.settings import get_settings

__all__ = ["PAUSES_S", "AnswerCutError", "Bucket", "Client"]

Client: TypeAlias = S3Store
Content: TypeAlias = bytes | bytearray | memoryview
PAUSES_S = (0.1, 0.4, 1.6)
"""Before asking again for an answer that broke off: of those the library asks for no more."""

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
_PART_BYTES, _MOST_PARTS = 8 * 2**20, 10_000
"""Of what is sent in parts, at least and at most; four are on their way at a time."""

P = ParamSpec("P")
T = TypeVar("T")


class AnswerCutError(StoreUnreachableError):
    """An answer began and broke off."""


def _asked_again(ask: Callable[P, T]) -> Callable[P, T]:
    """The same, asked again when the answer breaks off; for what may be done twice."""

    @wraps(ask)
    def patiently(*args: P.args, **kwargs: P.kwargs) -> T:
        for pause_s in PAUSES_S:
            with suppress(AnswerCutError):
                return ask(*args, **kwargs)
            time.sleep(pause_s)
        return ask(*args, **kwargs)

    return patiently


@dataclass(frozen=True)
class Bucket:
    """Objects by their keys. Below a key ``K`` are those that begin with ``K/``, or all for none.

    Every request may raise ``StoreUnreachableError``, and one that writes ``StoreFullError``.
    """

    name: str

    def address(self, key: str) -> str:
        """What people call an object, or all below the key."""
        return f"s3://{self.name}/{key}" if key else f"s3://{self.name}"

    @property
    def client(self) -> Client:
        """What speaks to the storage: one for each bucket and environment, made in 50 ms."""
        if not any(os.environ.get(name) for name in _CREDENTIALS):
            raise StoreUnreachableError(
                f"expected credentials for {self.address('')} in the environment, got none: set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_SKIP_SIGNATURE=true for a "
                "public bucket), and AWS_ENDPOINT_URL where it is not Amazon's"
            )
        return _client_of(self.name, _environment_mark(), get_settings().store_retry_s)

    @contextmanager
    def answers(self, key: str) -> Iterator[Client]:
        """The client; what the storage refuses in the body is raised as an error of this package.

        The library's own errors end here: they quote what the server sent, which may quote what it
        was sent.

        Raises
        ------
        FileNotFoundError
            There is no such object.
        StoreFullError, StoreUnreachableError
            Any other refusal, and a bucket that is not there.
        """
        client, place = self.client, self.address(key)
        try:
            yield client
        except FileNotFoundError as error:
            # The library takes a bucket that is missing for an object that is.
            if "<Code>NoSuchBucket<" in str(error):
                raise _no_bucket(place) from None
            raise FileNotFoundError(f"there is nothing at {place}") from None
        except BaseError as error:
            raise _in_words(error, place) from None

    @_asked_again
    def names(self, key: str) -> tuple[str, ...]:
        """What follows directly after ``key/``, of objects and of what has some below, sorted."""
        with self.answers(key) as client:
            listed = obstore.list_with_delimiter(client, key)
        paths = [*listed["common_prefixes"], *(item["path"] for item in listed["objects"])]
        names = {path.removeprefix(key).strip("/") for path in paths}
        return tuple(sorted(names - {""}))

    @_asked_again
    def keys(self, key: str) -> list[str]:
        """The keys of all objects below ``key``."""
        with self.answers(key) as client:
            listed = chain.from_iterable(obstore.list(client, key))
            return [item["path"] for item in listed]

    @_asked_again
    def has_below(self, key: str) -> bool:
        """Whether some object is below ``key``."""
        with self.answers(key) as client:
            return any(obstore.list(client, key, chunk_size=1))

    def has(self, key: str) -> bool:
        """Whether there is an object of exactly this key."""
        try:
            with self.answers(key) as client:
                obstore.head(client, key)
        except FileNotFoundError:
            return False
        return True

    @_asked_again
    def read(self, key: str) -> bytes:
        """The whole object, or FileNotFoundError."""
        with self.answers(key) as client:
            return bytes(obstore.get(client, key).bytes())

    @_asked_again
    def fetch(self, key: str, target: Path) -> None:
        """The whole object into a file of this machine, whose folders are made."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.answers(key) as client, target.open("wb") as file:
            for part in obstore.get(client, key).stream():
                file.write(part)

    def write(self, key: str, content: Content) -> None:
        """Put an object in the place of any that was there."""
        with self.answers(key) as client:
            obstore.put(client, key, content, use_multipart=_in_parts(content))

    def write_pieces(self, key: str, pieces: Iterable[bytes], n_bytes: int) -> None:
        """Put an object of ``n_bytes`` that comes piece by piece; it appears with the last one.

        If the pieces end in an error, what was sent of them is no object: it is for a rule of the
        bucket, about multipart uploads that were not completed, to remove.
        """
        part_bytes = max(_PART_BYTES, -(-n_bytes // _MOST_PARTS))
        with self.answers(key) as client:
            writer = obstore.open_writer(client, key, buffer_size=part_bytes, max_concurrency=4)
            for piece in pieces:
                writer.write(piece)
            writer.close()  # not by a with statement, which does so after an error as well

    async def write_async(self, key: str, content: Content) -> None:
        """The same, while others go on."""
        with self.answers(key) as client:
            await obstore.put_async(client, key, content, use_multipart=_in_parts(content))

    def create(self, key: str, content: bytes) -> bool:
        """Put an object where there is none; whether there was none."""
        with self.answers(key) as client:
            try:
                obstore.put(client, key, content, mode="create")
            except AlreadyExistsError:
                return False
        return True

    @_asked_again
    def copy(self, source: str, target: str) -> None:
        """Have the storage copy one object."""
        with self.answers(target) as client:
            obstore.copy(client, source, target)

    @_asked_again
    def delete(self, key: str) -> None:
        """Delete the object, and all below the key; absent is fine."""
        keys = [*self.keys(key), *filter(None, [key])]  # the listing is of what is below
        with self.answers(key) as client:
            obstore.delete(client, keys)


def _in_parts(content: Content) -> bool:
    return memoryview(content).nbytes > _ONE_PUT_BYTES


def _environment_mark() -> int:
    """Changes with every variable that a client is made of, and tells none of them."""
    return hash(tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))


@lru_cache(maxsize=16)
def _client_of(bucket: str, environment: int, retry_s: float) -> Client:
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


def _no_bucket(place: str) -> StoreUnreachableError:
    return StoreUnreachableError(
        f"expected a bucket for {place}, got NoSuchBucket; create it, or check its name and "
        "AWS_ENDPOINT_URL"
    )


def _in_words(error: BaseError, place: str) -> StoreFullError | StoreUnreachableError:
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
    kind = AnswerCutError if "body error" in reason else StoreUnreachableError
    return kind(
        f"expected {place} to answer, got: {reason}; check AWS_ENDPOINT_URL, AWS_REGION and the "
        "network; what was finished before is kept: run the same again to go on"
    )
