"""A client for chunk routes that costs little itself, so that a benchmark measures the node and not the client.

It speaks just enough HTTP/1.1 for `shared.contracts.chunks`: one request at a time per connection, answers with a
Content-Length. Requests are signed as everywhere; bodies are counted, not hashed, and kept only when asked for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from shared.cluster_keys import derive_peer_keys
from shared.peer_address import PeerAddress
from shared.peer_calls.loopback import make_socket
from shared.peer_calls.request_signing import BODY_DIGEST_HEADER, EMPTY_BODY_DIGEST, RequestSigner, parse_challenge
from shared.roles import Role

_HEAD_END: Final = b"\r\n\r\n"
_ANSWER_DEADLINE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers by lower-case name, length of the body, and the body when it was kept."""

    status: int
    headers: dict[str, str]
    size_bytes: int
    body: bytes


class ChunkConnection:
    """One connection to one node. `call` may not be entered twice at once."""

    def __init__(self, peer: PeerAddress, signer: RequestSigner, wire: _Wire) -> None:
        self._peer = peer
        self._signer = signer
        self._wire = wire

    @classmethod
    async def open(cls, peer: PeerAddress, signer: RequestSigner) -> Self:
        """Connect. Raises OSError."""
        host, _, port = peer.url.removeprefix("http://").partition(":")
        # As the services' own client has it.
        connection = make_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, int(port))))
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, (host, int(port)))
        _, wire = await loop.create_connection(_Wire, sock=connection)
        return cls(peer, signer, wire)

    async def call(
        self, method: str, digest: str, pieces: Sequence[bytes | memoryview] = (), *, is_kept: bool = False
    ) -> Answer:
        """One signed request for one chunk; the answer is there when this returns, whatever its status."""
        answer = await self._send(method, digest, pieces, is_kept)
        challenge = parse_challenge(answer.headers.get("www-authenticate")) if answer.status == 401 else None
        if challenge is None:
            return answer
        self._signer.learn(self._peer.id, challenge)
        return await self._send(method, digest, pieces, is_kept)

    async def _send(self, method: str, digest: str, pieces: Sequence[bytes | memoryview], is_kept: bool) -> Answer:
        target = f"/v1/chunks/{digest}"
        signed = digest if pieces else EMPTY_BODY_DIGEST
        authorization = self._signer.sign(method, target, self._peer, signed).authorization
        length = f"content-length: {sum(map(len, pieces))}\r\n" if pieces else ""
        head = (
            f"{method} {target} HTTP/1.1\r\nhost: node\r\n{length}"
            f"{BODY_DIGEST_HEADER}: {signed}\r\nauthorization: {authorization}\r\n\r\n"
        )
        async with asyncio.timeout(_ANSWER_DEADLINE_S):
            return await self._wire.exchange([head.encode(), *pieces], has_body=method != "HEAD", is_kept=is_kept)

    def close(self) -> None:
        """End the connection."""
        self._wire.close()


class _Wire(asyncio.Protocol):
    """Bytes out, one answer back."""

    def __init__(self) -> None:
        self._head = b""
        self._parsed: tuple[int, dict[str, str]] | None = None
        self._kept: list[bytes] = []
        self._size_bytes = 0
        self._has_body = True
        self._is_kept = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    async def exchange(self, pieces: Sequence[bytes | memoryview], *, has_body: bool, is_kept: bool) -> Answer:
        self._head, self._parsed, self._kept, self._size_bytes = b"", None, [], 0
        self._has_body, self._is_kept = has_body, is_kept
        self._answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._transport.writelines(pieces)
        return await self._answered

    def data_received(self, data: bytes) -> None:
        if self._parsed is None:
            self._head += data
            head, found, data = self._head.partition(_HEAD_END)
            if not found:
                return
            self._parsed = _parse_head(head)
        self._size_bytes += len(data)
        if self._is_kept:
            self._kept.append(data)
        status, headers = self._parsed
        expected_bytes = int(headers.get("content-length", "0")) if self._has_body else 0
        if self._size_bytes >= expected_bytes and not self._answered.done():
            self._answered.set_result(Answer(status, headers, self._size_bytes, b"".join(self._kept)))

    def connection_lost(self, exc: Exception | None) -> None:
        answered = getattr(self, "_answered", None)
        if answered is not None and not answered.done():
            answered.set_exception(ConnectionResetError("the node closed the connection") if exc is None else exc)

    def close(self) -> None:
        self._transport.close()


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}


def make_signer(secret: str) -> RequestSigner:
    """The signer that all connections of a benchmark share. Raises ValueError."""
    return RequestSigner(derive_peer_keys(secret, Role.GATEWAY))
