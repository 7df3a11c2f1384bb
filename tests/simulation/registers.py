"""A state machine of registers on a simulated disk: what the real one promises about checkpoints and snapshots, in a page."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from blake3 import blake3

from services.consensus.raft.ports import Entry, SnapshotDamagedError, SnapshotMeta
from tests.simulation.disk import Registers, SimulatedDisk
from tests.simulation.invariants import Invariants


class RegisterMachine:
    """A `StateMachine`: put (key, value) once per request id."""

    def __init__(self, member: str, invariants: Invariants, disk: SimulatedDisk) -> None:
        self._member = member
        self._invariants = invariants
        self._disk = disk
        self.state = disk.checkpoint.copy()
        for entry in disk.applied:
            self.state.take(entry)

    @property
    def values(self) -> dict[str, Any]:
        return self.state.values

    @property
    def last_applied(self) -> int:
        return self.state.last_applied

    @property
    def installed(self) -> SnapshotMeta | None:
        return self._disk.installed

    def apply(self, first_index: int, entries: list[Entry]) -> list[Any]:
        assert first_index == self.last_applied + 1, "entries applied out of order"
        answers = []
        for index, entry in enumerate(entries, first_index):
            self._invariants.applied(self._member, index, entry)
            answers.append(self._apply(entry))
            self._disk.applied.append(entry)
        return answers

    def _apply(self, entry: Entry) -> Any:
        return self.state.take(entry)

    def checkpoint(self) -> Generator[None, None, int]:
        """As the real one: it takes its index when it begins, and what is applied while it syncs is not in it."""
        state = self.state.copy()
        yield
        newer = state.last_applied - self._disk.checkpoint.last_applied
        if newer > 0:  # else a snapshot was installed meanwhile
            self._disk.checkpoint = state
            del self._disk.applied[:newer]
        return state.last_applied

    def take_snapshot(self) -> RegisterSnapshot:
        return RegisterSnapshot(self.state.copy())

    def receive(self, meta: SnapshotMeta, offset: int, data: bytes) -> int:
        parts = self._disk.parts
        for other in [digest for digest in parts if digest != meta.digest]:
            del parts[other]
        part = parts.setdefault(meta.digest, bytearray())
        if offset == len(part):
            part.extend(data)
        return len(part)

    def install(self, meta: SnapshotMeta) -> None:
        raw = bytes(self._disk.parts.pop(meta.digest))
        if blake3(raw).digest() != meta.digest:
            raise SnapshotDamagedError("other bytes than announced")
        state = Registers.unpack(raw)
        if state.last_applied != meta.position.index:
            raise SnapshotDamagedError("another index than announced")
        self._invariants.became(self._member, meta.position, state)
        disk = self._disk
        disk.checkpoint, disk.applied, disk.installed, disk.is_state_lost = state.copy(), [], meta, False
        self.state = state


class RegisterSnapshot:
    """A `Snapshot` of registers."""

    def __init__(self, state: Registers) -> None:
        self._raw = state.pack()
        self.last_applied = state.last_applied
        self.size_bytes = len(self._raw)
        self.digest = blake3(self._raw).digest()

    def read(self, offset: int, size_bytes: int) -> bytes:
        return self._raw[offset : offset + size_bytes]

    def close(self) -> None:
        self._raw = b""
