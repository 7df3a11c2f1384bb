"""One request and its answer as the connection sees them: what an application may ask of it that ASGI has no words for.

A route finds it in its scope (`exchange_of`). It takes a body past ASGI, and ends a connection so that the answer arrives, or
so that a part of it cannot be taken for the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.types import Scope

from shared.web.answer_writer import AnswerCycle

if TYPE_CHECKING:
    from shared.web.http_edge import GuardedHttpProtocol

EXCHANGE: Final = "trivet.exchange"
"""Where the edge puts it in the scope."""


@dataclass(frozen=True, slots=True)
class HttpExchange:
    """One request and its answer, seen from below ASGI. `has_empty_query`: a `?` with nothing behind it, which ASGI hides."""

    has_empty_query: bool
    _protocol: GuardedHttpProtocol
    _cycle: AnswerCycle

    def linger_after_answer(self) -> None:
        """End the connection after this answer without losing it. Call it once the head with `Connection: close` is sent."""
        self._cycle.keep_alive = True  # or uvicorn would close at once
        self._cycle.on_response = self._protocol.linger

    @property
    def is_write_paused(self) -> bool:
        """Whether the client has to read before more can be sent: some of what was sent lies here still."""
        return self._protocol.flow.write_paused

    @property
    def is_body_received(self) -> bool:
        """Whether `receive_into` has received the last of the body."""
        return self._cycle.is_body_received

    async def receive_into(
        self, buffer: memoryview, take: Callable[[memoryview], object], *, is_last: bool = True
    ) -> None:
        """Fill `buffer` with the next bytes of the body, from the socket and without a copy.

        For bodies with a Content-Length, after ASGI's `receive` has given the first piece; it is not called again then.
        Between two calls nothing is read from the client.

        Args:
            take: called with each part of `buffer` that was filled, in order.
            is_last: the body ends with `buffer`.

        Raises:
            ConnectionError: the body broke off. What follows it on this connection is dropped, and the connection ends with
                the answer; so it does when the caller is cancelled.
        """
        await self._protocol.receive_into(self._cycle, buffer, take, is_last=is_last)

    def mark_answer(self, name: bytes, value: bytes) -> None:
        """Have the answer carry a header field, whoever gives it. Called before it begins; `name` is in lower case."""
        self._cycle.default_headers = [*self._cycle.default_headers, (name, value)]

    def break_off(self) -> None:
        """End the connection in mid-answer, so that the client cannot take the part for the whole.

        The application returns after it; raising instead would log the traceback of a defect.
        """
        self._cycle.disconnected = True
        self._protocol.transport.close()


def exchange_of(scope: Scope) -> HttpExchange | None:
    """The exchange behind an ASGI scope; None under another server, as in tests without a socket."""
    exchange: HttpExchange | None = scope.get(EXCHANGE)
    return exchange
