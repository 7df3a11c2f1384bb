"""Runs the listeners of a service in one event loop: data, operations, and another protocol's beside them, such as S3."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from shared.settings import ServiceSettings
from shared.units import MIB
from shared.web.descriptors import raise_descriptor_limit
from shared.web.http_edge import GuardedHttpProtocol
from shared.web.operations import OperationsProtocol
from shared.web.service_app import ServiceApp

KEEP_ALIVE_S: Final = 75
_SEND_BUFFER_BYTES: Final = MIB
_TICK_S: Final = 1.0
_YOUNG_OBJECTS: Final = 10_000
"""More than the requests under way hold at any moment: what lives no longer than one of them is not looked at, and does not
pass for something that stays. No request leaves a cycle (`answer_writer`); what is left of 10,000 objects is a few MB."""


@dataclass(frozen=True, slots=True)
class SecondDoor:
    """Another listener for clients, on the host of the data listener: it shares its connections, its start and its end.

    Attributes:
        app: ASGI, without a lifespan of its own.
        http: how it speaks HTTP: the edge's rules, with errors of its own protocol.
    """

    app: ASGIApp
    port: int
    http: type[GuardedHttpProtocol]


def serve(
    app: ASGIApp,
    settings: ServiceSettings,
    *,
    second_door: SecondDoor | None = None,
    has_wide_send_buffers: bool = False,
) -> None:
    """Run `app` and its operations listener until SIGTERM or SIGINT; requests under way get `shutdown_grace_s`.

    The operations listener is there before the service starts, and until it has stopped.

    Args:
        second_door: one more for clients; None: there is none.
        has_wide_send_buffers: the kernel takes a whole chunk at once, and the next request is read meanwhile. Only for
            ports that peers call: every connection may cost that much memory of the kernel.
    """
    raise_descriptor_limit()
    common: dict[str, Any] = {
        "loop": "uvloop",
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "timeout_keep_alive": KEEP_ALIVE_S,
    }
    data = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=GuardedHttpProtocol,
        lifespan="on",
        timeout_graceful_shutdown=settings.shutdown_grace_s,
        **common,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    server = _Server(data)
    sockets = [_wide_listener(data)] if has_wide_send_buffers else None
    second = None
    if second_door is not None:
        beside = uvicorn.Config(
            second_door.app,
            host=settings.host,
            port=second_door.port,
            http=second_door.http,
            lifespan="off",
            timeout_graceful_shutdown=settings.shutdown_grace_s,
            **common,
        )
        second = _SecondServer(beside), beside.bind_socket()
    if isinstance(app, ServiceApp) and app.operations is not None:
        host, port = settings.operations_address()
        # It has no lifespan of its own, and nothing on it is worth waiting for at the end.
        operations = uvicorn.Config(
            app.operations,
            host=host,
            port=port,
            http=OperationsProtocol,
            lifespan="off",
            timeout_graceful_shutdown=1,
            **common,
        )
        server = _PairedServer(data, _Companion(operations), operations.bind_socket(), second)
    try:
        server.run(sockets=sockets)
    except KeyboardInterrupt:
        return
    if not server.started:
        sys.exit(1)


class _Server(uvicorn.Server):
    """Wakes up once a second, for the header Date, and when it is told to stop. uvicorn's own looks ten times a second."""

    _told_to_stop: asyncio.Event | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then take what lives as long as the process out of sight of the collector of cycles.

        The frameworks have made a few hundred thousand objects by now, and every full collection would look at all of
        them again, in the middle of a request.
        """
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG_OBJECTS)

    async def main_loop(self) -> None:
        """Returns when the server is to stop."""
        self._told_to_stop = asyncio.Event()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._told_to_stop.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As the signal handler."""
        super().handle_exit(sig, frame)
        if self._told_to_stop is not None:
            self._told_to_stop.set()

    def stop(self) -> None:
        """Let it end."""
        self.should_exit = True
        if self._told_to_stop is not None:
            self._told_to_stop.set()


class _Companion(_Server):
    """A server that leaves the signals to the one that it accompanies."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _SecondServer(_Companion):
    """A companion whose connections and requests are those of another server."""

    def share_with(self, server: uvicorn.Server) -> None:
        """Count as one with `server`: one limit on connections, and neither ends before the requests of both."""
        self.server_state = server.server_state


class _PairedServer(_Server):
    """A server, a companion that starts before it and stops after it, and a second door that begins and ends with it."""

    def __init__(
        self,
        config: uvicorn.Config,
        companion: _Companion,
        companion_socket: socket.socket,
        second: tuple[_SecondServer, socket.socket] | None = None,
    ) -> None:
        super().__init__(config)
        self._companion = companion
        self._companion_socket = companion_socket
        self._second = second
        self._group: asyncio.TaskGroup
        if second is not None:
            second[0].share_with(self)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """All of them, until this one is told to stop."""
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._companion.serve(sockets=[self._companion_socket]))
            try:
                await super().serve(sockets)
            finally:
                self._companion.stop()

    async def main_loop(self) -> None:
        """Returns when the server is to stop."""
        if self._second is not None:
            server, listener = self._second
            self._group.create_task(server.serve(sockets=[listener]))
        await super().main_loop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the requests of both doors end, and then the application."""
        if self._second is not None:
            self._second[0].stop()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As the signal handler; a second signal ends both doors at once."""
        super().handle_exit(sig, frame)
        if self._second is not None:
            self._second[0].force_exit = self.force_exit


def _wide_listener(config: uvicorn.Config) -> socket.socket:
    """A bound socket whose connections inherit a wide send buffer, where the kernel allows one; it listens later."""
    listener = config.bind_socket()
    try:
        allowed_bytes = int(Path("/proc/sys/net/core/wmem_max").read_text())
    except (OSError, ValueError):
        return listener
    # A size once set is never grown by the kernel again, so less than wanted would be a loss.
    if allowed_bytes >= _SEND_BUFFER_BYTES:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    return listener
