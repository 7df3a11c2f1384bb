"""Work that is only worth doing while the client is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from starlette.types import Receive, Scope

from services.gateway.transfers.chunking import DirectBody
from shared.errors import RequestTimeoutError
from shared.web.http_exchange import exchange_of


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
            raise _broken_off()
        has_more = message.get("more_body", False)
        if piece := message.get("body", b""):
            yield piece


class ClientBody(DirectBody):
    """The body of an upload: a first piece as it comes, then straight into the place where it stays."""

    def __init__(self, scope: Scope, receive: Receive, announced_bytes: int | None) -> None:
        self._exchange = exchange_of(scope)
        self._pieces = body_of(receive)
        self._outstanding_bytes = 0 if announced_bytes is None else announced_bytes

    async def __anext__(self) -> bytes:
        """The next piece. Raises RequestTimeoutError, as `body_of`."""
        if self._exchange is not None and self._exchange.is_body_received:
            raise StopAsyncIteration
        piece = await anext(self._pieces)
        self._outstanding_bytes = max(0, self._outstanding_bytes - len(piece))
        return piece

    @property
    def direct_bytes(self) -> int:
        """See `DirectBody`; 0 where the length is not known or the server cannot do it."""
        return 0 if self._exchange is None else self._outstanding_bytes

    async def receive_into(self, buffer: memoryview, moved: Callable[[int], object]) -> None:
        """See `DirectBody`. Raises RequestTimeoutError, as `body_of`."""
        assert self._exchange is not None
        self._outstanding_bytes -= len(buffer)
        try:
            await self._exchange.receive_into(
                buffer, lambda part: moved(len(part)), is_last=self._outstanding_bytes == 0
            )
        except ConnectionError as error:
            raise _broken_off() from error


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


def _broken_off() -> RequestTimeoutError:
    return RequestTimeoutError("The body broke off before its end; nothing was stored.")


async def _raise_when_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise _ClientGoneError
