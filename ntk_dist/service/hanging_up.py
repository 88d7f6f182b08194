"""Callers who hang up before they have their answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

__all__ = ["unless_gone"]

T = TypeVar("T")


async def unless_gone(request: Request, coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives; it is cancelled when the caller of ``request`` hangs up.

    Parameters
    ----------
    request
        Its body was read to the end.
    coroutine
        What the caller waits for.

    Raises
    ------
    ClientDisconnect
        Nobody waits any more.
    """
    work = asyncio.ensure_future(coroutine)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        work.cancel()
        gone.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
