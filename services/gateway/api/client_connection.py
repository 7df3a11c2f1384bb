"""Work that is only worth doing while the client is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from starlette.types import Receive

from shared.errors import RequestTimeoutError


class _ClientGoneError(Exception):
    """The connection ended before the answer did."""


async def body_of(receive: Receive) -> AsyncGenerator[bytes, None]:
    """The pieces of a request's body as they come.

    Raises:
        RequestTimeoutError: the client broke off, or was cut off for being too slow; definite.
    """
    has_more = True
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestTimeoutError("The body broke off before its end; nothing was stored.")
        has_more = message.get("more_body", False)
        if piece := message.get("body", b""):
            yield piece


async def while_connected(receive: Receive | None, work: Callable[[asyncio.TaskGroup], Awaitable[None]]) -> None:
    """Run `work` with a group for its children, and cancel all of it when the client goes.

    Returns when the work is done or the client has gone. An error of the work itself is raised as it is. Without `receive`
    nobody watches the client: for work that is soon over.
    """
    failure: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            watcher = None if receive is None else group.create_task(_raise_when_gone(receive))
            await work(group)
            if watcher is not None:
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
