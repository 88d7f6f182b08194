"""What Zarr asks of all below a key in a bucket; what goes wrong is said in our words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Self

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from ntk_dist.store.bucket import PAUSES_S, AnswerCutError, Bucket, Client

__all__ = ["ZarrObjects"]


class ZarrObjects(ObjectStore[Client]):
    """The objects below ``root`` as a Zarr store; whether there are any shows when one is read.

    All stores in a bucket share its client.
    """

    def __init__(self, bucket: Bucket, root: str, read_only: bool = False) -> None:
        super().__init__(bucket.client, read_only=read_only)
        self._bucket, self._root = bucket, root

    def with_read_only(self, read_only: bool = False) -> Self:
        """The same objects, to read only or not."""
        return type(self)(self._bucket, self._root, read_only)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZarrObjects) and str(self) == str(other)

    def __str__(self) -> str:
        return self._bucket.address(self._root)

    def __reduce__(self) -> tuple[Any, tuple[Bucket, str, bool]]:
        return type(self), (self._bucket, self._root, self.read_only)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """An object, or part of it; None where there is none."""
        below = self._below(key)
        for pause_s in PAUSES_S:
            with suppress(AnswerCutError), self._bucket.answers(below):
                return await super().get(below, prototype, byte_range)
            await asyncio.sleep(pause_s)
        with self._bucket.answers(below):
            return await super().get(below, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        below = self._below(key)
        with self._bucket.answers(below):
            return await super().exists(below)

    async def set(self, key: str, value: Buffer) -> None:
        """Put an object in the place of any that was there."""
        self._check_writable()
        await self._bucket.write_async(self._below(key), value.as_buffer_like())

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Put an object unless there is one."""
        below = self._below(key)
        with self._bucket.answers(below):
            await super().set_if_not_exists(below, value)

    async def delete(self, key: str) -> None:
        """Delete an object; absent is fine."""
        below = self._below(key)
        with self._bucket.answers(below):
            await super().delete(below)

    async def delete_dir(self, prefix: str) -> None:
        """Delete all below a prefix."""
        self._check_writable()
        await asyncio.to_thread(self._bucket.delete, self._below(prefix))

    async def list(self) -> AsyncGenerator[str, None]:
        """All keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncGenerator[str, None]:
        """All keys below a prefix."""
        start = f"{self._root}/" if self._root else ""
        for key in await asyncio.to_thread(self._bucket.keys, self._below(prefix)):
            yield key.removeprefix(start)

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        """What stands directly below a prefix."""
        for name in await asyncio.to_thread(self._bucket.names, self._below(prefix)):
            yield name

    def _below(self, key: str) -> str:
        return "/".join(filter(None, (self._root, key.rstrip("/"))))
