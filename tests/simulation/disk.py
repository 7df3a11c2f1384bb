"""A disk that forgets what was not synced: the simulator's log store, hard state and blocking runner.

`SimulatedDisk` outlives the process; everything else dies with it. A write reaches the disk when its simulated fsync ends. A
crash before that loses it, or keeps it without anybody having been told (both happen to real machines).
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import msgpack

from services.consensus.raft.configuration import Configuration
from services.consensus.raft.decide import LogPosition
from services.consensus.raft.ports import Entry, EntryKind, LogDamagedError, SnapshotMeta, StoredLog

CUT_ENTRIES = 64


@dataclass
class Registers:
    """What a state machine of registers holds after `last_applied`: values by key, results by request id."""

    last_applied: int = 0
    values: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    def take(self, entry: Entry) -> Any:
        """Apply the next entry; a request happens once."""
        self.last_applied += 1
        if entry.kind != EntryKind.COMMAND:
            return None
        request_id, key, value = msgpack.unpackb(entry.payload)
        if request_id not in self.results:
            self.results[request_id] = self.values.get(key)
            self.values[key] = value
        return self.results[request_id]

    def copy(self) -> Registers:
        """One that goes its own way."""
        return Registers(self.last_applied, dict(self.values), dict(self.results))

    def pack(self) -> bytes:
        """The same bytes for the same state."""
        parts = [self.last_applied, sorted(self.values.items()), sorted(self.results.items())]
        return bytes(msgpack.packb(parts))

    @classmethod
    def unpack(cls, raw: bytes) -> Registers:
        """The inverse of `pack`."""
        last_applied, values, results = msgpack.unpackb(raw)
        return cls(last_applied, dict(values), dict(results))


@dataclass
class SimulatedDisk:
    """What survives a crash of one member.

    The log holds `entries` behind `base`. The state machine is saved on its own, like the real one: `checkpoint` survives
    everything, `applied` is what it took in since and a power cut may take away. `parts` are the pieces of snapshots that
    came so far. `known` holds the identities of the others' disks as first seen: the real handshake refuses a member that
    comes back with another one.
    """

    entries: list[Entry] = field(default_factory=list)
    base: LogPosition = field(default_factory=lambda: LogPosition(term=0, index=0))
    base_configuration: tuple[int, bytes] | None = None
    hard_state: tuple[int, str | None] = (0, None)
    checkpoint: Registers = field(default_factory=Registers)
    applied: list[Entry] = field(default_factory=list)
    installed: SnapshotMeta | None = None
    parts: dict[bytes, bytearray] = field(default_factory=dict)
    is_state_lost: bool = False
    identity: int = field(default_factory=itertools.count().__next__)
    known: dict[str, int] = field(default_factory=dict)

    def accepts(self, member: str, disk: SimulatedDisk) -> bool:
        """Whether `disk` is the one that was first seen under that name."""
        return self.known.setdefault(member, disk.identity) == disk.identity

    @property
    def last_index(self) -> int:
        """Where the log on this disk ends."""
        return self.base.index + len(self.entries)

    def entry(self, index: int) -> Entry:
        """The entry at `index`, above the base."""
        assert index > self.base.index, f"entry {index} was cut away"
        return self.entries[index - self.base.index - 1]

    def configurations(self) -> list[Configuration]:
        """Those that stand on this disk, oldest first."""
        rows = [] if self.base_configuration is None else [self.base_configuration[1]]
        rows += [entry.payload for entry in self.entries if entry.kind == EntryKind.CONFIGURATION]
        return [Configuration.decode(raw) for raw in rows]

    def lose_state(self) -> None:
        """The file of the state machine is damaged and set aside; log, term and vote are whole."""
        self.checkpoint, self.applied, self.installed = Registers(), [], None
        self.is_state_lost = True

    def lose_power(self) -> None:
        """The state machine's last transactions were not synced."""
        if random.random() < 0.5:
            del self.applied[random.randint(0, len(self.applied)) :]


class Work:
    """Blocking work that takes time: a generator does what is before its `yield` when it begins, and the rest when it ends."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._rest: Any = None

    def begin(self) -> None:
        if inspect.isgeneratorfunction(self._work):
            self._rest = self._work()
            next(self._rest)

    def end(self) -> Any:
        if self._rest is None:
            return self._work()
        try:
            next(self._rest)
        except StopIteration as ended:
            return ended.value
        raise AssertionError("work has two steps at most")


class Process:
    """One life of one member: whatever it started stops having effects when it dies."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self.disk = disk
        self.is_alive = True
        self.runners: list[SimulatedRunner] = []

    def die(self) -> None:
        """Kill at this instant; each piece of disk work under way happens to be complete or is lost."""
        self.is_alive = False
        for runner in self.runners:
            runner.die()


class SimulatedLogStore:
    """A `LogStore` on a simulated disk."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk

    def load(self) -> StoredLog:
        disk = self._disk
        terms: list[tuple[int, int]] = []
        configurations = [] if disk.base_configuration is None else [disk.base_configuration]
        size_marks, size_bytes = [], 0
        for index, entry in enumerate(disk.entries, disk.base.index + 1):
            size_bytes += len(entry.payload)
            size_marks.append((index, size_bytes))
            if not terms or terms[-1][1] != entry.term:
                terms.append((index, entry.term))
            if entry.kind == EntryKind.CONFIGURATION:
                configurations.append((index, entry.payload))
        return StoredLog(disk.base, terms, configurations, disk.last_index, size_marks)

    def write(self, erase_from: int | None, first_index: int, entries: Sequence[Entry]) -> None:
        disk = self._disk
        if erase_from is not None:
            del disk.entries[erase_from - disk.base.index - 1 :]
        assert disk.last_index == first_index - 1, "a gap in the log"
        disk.entries.extend(entries)

    def read(self, first_index: int, last_index: int, *, max_bytes: int) -> list[Entry]:
        start = self._disk.base.index + 1
        found = self._disk.entries[first_index - start : last_index - start + 1] if first_index >= start else []
        if len(found) != last_index - first_index + 1:
            raise LogDamagedError("entries are missing")
        size_bytes = list(accumulate(len(entry.payload) for entry in found))
        return found[: 1 + sum(size <= max_bytes for size in size_bytes)]

    def cut(self, index: int) -> bool:
        disk = self._disk
        for position in range(disk.base.index + 1, min(index, disk.base.index + CUT_ENTRIES) + 1):
            entry = disk.entries.pop(0)
            if entry.kind == EntryKind.CONFIGURATION:
                disk.base_configuration = (position, entry.payload)
            disk.base = LogPosition(index=position, term=entry.term)
        return disk.base.index >= index

    def reset(self, base: LogPosition, configuration: tuple[int, bytes] | None) -> None:
        disk = self._disk
        disk.entries.clear()
        disk.base, disk.base_configuration = base, configuration


class SimulatedHardState:
    """A `HardStateStore`: synchronous, as the real one."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk
        self._cached = disk.hard_state

    @property
    def term(self) -> int:
        return self._cached[0]

    @property
    def voted_for(self) -> str | None:
        return self._cached[1]

    def update(self, change: dict[str, Any]) -> None:
        term, voted_for = self._cached
        assert change.get("term", term) >= term, "the term goes back"
        self._cached = (change.get("term", term), change.get("voted_for", voted_for))
        self._save()

    def _save(self) -> None:
        self._disk.hard_state = self._cached


class SimulatedRunner:
    """A `BlockingRunner`: work takes simulated time and ends on the disk, unless the process dies first."""

    def __init__(self, process: Process, latency_s: tuple[float, float]) -> None:
        self._latency_s = latency_s
        self._process = process
        self._queue: list[tuple[Work, Callable[[Any, BaseException | None], None]]] = []
        process.runners.append(self)

    def submit(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self._queue.append((Work(work), done))
        if len(self._queue) == 1:
            self._schedule()

    def die(self) -> None:
        if self._queue and random.random() < 0.5:
            self._queue[0][0].end()  # it had reached the disk; nobody was told
        self._queue.clear()

    def _schedule(self) -> None:
        self._queue[0][0].begin()
        asyncio.get_running_loop().call_later(random.uniform(*self._latency_s), self._finish)

    def _finish(self) -> None:
        if not self._process.is_alive or not self._queue:
            return
        work, done = self._queue[0]
        try:
            result, error = work.end(), None
        except Exception as raised:  # noqa: BLE001 handed to `done`, as the real runner does
            result, error = None, raised
        self._queue.pop(0)
        if self._queue:
            self._schedule()
        done(result, error)
