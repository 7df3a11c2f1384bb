"""What callers of other services need from `shared.peer_calls.http_client.PeerClient`, so that tests can answer in its place."""

from __future__ import annotations

from typing import Protocol

from httpx import Response

from shared.peer_address import PeerAddress


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
    ) -> Response:
        """One signed call; raises the peer's typed error, or PeerUnreachableError."""
