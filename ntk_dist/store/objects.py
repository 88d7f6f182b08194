"""A place that is a prefix in a bucket of object storage, spoken to in the S3 protocol.

One file is one object, and one object is one PUT: it is there whole or not at all. Versions of a
model are claimed by conditional PUTs (``If-None-Match: *``), because nothing can be renamed::

    MODELS/NAME/.3.draft        claimed by a writer, who may still be at work; removed only when
                                that writer failed and all that it wrote is gone
    MODELS/NAME/.3.published    everything below MODELS/NAME/3 is there
"""

from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from ntk_dist.errors import InvalidInputError, StoreUnreachableError
from ntk_dist.store.bucket import Bucket
from ntk_dist.store.place import ORPHAN_AGE_S, AbstractPlace, Draft, numbers_in
from ntk_dist.store.zarr_objects import ZarrObjects

__all__ = ["Objects"]

_LOCATION = re.compile(r"s3://([a-z0-9][a-z0-9.-]+)(?:/(.*))?", re.DOTALL)
_CLAIM = re.compile(r"\.([1-9][0-9]*)\.(draft|published)")


class Objects(AbstractPlace):
    """``s3://BUCKET/PREFIX``.

    Raises
    ------
    InvalidInputError
        The text is no such address.
    """

    folder = None

    def __init__(self, location: str) -> None:
        match = _LOCATION.fullmatch(location.rstrip("/"))
        parts = match[2].split("/") if match and match[2] else []
        if match is None or {"", ".", ".."} & set(parts) or "\0" in location:
            # Not quoted: people write credentials into addresses.
            raise InvalidInputError(
                "expected an address of object storage as s3://BUCKET/PREFIX, with nothing else "
                "before the bucket and no empty name, '.' or '..' in the prefix, got another one"
            )
        self._bucket, self._key = Bucket(match[1]), "/".join(parts)
        self.location = self._bucket.address(self._key)

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self.location}/{name}")

    def make(self) -> None:
        """Put an object here for a moment; a prefix needs no making."""
        probe = self / f".{uuid.uuid4().hex}.probe"
        probe.write_bytes(b"")
        probe.delete()

    def names(self) -> tuple[str, ...]:
        """Objects and prefixes directly here."""
        return self._bucket.names(self._key)

    def is_file(self) -> bool:
        """Whether there is an object of exactly this name."""
        return bool(self._key) and self._bucket.has(self._key)

    def is_folder(self) -> bool:
        """Whether some object is below this prefix."""
        return self._bucket.has_below(self._key)

    def read_bytes(self) -> bytes:
        """The whole object."""
        return self._bucket.read(self._key)

    def write_bytes(self, content: bytes) -> None:
        """Put an object."""
        self._bucket.write(self._key, content)

    def write_pieces(self, pieces: Iterable[bytes], n_bytes: int) -> None:
        """Put an object, sent in parts."""
        self._bucket.write_pieces(self._key, pieces, n_bytes)

    def delete(self) -> None:
        """Delete the object, and all below the prefix."""
        self._bucket.delete(self._key)

    def zarr_store(self, *, create: bool = False) -> ZarrObjects:
        """The prefix as a Zarr store; whether anything is there shows when it is read."""
        return ZarrObjects(self._bucket, self._key)

    @contextmanager
    def local_copy(self) -> Iterator[Path]:
        """The object, or all below the prefix, in a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="ntk_dist-") as folder:
            copy = Path(folder, self.name or self._bucket.name)
            if self.is_file():
                self._bucket.fetch(self._key, copy)
            else:
                for key in self._bucket.keys(self._key):
                    self._bucket.fetch(key, copy / key.removeprefix(self._key).lstrip("/"))
                if not copy.exists():
                    raise FileNotFoundError(f"there is nothing at {self}")
            yield copy

    def free_bytes(self) -> None:
        """None: buckets do not say."""
        return

    def sweep_orphans(self, older_than_s: float = ORPHAN_AGE_S) -> None:
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
            # The claim goes last: until then nobody else writes where this is being removed. The
            # publication goes first: it may have arrived although its answer was lost.
            with suppress(StoreUnreachableError):
                (self / f".{number}.published").delete()
                draft.place.delete()
                (self / f".{number}.draft").delete()
            raise
        draft.version, draft.published = number, draft.place

    def _claim(self) -> int:
        mine = uuid.uuid4().hex.encode()
        while True:
            number = self.next_version()
            claim = self / f".{number}.draft"
            if self._bucket.create(claim._key, mine):
                return number
            # One that was there is another writer's, who came since we looked, and may have failed
            # and gone by now; or ours, and the answer was lost.
            with suppress(FileNotFoundError):
                if claim.read_bytes() == mine:
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
            final = (draft / last)._key
            for key in sorted(self._bucket.keys(draft._key), key=lambda key: key == final):
                self._bucket.copy(key, self._key + key.removeprefix(draft._key))
        except StoreUnreachableError as error:
            raise StoreUnreachableError(
                f"{error}; the new model is whole at {draft}: copy it from there"
            ) from error
        draft.delete()


def _claims(names: tuple[str, ...], kind: str) -> set[int]:
    matches = (_CLAIM.fullmatch(name) for name in names)
    return {int(match[1]) for match in matches if match and match[2] == kind}
