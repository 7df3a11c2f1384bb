"""Stands between a link and its Redis, in this process: holds answers back, so that what Redis did is not heard, or
changes bytes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

from tests.integration.storage.support import RedisServer


class RedisProxy:
    """Requests pass unless `swallow` says so. Answers pass while `flowing` is set, through `rewrite`."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._pumps: set[asyncio.Task[None]] = set()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.rewrite: Callable[[bytes], bytes] = lambda answer: answer
        self.swallow: Callable[[bytes], object] = lambda _: False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._pumps.add(asyncio.current_task())
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._server.port)
        except OSError:
            writer.close()
            return
        async with asyncio.TaskGroup() as group:
            answers = group.create_task(self._answer(there, writer))
            try:
                while request := await reader.read(1 << 16):
                    if not self.swallow(request):
                        back.write(request)
            except OSError:
                pass
            finally:
                answers.cancel()
                back.close()
                writer.close()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while answer := await there.read(1 << 16):
                await self.flowing.wait()
                writer.write(self.rewrite(answer))
        except OSError:
            pass
        finally:
            writer.close()
