"""A disk that forgets what was not synced: the simulator's log store, hard state and blocking runner.

`SimulatedDisk` outlives the process; everything else dies with it. A write reaches the disk when its simulated fsync ends. A
crash before that loses it, or keeps it without anybody having been told (both happen to real machines).
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from services.consensus.raft.decide import LogPosition
from services.consensus.raft.ports import Entry, EntryKind, LogDamagedError, StoredLog


@dataclass
class SimulatedDisk:
    """What survives a crash of one member.

    `applied` is what the state machine has taken in. Like the real one it is saved on its own, not together with the log, and
    a power cut may take the end of it away. `known` holds the identities of the others' disks as first seen: the real
    handshake refuses a member that comes back with another one.
    """

    entries: list[Entry] = field(default_factory=list)
    hard_state: tuple[int, str | None] = (0, None)
    applied: list[Entry] = field(default_factory=list)
    identity: int = field(default_factory=itertools.count().__next__)
    known: dict[str, int] = field(default_factory=dict)

    def accepts(self, member: str, disk: SimulatedDisk) -> bool:
        """Whether `disk` is the one that was first seen under that name."""
        return self.known.setdefault(member, disk.identity) == disk.identity

    def lose_power(self) -> None:
        """The state machine's last transactions were not synced."""
        if random.random() < 0.5:
            del self.applied[random.randint(0, len(self.applied)) :]


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
        terms: list[tuple[int, int]] = []
        configurations = []
        for index, entry in enumerate(self._disk.entries, 1):
            if not terms or terms[-1][1] != entry.term:
                terms.append((index, entry.term))
            if entry.kind == EntryKind.CONFIGURATION:
                configurations.append((index, entry.payload))
        return StoredLog(LogPosition(term=0, index=0), terms, configurations, len(self._disk.entries))

    def write(self, erase_from: int | None, first_index: int, entries: Sequence[Entry]) -> None:
        kept = self._disk.entries
        if erase_from is not None:
            del kept[erase_from - 1 :]
        assert len(kept) == first_index - 1, "a gap in the log"
        kept.extend(entries)

    def read(self, first_index: int, last_index: int, *, max_bytes: int) -> list[Entry]:
        found = self._disk.entries[first_index - 1 : last_index]
        if len(found) != last_index - first_index + 1:
            raise LogDamagedError("entries are missing")
        size_bytes = list(accumulate(len(entry.payload) for entry in found))
        return found[: 1 + sum(size <= max_bytes for size in size_bytes)]


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
        self._queue: list[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = []
        process.runners.append(self)

    def submit(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self._queue.append((work, done))
        if len(self._queue) == 1:
            self._schedule()

    def die(self) -> None:
        if self._queue and random.random() < 0.5:
            self._queue[0][0]()  # it had reached the disk; nobody was told
        self._queue.clear()

    def _schedule(self) -> None:
        asyncio.get_running_loop().call_later(random.uniform(*self._latency_s), self._finish)

    def _finish(self) -> None:
        if not self._process.is_alive or not self._queue:
            return
        work, done = self._queue[0]
        try:
            result, error = work(), None
        except Exception as raised:  # noqa: BLE001 handed to `done`, as the real runner does
            result, error = None, raised
        self._queue.pop(0)
        if self._queue:
            self._schedule()
        done(result, error)
