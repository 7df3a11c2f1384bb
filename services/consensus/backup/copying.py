"""Copies the chunks of a snapshot that a target lacks, several at a time, not faster than it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from services.consensus.backup.snapshots import ListedChunk, chunks_of, present
from services.consensus.backup.targets import Target
from shared.errors import TrivetError


class ChunkSource(Protocol):
    """`cluster.ClusterChunks` is the real one."""

    async def look(self) -> None:
        """Once for each group of chunks."""

    async def get(self, digest: str) -> bytes:
        """The verified bytes. Raises TrivetError."""


@dataclass(slots=True)
class CopiedChunks:
    """What a backup did. `unreadable`: the reason for each chunk that no node gave."""

    chunks: int = 0
    size_bytes: int = 0
    present_before: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


class CopyPace:
    """Lets `bytes_per_s` through, 0: all that come. One for all that copy at the same time."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at_s = 0.0

    async def take(self, size_bytes: int) -> None:
        """Wait until these bytes may go."""
        if self._bytes_per_s:
            begin_s = max(self._free_at_s, time.monotonic())
            self._free_at_s = begin_s + size_bytes / self._bytes_per_s
            await asyncio.sleep(begin_s - time.monotonic())


async def copy_chunks(
    folder: Path, source: ChunkSource, target: Target, *, parallel: int, pace: CopyPace
) -> CopiedChunks:
    """Have `target` hold every chunk that the snapshot in `folder` needs. Raises what the target raises."""
    copied = CopiedChunks()

    async def copy(chunk: ListedChunk) -> None:
        await pace.take(chunk.size_bytes)
        try:
            body = await source.get(chunk.digest)
        except TrivetError as error:
            copied.unreadable[chunk.digest] = error.message
            return
        await target.put(chunk.name, body)
        copied.chunks += 1
        copied.size_bytes += chunk.size_bytes

    for group in chunks_of(folder):
        await source.look()
        there = await present(target, group)
        missing = [chunk for chunk in group if there.get(chunk.name) != chunk.size_bytes]
        copied.present_before += len(group) - len(missing)
        await in_parallel(missing, copy, parallel)
    return copied


async def check_chunks(folder: Path, target: Target, *, parallel: int, reads: bool) -> list[str]:
    """The digests of chunks that `target` lacks, or has with another size; with `reads`, or with other bytes."""
    bad: list[str] = []

    async def read(chunk: ListedChunk) -> None:
        if blake3(await target.get(chunk.name)).hexdigest() != chunk.digest:
            bad.append(chunk.digest)

    for group in chunks_of(folder):
        there = await present(target, group)
        bad += [chunk.digest for chunk in group if there.get(chunk.name) != chunk.size_bytes]
        if reads:
            whole = [chunk for chunk in group if there.get(chunk.name) == chunk.size_bytes]
            await in_parallel(whole, read, parallel)
    return bad


async def in_parallel(
    chunks: Iterable[ListedChunk], act: Callable[[ListedChunk], Awaitable[None]], parallel: int
) -> None:
    """`act` on each, so many at a time. The first error ends it."""
    waiting = iter(chunks)

    async def work() -> None:
        for chunk in waiting:
            await act(chunk)

    async with asyncio.TaskGroup() as group:
        for _ in range(parallel):
            group.create_task(work())
