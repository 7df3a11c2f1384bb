"""A guarded server in this process, and raw bytes to and from it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

THINKING_S = 1.2
LATE_S = 0.2
"""How long the route /thinks takes."""

STREAMED_PIECES = 60
PIECE = b"0123456789" * 100


@dataclass
class Edge:
    """A guarded server, and what reached its routes."""

    host: str
    port: int
    served: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=10)

    def send(self, request: bytes) -> bytes:
        """Everything that is answered to `request` until the connection closes."""
        with self.connect() as connection:
            send_what_is_taken(connection, request)
            return receive_all(connection)


def send_what_is_taken(connection: socket.socket, data: bytes) -> None:
    # Refused before all of it was sent, as it should be.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(data)


def receive_all(connection: socket.socket) -> bytes:
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


def make_edge(serve_app) -> Edge:
    app = FastAPI()
    edge = Edge("", 0)

    @app.get("/streams")
    async def streams() -> StreamingResponse:
        """An answer that takes as long as `thinks`, in pieces; its length is known beforehand."""

        async def pieces():
            for _ in range(STREAMED_PIECES):
                yield PIECE
                await asyncio.sleep(THINKING_S / STREAMED_PIECES)

        return StreamingResponse(pieces(), headers={"content-length": str(len(PIECE) * STREAMED_PIECES)})

    @app.put("/digest")
    async def digest(request: Request) -> dict[str, str]:
        """Of the body, which is read late: what came by then was kept, and reading was paused."""
        await asyncio.sleep(LATE_S)
        hasher = hashlib.sha256()
        async for piece in request.stream():
            hasher.update(piece)
        return {"sha256": hasher.hexdigest()}

    @app.api_route("/{path:path}", methods=["GET", "PUT"])
    async def anything(path: str, request: Request) -> dict[str, int]:
        edge.served.append(path)
        if path == "thinks":
            await asyncio.sleep(THINKING_S)
        received_bytes = len(await request.body())
        edge.headers.append({name.decode(): value.decode() for name, value in request.scope["headers"]})
        return {"received_bytes": received_bytes}

    parts = urlsplit(serve_app(app))
    assert parts.hostname is not None
    assert parts.port is not None
    edge.host, edge.port = parts.hostname, parts.port
    return edge


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def get(path: str = "/x", *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: test", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode()
