"""The connections to one peer: kept alive, bounded in number, the one that was used last first."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any, Final
from urllib.parse import urlsplit

from shared.peer_calls.http_connection import (
    Content,
    HttpConnection,
    NeverConnectedError,
    PeerAnswer,
    StaleConnectionError,
)
from shared.peer_calls.loopback import make_socket
from shared.reused_buffers import ReusedBuffers

_PORTS: Final = {"http": 80, "https": 443}

AddressInfo = tuple[Any, ...]
"""An entry of `getaddrinfo`."""


class ConnectionPool:
    """Invariant: exchanges under way and idle connections together are at most `limit`.

    Invariant: every open connection is in `_connections`; those without an exchange are in `_idle`, too.
    """

    def __init__(
        self,
        url: str,
        *,
        limit: int,
        local_address: str,
        receive_buffer: memoryview,
        bodies: ReusedBuffers[bytearray],
    ) -> None:
        """`url`: see `shared.peer_address.PeerAddress`. Raises NeverConnectedError when it is none, as before a node dials in."""
        try:
            parts = urlsplit(url)
            self._port = parts.port or _PORTS[parts.scheme]
        except (ValueError, KeyError) as error:
            raise NeverConnectedError(f"{url!r} is no address of a service") from error
        self._host = parts.hostname or ""
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._local_address = local_address
        self._receive_buffer = receive_buffer
        self._bodies = bodies
        self._turns = asyncio.Semaphore(limit)
        self._connections: set[HttpConnection] = set()
        self._idle: list[HttpConnection] = []
        self.host_header = parts.netloc.rpartition("@")[2]
        self.path_prefix = parts.path

    @property
    def is_unused(self) -> bool:
        """No connection is open or being made."""
        return not self._connections and not self._turns.locked()

    def close(self) -> None:
        """Close all connections, whatever is under way on them."""
        self._idle.clear()
        for connection in list(self._connections):
            connection.abort()

    async def exchange(
        self, head: bytes, content: Content, *, timeout_s: float, connect_timeout_s: float
    ) -> PeerAnswer:
        """Send one request on some connection and read its answer; see `HttpConnection.exchange`.

        Raises:
            NeverConnectedError: no connection was free, or could be made, in time.
            StaleConnectionError: an idle connection was closed before the first byte of the answer; no other idle one is left.
            OSError, MalformedAnswerError: as `HttpConnection.exchange`.
        """
        await self._acquire_turn(timeout_s)
        try:
            connection = self._take_idle()
            if is_fresh := connection is None:
                connection = await self._connect(connect_timeout_s)
            try:
                answer = await connection.exchange(head, content, timeout_s)
            except StaleConnectionError as error:
                if is_fresh:
                    raise ConnectionError(str(error)) from error
                # As a rule the peer has restarted, and the others are no better.
                self._close_idle()
                raise
            if connection.is_idle:
                self._idle.append(connection)
                connection.expire_later()
            return answer
        finally:
            self._turns.release()

    async def _acquire_turn(self, timeout_s: float) -> None:
        if not self._turns.locked():
            await self._turns.acquire()
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._turns.acquire()
        except TimeoutError as error:
            raise NeverConnectedError("no connection became free in time") from error

    def _take_idle(self) -> HttpConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_idle:
                return connection
        return None

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().abort()

    async def _connect(self, timeout_s: float) -> HttpConnection:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._connect_to_any(timeout_s)
        except OSError as error:
            raise NeverConnectedError(str(error) or type(error).__name__) from error

    async def _connect_to_any(self, timeout_s: float) -> HttpConnection:
        """To the first address of the host that accepts; none of them may use up the time of the others."""
        addresses = await self._resolve()
        for address in addresses[:-1]:
            try:
                async with asyncio.timeout(timeout_s / len(addresses)):
                    return await self._connect_to(address)
            except OSError:
                continue
        return await self._connect_to(addresses[-1])

    async def _resolve(self) -> list[AddressInfo]:
        if not self._host:
            raise OSError("no host")
        try:
            # A numeric address needs neither a resolver nor the thread that asks it.
            return list(
                socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
            )
        except socket.gaierror:
            loop = asyncio.get_running_loop()
            return list(await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM))

    async def _connect_to(self, address: AddressInfo) -> HttpConnection:
        loop = asyncio.get_running_loop()
        made = make_socket(address)
        try:
            made.setblocking(False)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._local_address:
                made.bind((self._local_address, 0))
            await loop.sock_connect(made, address[4])
            _, connection = await loop.create_connection(
                lambda: HttpConnection(self._receive_buffer, self._bodies, self._forget),
                sock=made,
                ssl=self._ssl,
                server_hostname=self._host if self._ssl else None,
            )
        except BaseException:
            made.close()
            raise
        if connection.is_idle:
            self._connections.add(connection)
        return connection

    def _forget(self, connection: HttpConnection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
