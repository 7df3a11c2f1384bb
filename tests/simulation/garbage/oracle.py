"""What must be true after every step of a schedule, kept apart from everything that the product's code keeps.

The promise of a write with quorum W: while fewer than W of the replicas that were counted for it are lost, its chunks exist.
So the oracle keeps, for every chunk that somebody may need, how many replicas are *promised*: those that a publish counted,
less one for each that a fault destroyed, and all N of them again once everything has come to rest. The steps of the product
may move replicas, add to them and take away what is too much; they never bring them below that number. A promise of 0 says
nothing: the faults were more than the write was made for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.contracts.files import FileVersion
from shared.contracts.metadata import ClusterAnswer
from tests.simulation.garbage.log import REFERENCE_RETENTION_S, REPLICA_COUNT, Log

if TYPE_CHECKING:
    from tests.simulation.garbage.node import Node


class ViolationError(AssertionError):
    """A promise was broken."""


@dataclass(frozen=True, slots=True)
class Ack:
    """A node said that it holds a chunk durably, at a step of the schedule, with this disk."""

    step: int
    disk_id: str
    is_hopeless: bool
    """The replica was bad, and the node could not know: it had verified it before it went bad."""


@dataclass(frozen=True, slots=True)
class Version:
    """A file as it was published."""

    key: str
    version: int
    chunks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LookedUp:
    """A linearizable read of a file, and what was true in that step.

    Attributes:
        step: of the schedule.
        index: of the log.
        written: the file as it was published last, by the oracle's own account.
        disks: by node, the disk that the log had recorded.
    """

    step: int
    index: int
    cluster: ClusterAnswer
    file: FileVersion | None
    written: Version | None
    disks: Mapping[str, str]


@dataclass(slots=True)
class Oracle:
    """What clients were told, and what faults destroyed."""

    log: Log
    nodes: dict[str, Node]
    files: dict[str, Version] = field(default_factory=dict)
    promised: dict[str, int] = field(default_factory=dict)
    _ended: list[tuple[Version, float]] = field(default_factory=list)
    _pins: dict[str, tuple[frozenset[str], float]] = field(default_factory=dict)
    _losses: dict[str, list[int]] = field(default_factory=dict)

    # --- what happens ----------------------------------------------------------------------------------------------

    def published(self, key: str, version: int, acks: dict[str, dict[str, Ack]]) -> None:
        """A publish was accepted that counts `acks`, by chunk and node."""
        needed = self.needed()
        runs = self.log.store.runs()
        for digest, by_node in acks.items():
            for node_id, ack in by_node.items():
                run = runs.get(node_id)
                if run is None or run.disk_id != ack.disk_id:
                    raise ViolationError(
                        f"version {version} of {key} counts a replica of {digest[:4]} on a disk of {node_id} that is "
                        "known to be gone"
                    )
            first_step = min(ack.step for ack in by_node.values())
            # A fault comes between two steps, and has the number of the one before.
            lost = sum(step >= first_step for step in self._losses.get(digest, ()))
            kept = sum(not ack.is_hopeless for ack in by_node.values()) - lost
            before = self.promised.get(digest, 0) if digest in needed else 0
            self.promised[digest] = min(max(before, kept), REPLICA_COUNT)
        self._end(key)
        self.files[key] = Version(key, version, tuple(acks))

    def deleted(self, key: str) -> None:
        """A deletion was accepted."""
        self._end(key)

    def backup_began(self, backup_id: str, expires_ms: int) -> None:
        """Everything that exists now is copied."""
        if backup_id not in self._pins:
            chunks = frozenset(digest for version in self.files.values() for digest in version.chunks)
            self._pins[backup_id] = (chunks, expires_ms / 1000)

    def backup_ended(self, backup_id: str) -> None:
        """The copy is done."""
        self._pins.pop(backup_id, None)

    def lost(self, digests: Iterable[str], step: int) -> None:
        """A fault destroyed a good replica of each."""
        for digest in digests:
            self._losses.setdefault(digest, []).append(step)
            if digest in self.promised:
                self.promised[digest] = max(0, self.promised[digest] - 1)

    def may_lose(self, digests: Iterable[str]) -> bool:
        """Whether one replica of each may be destroyed, and a promise is left."""
        needed = self.needed()
        return all(
            self.promised[digest] >= 2 for digest in digests if self.promised.get(digest, 0) and digest in needed
        )

    def restored(self) -> None:
        """Everything is at rest, and all replicas that there should be are there."""
        for digest in self.needed():
            if self.promised.get(digest, 0):
                self.promised[digest] = REPLICA_COUNT

    # --- what readers are told -----------------------------------------------------------------------------------------

    def served(self, read: LookedUp, chunks: Sequence[str]) -> None:
        """A reader gets these chunks.

        Raises:
            ViolationError: they are not those of the file at the time of the read.
        """
        if read.written is None or list(read.written.chunks) != list(chunks):
            raise ViolationError(f"a read at {read.index} gives other content than {read.written}")

    def counted(self, read: LookedUp, digest: str, acks: Mapping[str, Ack]) -> None:
        """A reader is told that these replicas exist, by what their nodes said earlier.

        Raises:
            ViolationError: one was on a disk that was known to be gone at the time of the read. One that a node named after
                it may be on a disk that the log heard of later.
        """
        for node_id, ack in acks.items():
            if ack.step <= read.step and read.disks.get(node_id) != ack.disk_id:
                raise ViolationError(
                    f"a read at {read.index} counts a replica of {digest[:4]} on a disk of {node_id} that is known to be gone"
                )

    # --- what must be true -----------------------------------------------------------------------------------------

    def needed(self) -> set[str]:
        """Chunks that a living version refers to, one that a reader may be in the middle of, or a pinned backup."""
        lived_s = self.log.lived_s
        self._ended = [entry for entry in self._ended if lived_s - entry[1] < REFERENCE_RETENTION_S]
        self._pins = {backup_id: pin for backup_id, pin in self._pins.items() if lived_s < pin[1]}
        needed = {digest for version in self.files.values() for digest in version.chunks}
        needed.update(digest for version, _ in self._ended for digest in version.chunks)
        needed.update(digest for chunks, _ in self._pins.values() for digest in chunks)
        return needed

    def check(self) -> None:
        """After every step.

        Raises:
            ViolationError: fewer replicas are left than were promised.
        """
        needed = self.needed()
        for digest in [digest for digest in self.promised if digest not in needed]:
            del self.promised[digest]
        counted = [self.nodes[node.id] for node in self.log.node_map.nodes]
        for digest, promised in self.promised.items():
            if promised and (left := sum(node.holds_good(digest) for node in counted)) < promised:
                raise ViolationError(f"{left} replicas of {digest[:4]} are left of {promised} promised")

    def broken_promises(self) -> Iterator[str]:
        """Chunks that more faults hit than their writes were made for."""
        return (digest for digest, promised in self.promised.items() if promised == 0)

    def _end(self, key: str) -> None:
        version = self.files.pop(key, None)
        if version is not None:
            self._ended.append((version, self.log.lived_s))
