"""Which file is the state machine now: the tables, snapshots that arrive, and the one step that makes one the other (C-54).

A small checksummed file, replaced atomically, names the current tables and the snapshot that they began as. So an
installation has one instant: before it the old tables are in force, after it the new ones, and a crash leaves nothing in
between. New tables come under a new name, because SQLite would apply the write-ahead file of the old ones to them.

Whatever else lies in the folder under these names is left over from a crash, and removed at the next start; pieces of a snapshot
stay, so that a transfer goes on where it ended.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from services.consensus.persistence.checked_file import read_checked, write_checked
from services.consensus.persistence.file_digest import hash_file
from services.consensus.raft.ports import SnapshotDamagedError, SnapshotFields, SnapshotMeta
from shared.disk.durable_files import sync_directory, sync_file

FIRST_NAME: Final = "metadata.sqlite"
_POINTER: Final = "current_metadata"


class StateFiles:
    """The files of one member's state machine. Methods block; one thread at a time, except `copy_path`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name, self._installed = self._read_pointer()
        self.remove_others()

    @property
    def current(self) -> Path:
        """The tables in force."""
        return self._folder / self._name

    @property
    def installed(self) -> SnapshotMeta | None:
        """The snapshot that they began as, if any."""
        return self._installed

    @property
    def copy_path(self) -> Path:
        """Where a copy of the tables for others is made; what is left there from an earlier life is removed at start."""
        return self._folder / "metadata_copy.sqlite"

    def size_bytes(self) -> int:
        """Of the tables in force, with their write-ahead file."""
        return sum(path.stat().st_size for path in self._folder.glob(f"{self._name}*") if path.is_file())

    def receive(self, meta: SnapshotMeta, offset: int, data: bytes) -> int:
        """Append `data` if what was received of this snapshot ends at `offset`. Returns how many bytes are held."""
        part = self._part(meta)
        for other in self._folder.glob("snapshot-*.part"):
            if other != part:
                other.unlink()
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            held_bytes = os.fstat(descriptor).st_size
            if held_bytes > meta.size_bytes:
                os.ftruncate(descriptor, 0)
                held_bytes = 0
            if data and offset == held_bytes:
                held_bytes += os.pwrite(descriptor, data, offset)
            return held_bytes
        finally:
            os.close(descriptor)

    def complete(self, meta: SnapshotMeta) -> Path:
        """Check what was received and make it durable under the name of tables, which are not in force yet.

        Raises:
            SnapshotDamagedError: it is not the snapshot that was announced; it is removed.
        """
        part = self._part(meta)
        self._check(part, meta)
        tables = self._folder / f"metadata-{meta.position.index}-{meta.digest.hex()[:8]}.sqlite"
        assert tables != self.current, "a snapshot is installed twice"
        part.rename(tables)
        sync_directory(self._folder)
        return tables

    def put_in_force(self, tables: Path, meta: SnapshotMeta | None) -> None:
        """From now on, durably, `tables` are the state machine."""
        write_checked(self._folder / _POINTER, tables.name, None if meta is None else meta.to_wire())
        self._name, self._installed = tables.name, meta

    def set_aside(self) -> Path:
        """The tables in force are damaged: keep them as evidence, begin with none. Returns where they are kept."""
        evidence = self._folder / "damaged_metadata.sqlite"
        if evidence.exists():  # the first one is kept until an operator takes it away
            evidence = self._folder / "damaged_metadata_again.sqlite"
            _remove_tables(evidence)
        new = self._folder / ("metadata-rebuilt.sqlite" if self._name == FIRST_NAME else FIRST_NAME)
        _remove_tables(new)
        damaged = self.current
        self.put_in_force(new, None)
        # With its write-ahead file, which may hold what is nowhere else.
        for suffix in ("-wal", ""):
            part = damaged.with_name(damaged.name + suffix)
            if part.exists():
                part.rename(evidence.with_name(evidence.name + suffix))
        self.remove_others()
        return evidence

    def remove_others(self) -> None:
        """Tables that are not in force, with SQLite's files beside them."""
        for path in self._folder.glob("metadata*.sqlite*"):
            if not path.name.startswith(self._name):
                path.unlink(missing_ok=True)

    def _part(self, meta: SnapshotMeta) -> Path:
        return self._folder / f"snapshot-{meta.position.index}-{meta.digest.hex()[:16]}.part"

    def _check(self, part: Path, meta: SnapshotMeta) -> None:
        # Synced first: what is checked is then what a power cut leaves.
        sync_file(part)
        if hash_file(part) != (meta.digest, meta.size_bytes):
            part.unlink()
            raise SnapshotDamagedError(f"{part.name} does not have the digest that the leader announced")

    def _read_pointer(self) -> tuple[str, SnapshotMeta | None]:
        fields = read_checked(self._folder / _POINTER)
        if fields is None:
            return FIRST_NAME, None
        name, meta = fields
        return name, None if meta is None else SnapshotMeta.from_wire(SnapshotFields(*meta))


def _remove_tables(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
