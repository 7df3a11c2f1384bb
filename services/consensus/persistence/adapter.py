"""Between the engine and the metadata: committed entries in, stored results out; checkpoints and snapshots of the whole."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from services.consensus.metadata.copy import PIECE_BYTES, write_copy
from services.consensus.metadata.database import RowDamagedError, UnknownTablesError
from services.consensus.metadata.entries import CommittedEntry, UnknownEntryError, decode_proposal
from services.consensus.metadata.store import MetadataStore
from services.consensus.metadata.verification import verify
from services.consensus.persistence.file_digest import hash_file
from services.consensus.persistence.state_files import StateFiles
from services.consensus.raft.decide import LogPosition
from services.consensus.raft.ports import (
    CannotApplyError,
    Entry,
    EntryKind,
    SnapshotDamagedError,
    SnapshotMeta,
)
from shared.contracts.metadata import ProposalResult
from shared.units import MIB

logger = structlog.get_logger(__name__)

COPY_BYTES_PER_S: Final = 96 * MIB
"""A copy shares disk and processor with the log; nobody waits for it but a follower that is far behind."""


class StateMachineAdapter:
    """The engine's `StateMachine` over the metadata store.

    `apply`, `receive` and `install` belong to the applying thread, `checkpoint`, `take_snapshot` and what is done with a
    snapshot to the compaction thread.
    """

    def __init__(
        self,
        store: MetadataStore,
        files: StateFiles,
        *,
        reserve_bytes: int = 0,
        observe_apply_s: Callable[[float], object] = lambda _: None,
    ) -> None:
        """`observe_apply_s` is told how long each batch took, on the applying thread."""
        self._observe_apply_s = observe_apply_s
        self._store = store
        self._files = files
        self._reserve_bytes = reserve_bytes

    @property
    def last_applied(self) -> int:
        """See `StateMachine`."""
        return self._store.last_applied

    @property
    def installed(self) -> SnapshotMeta | None:
        """See `StateMachine`."""
        return self._files.installed

    def apply(self, first_index: int, entries: Sequence[Entry]) -> list[ProposalResult | None]:
        """See `StateMachine`: one transaction for all of them; for those before it when one is not known here."""
        batch = committed_entries(first_index, entries)
        began_s = time.perf_counter()
        try:
            results = self._store.apply_batch(batch)
        except UnknownEntryError as error:
            known = list(itertools.takewhile(_is_known, batch))
            if not known:
                raise CannotApplyError(f"log entry {first_index}: {error}") from error
            return self._store.apply_batch(known)
        self._observe_apply_s(time.perf_counter() - began_s)
        return results

    def checkpoint(self) -> int:
        """See `StateMachine`."""
        return self._store.checkpoint()

    def take_snapshot(self) -> FileSnapshot:
        """See `StateMachine`. Raises OSError, sqlite3.Error; ENOSPC already when the disk's reserve would be used up."""
        path = self._files.copy_path
        path.unlink(missing_ok=True)
        try:
            self._check_room(self._files.size_bytes())
            snapshot = FileSnapshot(path, write_copy(self._store.path, path, pace=_Pace(COPY_BYTES_PER_S).rest))
        except (OSError, sqlite3.Error):
            logger.exception("no snapshot could be made; it is tried again")
            raise
        logger.info("snapshot made", log_index=snapshot.last_applied, size_bytes=snapshot.size_bytes)
        return snapshot

    def receive(self, meta: SnapshotMeta, offset: int, data: bytes) -> int:
        """See `StateMachine`. Raises OSError; ENOSPC already when the disk's reserve would be used up."""
        try:
            self._check_room(meta.size_bytes - offset)
            return self._files.receive(meta, offset, data)
        except OSError:
            logger.exception("a piece of a snapshot could not be kept; it is asked for again")
            raise

    def install(self, meta: SnapshotMeta) -> None:
        """See `StateMachine`."""
        tables = self._files.complete(meta)
        try:
            state = verify(tables)
        except (UnknownTablesError, RowDamagedError, sqlite3.Error) as error:
            self._files.remove_others()
            logger.exception("a snapshot cannot be used and was dropped")
            raise SnapshotDamagedError(f"the snapshot cannot be used here: {error}") from error
        if LogPosition(index=state.last_applied, term=state.last_term) != meta.position:
            self._files.remove_others()
            raise SnapshotDamagedError(f"the snapshot is at index {state.last_applied} of term {state.last_term}")
        self._files.put_in_force(tables, meta)
        self._store.replace_with(tables)
        self._files.remove_others()
        logger.info("snapshot installed", log_index=meta.position.index, size_bytes=meta.size_bytes)

    def _check_room(self, wanted_bytes: int) -> None:
        """A snapshot must not take the room that the log needs: a log that cannot be written ends the member."""
        found = os.statvfs(self._files.copy_path.parent)
        if found.f_bavail * found.f_frsize < wanted_bytes + self._reserve_bytes:
            raise OSError(errno.ENOSPC, "not enough room for a snapshot beside the reserve")


class _Pace:
    """Rests between the pieces of a copy, so that it takes no more than its share of the disk."""

    def __init__(self, bytes_per_s: int) -> None:
        self._piece_s = PIECE_BYTES / bytes_per_s
        self._next_s = time.monotonic()

    def rest(self) -> None:
        self._next_s += self._piece_s
        time.sleep(max(0.0, self._next_s - time.monotonic()))


class FileSnapshot:
    """A `Snapshot` in a file of its own, deleted when it is closed."""

    def __init__(self, path: Path, last_applied: int) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.last_applied = last_applied
        self.digest, self.size_bytes = hash_file(path)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """See `Snapshot`."""
        return os.pread(self._descriptor, size_bytes, offset)

    def close(self) -> None:
        """See `Snapshot`."""
        os.close(self._descriptor)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


def committed_entries(first_index: int, entries: Sequence[Entry]) -> list[CommittedEntry]:
    """Log entries as the state machine sees them."""
    return [
        CommittedEntry(index, entry.term, entry.payload if entry.kind == EntryKind.COMMAND else None)
        for index, entry in enumerate(entries, first_index)
    ]


def _is_known(entry: CommittedEntry) -> bool:
    try:
        if entry.payload is not None:
            decode_proposal(entry.payload)
    except UnknownEntryError:
        return False
    return True
