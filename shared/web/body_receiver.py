"""Receives a body of known length from the socket into a buffer of whoever asks, without a copy (X-102)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shared.web.http_edge import GuardedHttpProtocol

_NO_ROOM: Final = memoryview(bytearray())


class BodyReceiver(asyncio.BufferedProtocol):
    """Stands in for the guard while the rest of one body arrives: the loop and the parser would make a copy of it each.

    Invariant: it never takes a byte behind the body.
    Invariant: reading is paused while there is no room in `_rest`.
    """

    def __init__(self, guard: GuardedHttpProtocol) -> None:
        self._guard = guard

    def expect(
        self, buffer: memoryview, take: Callable[[memoryview], object], *, is_last: bool
    ) -> asyncio.Future[None]:
        """Fill `buffer`; the future is done when it is full."""
        self._rest = buffer
        self._take = take
        self._is_last = is_last
        self.done: asyncio.Future[None] = self._guard.loop.create_future()
        return self.done

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - of asyncio
        """Where the next bytes go."""
        return self._rest

    def buffer_updated(self, nbytes: int) -> None:
        """Some of them came."""
        piece, self._rest = self._rest[:nbytes], self._rest[nbytes:]
        self._guard.count_body(nbytes)
        self._take(piece)
        if self._rest:
            return
        self._rest = _NO_ROOM  # or it would keep the buffer from being used again
        if self._is_last:
            self._guard.end_body()
        else:
            self._guard.flow.pause_reading()
        if not self.done.done():
            self.done.set_result(None)

    def break_off(self) -> None:
        """No more of the body is heard."""
        if not self.done.done():
            self.done.set_exception(ConnectionResetError("The body broke off."))

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self.break_off()
        self._guard.connection_lost(exc)

    def pause_writing(self) -> None:
        """As for the guard, of an answer before."""
        self._guard.pause_writing()

    def resume_writing(self) -> None:
        """As for the guard."""
        self._guard.resume_writing()
