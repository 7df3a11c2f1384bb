"""What callers of other services need from `shared.peer_calls.http_client.PeerClient`, so that tests can answer in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from shared.peer_address import PeerAddress


class Answered(Protocol):
    """A peer's answer, read to the end."""

    @property
    def headers(self) -> Mapping[str, str]:
        """By name, in lower case."""

    @property
    def content(self) -> bytes | bytearray:
        """The body."""

    def json(self) -> Any:
        """The body as JSON; raises ValueError or RecursionError."""


class PeerRequester(Protocol):
    """Calls peers."""

    async def request(
        self,
        peer: PeerAddress,
        method: str,
        path: str,
        *,
        timeout_s: float,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answered:
        """One signed call; raises the peer's typed error, or PeerUnreachableError."""
