"""Files that are written once, read now and then, and some of them deleted: what was acknowledged must be there at the end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from shared.units import KIB, MIB
from tests.faults.checkers.history import Outcome
from tests.faults.harness.client import Client

SIZES: Final = (1 * KIB, 4 * KIB, 100 * KIB, 1 * MIB, 2 * MIB + 5)
_SHARE_DELETED: Final = 0.15
_SHARE_READ: Final = 0.25
_READ_TRIES: Final = 5


class _State(StrEnum):
    PRESENT = "present"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class _File:
    """`body` is what its key and seed say, so it is not kept."""

    key: str
    size_bytes: int
    state: _State

    def body(self) -> bytes:
        return random.Random(self.key).randbytes(self.size_bytes)


class Archive:
    """New files all the time, and old ones go again: each client keeps `most_files` at most.

    Bounded, or what each later event has to restore would grow with the length of a run.
    """

    name = "archive"

    def __init__(
        self, client: Client, seed: int, *, clients: int = 3, pause_s: float = 0.1, most_files: int = 150
    ) -> None:
        self._client = client
        self._seed = seed
        self._clients = clients
        self._pause_s = pause_s
        self._most_files = most_files
        self._files: dict[str, _File] = {}
        self._wrong: list[str] = []
        self.counts: Counter[str] = Counter()

    @property
    def chunk_sizes_bytes(self) -> list[int]:
        """Of every chunk of the files that are there for certain; all chunks differ."""
        sizes = []
        for file in self._files.values():
            if file.state == _State.PRESENT:
                whole, rest = divmod(file.size_bytes, MIB)
                sizes += [MIB] * whole + ([rest] if rest else [])
        return sizes

    @property
    def is_certain(self) -> bool:
        """Whether it is known of every file whether it is there."""
        return all(file.state != _State.UNKNOWN for file in self._files.values())

    def loops(self, stopping: asyncio.Event) -> Sequence[Coroutine[Any, Any, None]]:
        """One coroutine per client."""
        return [self._loop(number, stopping) for number in range(self._clients)]

    async def _loop(self, number: int, stopping: asyncio.Event) -> None:
        draw = random.Random(f"{self._seed} archive {number}")
        mine: list[_File] = []
        for count in range(1 << 62):
            if stopping.is_set():
                return
            gateway = draw.choice(self._client.gateways)
            chance = draw.random()
            if mine and (chance < _SHARE_DELETED or len(mine) >= self._most_files):
                await self._delete(gateway, mine.pop(draw.randrange(len(mine))))
            elif mine and chance < _SHARE_DELETED + _SHARE_READ:
                await self._read(gateway, draw.choice(mine))
            else:
                file = await self._write(gateway, f"archive/{self._seed}-{number}-{count:06d}", draw.choice(SIZES))
                if file.state == _State.PRESENT:
                    mine.append(file)
            await asyncio.sleep(draw.uniform(0, 2 * self._pause_s))

    async def _write(self, gateway: str, key: str, size_bytes: int) -> _File:
        file = self._files[key] = _File(key, size_bytes, _State.UNKNOWN)
        reply = await self._client.call(gateway, "PUT", key, body=file.body())
        self.counts["written" if reply.outcome == Outcome.OK else "not written"] += 1
        file.state = {Outcome.OK: _State.PRESENT, Outcome.FAILED: _State.ABSENT}.get(reply.outcome, _State.UNKNOWN)
        return file

    async def _delete(self, gateway: str, file: _File) -> None:
        file.state = _State.UNKNOWN
        reply = await self._client.call(gateway, "DELETE", file.key)
        if reply.outcome == Outcome.OK:
            self.counts["deleted"] += 1
            file.state = _State.ABSENT
        elif reply.outcome == Outcome.FAILED:
            file.state = _State.PRESENT

    async def _read(self, gateway: str, file: _File) -> bool:
        reply = await self._client.call(gateway, "GET", file.key)
        if reply.status == 200 and reply.body != file.body():
            self._wrong.append(f"{file.key} came with other bytes")
        if reply.status == 404 and file.state == _State.PRESENT:
            self._wrong.append(f"{file.key} was acknowledged and is gone")
        self.counts["read" if reply.status == 200 else "not read"] += 1
        return reply.status in {200, 404}

    async def read_everything(self) -> None:
        """Every file; one whose fate was not known is known now, and deletes nothing more."""
        for file in list(self._files.values()):
            for gateway in (self._client.gateways * _READ_TRIES)[:_READ_TRIES]:
                reply = await self._client.call(gateway, "GET", file.key)
                if reply.status in {200, 404}:
                    break
                await asyncio.sleep(0.5)
            if file.state == _State.PRESENT and (reply.status != 200 or reply.body != file.body()):
                self._wrong.append(f"{file.key} was acknowledged, and the last read is {reply}")
            if file.state == _State.ABSENT and reply.status != 404:
                self._wrong.append(f"{file.key} does not exist, and the last read is {reply}")
            if file.state == _State.UNKNOWN and reply.status in {200, 404}:
                file.state = _State.PRESENT if reply.status == 200 else _State.ABSENT

    def violations(self) -> list[str]:
        """Of everything so far."""
        return self._wrong
