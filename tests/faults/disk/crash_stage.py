"""One short life of a storage node that does everything which must be durable, played again and again up to a chosen call.

The life is always the same: same bodies, same paths, one request at a time. So a call of the reference trace is found again
by its name, its path and its number among those of its thread, and the process can be killed right before it.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import ChunkCorruptError, ChunkNotFoundError, TrivetError
from tests.faults.disk.node_on_disk import NodeOnDisk
from tests.faults.tools.bit_rot import flip_bit
from tests.faults.tools.strace import TracedCall, crash_at, read_trace, recorder, wrapper
from tests.integration.storage.support import ChunkClient, digest_of

_LARGE, _SMALL = 200_000, 4_000


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """A call of the reference trace.

    Attributes:
        paths: the path that it is found by; none when the name holds the process id, which is another in each life.
        nth: its number among the calls of its thread with that name and path.
        kind: the same for calls that do the same thing for different chunks.
    """

    name: str
    paths: tuple[Path, ...]
    nth: int
    kind: str


@dataclass(slots=True)
class Promises:
    """What one life was told. Whatever was under way when it ended is in neither set."""

    held: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    under_way: set[str] = field(default_factory=set)


class CrashStage:
    """Sets the scene once, then plays lives on copies of it."""

    def __init__(self, machine: NodeOnDisk, seed: int) -> None:
        self._machine = machine
        self._folder = machine.disk.folder
        self._template = machine.disk.image.parent / "template"
        self._trace = machine.disk.image.parent / "trace"
        draw = random.Random(seed)
        sizes = {
            "rotten": _LARGE, "kept": _LARGE, "kept small": _SMALL, "leaves": _LARGE, "leaves small": _SMALL,
            "left": _LARGE, "stray": _LARGE, "new": _LARGE, "new small": _SMALL, "again": _LARGE,
        }  # fmt: skip
        self._bodies = {name: draw.randbytes(size_bytes) for name, size_bytes in sizes.items()}

    async def set_up(self) -> None:
        """What every life finds: chunks, one of them rotten; a deleted file that came back; a file without a row; a leftover."""
        client = ChunkClient(self._machine.node)
        for name in ("rotten", "kept", "kept small", "leaves", "leaves small", "left"):
            await client.put(self._bodies[name], start_index=1)
        await client.delete(self._digest("left"))
        await client.peers.aclose()
        self._machine.node.stop()
        if self._machine.redis is not None:
            self._machine.redis.kill()
        flip_bit(self._file("rotten"), 1000, 3)
        for name in ("left", "stray"):
            self._file(name).write_bytes(self._bodies[name])
        (self._folder / "node" / "tmp" / "leftover").write_bytes(b"half")
        shutil.copytree(self._folder, self._template, ignore=shutil.ignore_patterns("lost+found"))

    async def reference(self) -> list[CrashPoint]:
        """Play a life to its end; every call in it after which something is durable, named or gone."""
        self._reset()
        promises = await self._play(recorder(self._trace))
        assert not promises.under_way, "the reference life failed"
        self._machine.node.stop()  # its last calls count too
        await self._check_after_the_cut(promises)
        return self._points(read_trace(self._trace))

    async def crash(self, point: CrashPoint) -> bool:
        """Play a life up to `point`, cut the power too, and hold a new life to every promise; whether the point was reached."""
        self._reset()
        promises = await self._play(wrapper(crash_at(point.name, point.nth, *point.paths), self._trace))
        process = self._machine.node.process
        if process.poll() is None:
            self._machine.node.stop()
        was_reached = process.poll() == -9
        await self._check_after_the_cut(promises)
        return was_reached

    async def _check_after_the_cut(self, promises: Promises) -> None:
        await self._machine.lose_power()
        await asyncio.to_thread(self._machine.start)
        client = ChunkClient(self._machine.node)
        try:
            present = set(await client.has(list(map(digest_of, self._bodies.values()))))
            assert promises.held <= present, f"acknowledged and gone: {self._names(promises.held - present)}"
            assert not promises.deleted & present, f"deleted and back: {self._names(promises.deleted & present)}"
            for digest in present - {self._digest("rotten")}:
                assert digest_of(await client.get(digest)) == digest
            try:
                await client.get(self._digest("rotten"))
            except (ChunkCorruptError, ChunkNotFoundError):
                return
            raise AssertionError("a rotten chunk was served")
        finally:
            await client.peers.aclose()
            self._machine.kill()

    async def _play(self, wrapped: list[str]) -> Promises:
        promises = Promises(held={self._digest(name) for name in ("kept", "kept small", "leaves", "leaves small")})
        promises.deleted.add(self._digest("left"))
        try:
            await asyncio.to_thread(self._machine.start, wrapped)
        except AssertionError:
            if self._machine.node.process.poll() != -9:
                raise
            return promises
        client = ChunkClient(self._machine.node)
        try:
            await self._act(client, promises)
        except TrivetError:
            if self._machine.node.process.wait(10) != -9:
                raise
        finally:
            await client.peers.aclose()
        return promises

    async def _act(self, client: ChunkClient, promises: Promises) -> None:
        await self._put(client, "new", promises)
        await self._put(client, "new small", promises)
        async with asyncio.timeout(20):
            while await client.metric("trivet_storage_write_behind_bytes") > 0:  # noqa: ASYNC110 another process
                await asyncio.sleep(0.01)
        try:
            await client.get(self._digest("rotten"))
        except ChunkCorruptError:
            pass
        else:
            raise AssertionError("a rotten chunk was served")
        await client.has([self._digest("kept"), self._digest("new small")], start_index=9)
        for name in ("leaves", "leaves small"):
            digest = self._digest(name)
            promises.held.discard(digest)
            promises.under_way.add(digest)
            await client.delete(digest)
            promises.under_way.discard(digest)
            promises.deleted.add(digest)
        await self._put(client, "again", promises)

    async def _put(self, client: ChunkClient, name: str, promises: Promises) -> None:
        digest = self._digest(name)
        promises.under_way.add(digest)
        await client.put(self._bodies[name], start_index=5)
        promises.under_way.discard(digest)
        promises.held.add(digest)

    def _reset(self) -> None:
        self._machine.kill()
        for path in self._folder.iterdir():
            if path.name != "lost+found":
                shutil.rmtree(path)
        shutil.copytree(self._template, self._folder, dirs_exist_ok=True)
        # A clean mount: all of the scene is on the disk before the life begins.
        self._machine.disk.restore_power()
        self._trace.unlink(missing_ok=True)

    def _points(self, calls: list[TracedCall]) -> list[CrashPoint]:
        points: list[CrashPoint] = []
        counts: Counter[tuple[int, str, str]] = Counter()
        for call in calls:
            counts[call.thread, call.name, ""] += 1
            inside = [path for path in call.paths if path.startswith(str(self._folder))]
            if not inside:
                continue
            path = inside[0]  # of a rename strace looks at the old name only
            counts[call.thread, call.name, path] += 1
            is_lasting = not Path(path).name.startswith(".")
            nth = counts[call.thread, call.name, path if is_lasting else ""]
            kind = f"{call.name} {self._kind(inside[-1])}"
            points.append(CrashPoint(call.name, (Path(path),) if is_lasting else (), nth, kind))
        return points

    def _kind(self, path: str) -> str:
        """The path without what differs from chunk to chunk."""
        parts = Path(path).relative_to(self._folder).parts
        if len(parts) > 2 and parts[1] in {"chunks", "tmp", "quarantine"}:
            return "/".join((*parts[:2], *("*" for _ in parts[2:])))
        return "/".join("*" if part.startswith(".") else part for part in parts)

    def _digest(self, name: str) -> str:
        return digest_of(self._bodies[name])

    def _file(self, name: str) -> Path:
        digest = self._digest(name)
        return self._folder / "node" / "chunks" / digest[:2] / digest

    def _names(self, digests: set[str]) -> list[str]:
        return [name for name, body in self._bodies.items() if digest_of(body) in digests]
