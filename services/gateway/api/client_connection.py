"""Work that is only worth doing while the client is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from shared.errors import RequestTimeoutError


class _ClientGoneError(Exception):
    """The connection ended before the answer did."""


async def body_of(request: Request) -> AsyncGenerator[bytes, None]:
    """The pieces of a request's body as they come.

    Raises:
        RequestTimeoutError: the client broke off, or was cut off for being too slow; definite.
    """
    try:
        async for piece in request.stream():
            yield piece
    except ClientDisconnect as error:
        raise RequestTimeoutError("The body broke off before its end; nothing was stored.") from error


async def while_connected(receive: Receive, work: Callable[[asyncio.TaskGroup], Awaitable[None]]) -> None:
    """Run `work` with a group for its children, and cancel all of it when the client goes.

    Returns when the work is done or the client has gone. An error of the work itself is raised as it is.
    """
    failure: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(_raise_when_gone(receive))
            await work(group)
            watcher.cancel()
    except* _ClientGoneError:
        pass
    except* Exception as errors:  # noqa: BLE001 raised again below, out of its group
        failure = errors.exceptions[0]
    if failure is not None:
        raise failure


async def _raise_when_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise _ClientGoneError
