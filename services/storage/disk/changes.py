"""What the commit thread does inside a transaction: chunks come, are replaced, go, and are taken out of service.

Each function is one step of `group_commit`: nothing else changes rows or names while it runs, and all of it is undone when the
transaction is rolled back. `tier` says which steps there are to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from services.storage.digests import digest_of, is_nearly
from services.storage.disk import catalog
from services.storage.disk.catalog import Row
from services.storage.disk.chunk_files import ChunkFiles
from services.storage.disk.group_commit import Transaction
from services.storage.disk.holdings import Holdings
from services.storage.disk.pending_unlinks import PendingUnlinks, UnlinksAside
from services.storage.disk.replica_reads import DiskReader
from services.storage.disk.row_damage import read_packed
from services.storage.disk.warm_files import WarmFiles
from services.storage.disk.write_gate import WriteGate
from services.storage.metrics import StorageMetrics
from services.storage.ports import ConditionalDelete
from services.storage.verified_chunks import VerifiedChunks
from shared.errors import TrivetError

TIER_NAME: Final = "disk"

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SmallChunk:
    """A small chunk on its way to disk in a batch."""

    digest: str
    body: bytes
    start_index: int


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A large chunk whose bytes are durable, without its name and its row. Not the bytes: a queue of them costs no memory."""

    temporary: Path
    digest: str
    size_bytes: int
    start_index: int


class ChunkChanges:
    """The steps, on what a folder's threads share.

    Invariant: a row is written only after the bytes that it names are durable.
    """

    def __init__(
        self,
        files: ChunkFiles,
        *,
        reader: DiskReader,
        warm: WarmFiles,
        verified: VerifiedChunks,
        holdings: Holdings,
        pending: PendingUnlinks,
        unlinks_aside: UnlinksAside,
        gate: WriteGate,
        metrics: StorageMetrics,
    ) -> None:
        self._files = files
        self._reader = reader
        self._warm = warm
        self._verified = verified
        self._holdings = holdings
        self._pending = pending
        self._unlinks_aside = unlinks_aside
        self._gate = gate
        self._metrics = metrics

    def publish(self, file: WrittenFile, only_if_lost: bool, transaction: Transaction) -> bool:
        """Give a large chunk its name and its row, or, `only_if_lost`, put it back into its place. Whether it was not held."""
        if not only_if_lost and catalog.find(transaction.sql, file.digest) is None:
            catalog.insert_file(transaction, file.digest, file.size_bytes, file.start_index)
            self._give_name(transaction, file)
            return True
        is_unwanted = only_if_lost and not catalog.is_lost(transaction.sql, file.digest)
        replaced_index = 0 if is_unwanted else self._take_out_unverified(transaction, file.digest)
        start_index = max(file.start_index, replaced_index)
        if is_unwanted or not catalog.add_file(transaction, file.digest, file.size_bytes, start_index):
            transaction.unlinks.append(file.temporary)
            return False
        self._give_name(transaction, file)
        return True

    def _give_name(self, transaction: Transaction, file: WrittenFile) -> None:
        path = self._files.path_of(file.digest)
        transaction.unlinks_aside.discard(file.digest)
        self._unlinks_aside.take_back(file.digest)
        file.temporary.rename(path)
        if file.digest not in transaction.removed:  # otherwise a rollback brings back a row that needs this file
            transaction.created.append(path)
        transaction.directories.add(path.parent)
        # A delete in the same batch asked for the unlink of this name, which is now the new file's.
        transaction.unlinks = [unlink for unlink in transaction.unlinks if unlink != path]

    def add_packed(self, transaction: Transaction, digest: str, body: bytes, start_index: int) -> bool:
        """Store a small chunk; a replica that is held and not verified is replaced by it. Whether it was not held."""
        row = catalog.find(transaction.sql, digest)
        if row is None:
            catalog.insert_packed(transaction, digest, body, start_index)
            return True
        is_held = row.is_sound
        start_index = max(start_index, self._take_out_unverified(transaction, digest))
        return catalog.add_packed(transaction, digest, body, start_index) and not is_held

    def add_small(self, transaction: Transaction, chunks: Sequence[SmallChunk]) -> list[bool]:
        """`add_packed` of each."""
        return [self.add_packed(transaction, chunk.digest, chunk.body, chunk.start_index) for chunk in chunks]

    def add_packed_of(
        self, transaction: Transaction, chunks: Sequence[SmallChunk], results: Sequence[bool | TrivetError | None]
    ) -> list[bool | TrivetError | None]:
        """`results`, with what became of `chunks` in their places."""
        created = iter(self.add_small(transaction, chunks))
        return [next(created) if isinstance(result, bool) else result for result in results]

    def rewrite(self, transaction: Transaction, digest: str, body: bytes) -> None:
        """A small chunk that was just read whole is written anew."""
        row = catalog.find(transaction.sql, digest)
        if row is not None and row.is_sound and row.packed_id is not None:  # otherwise deleted or replaced meanwhile
            self.add_packed(transaction, digest, body, 0)

    def _take_out_unverified(self, transaction: Transaction, digest: str) -> int:
        """Make way for the bytes at hand, if a replica is held that may be bad; the start index that it had, or 0."""
        # The last question searches a list as long as the batch.
        if not catalog.holds(transaction.sql, digest) or digest in self._verified or digest in transaction.written:
            return 0
        row = catalog.remove(transaction, digest)
        if row is None:
            return 0
        if row.packed_id is None:
            self._files.move_to_quarantine(digest)
            transaction.directories.add(self._files.path_of(digest).parent)
            self._metrics.corrupt.labels(tier=TIER_NAME).inc()
            logger.error("chunk corrupt, replaced by the bytes of a put", digest=digest, size_bytes=row.size_bytes)
        return row.start_index

    def delete(self, transaction: Transaction, digest: str) -> bool:
        """Whether it was held."""
        rows = catalog.find_many(transaction.sql, [digest])
        with_files = self._forget(transaction, rows, lost=[digest])
        transaction.unlinks += [self._files.path_of(each) for each in with_files]
        return bool(rows)

    def delete_if(self, transaction: Transaction, candidates: Sequence[ConditionalDelete]) -> set[str]:
        """Delete those whose condition holds; which ones."""
        digests = [each.digest for each in candidates]
        rows = catalog.find_many(transaction.sql, digests)
        lost = catalog.lost_indexes(transaction.sql, digests)
        chosen = {each.digest for each in candidates if _may_delete(each, rows.get(each.digest), lost.get(each.digest))}
        with_files = self._forget(
            transaction,
            {digest: row for digest, row in rows.items() if digest in chosen},
            lost=[digest for digest in lost if digest in chosen],
        )
        transaction.unlinks_aside.update(with_files)
        return chosen

    def _forget(self, transaction: Transaction, rows: Mapping[str, Row], lost: Sequence[str]) -> list[str]:
        """Take `rows` out, and `lost` off the list of lost ones; those whose files are the caller's to unlink."""
        catalog.drop_lost(transaction, lost)
        catalog.remove_rows(transaction, rows)
        with_files = [digest for digest, row in rows.items() if row.packed_id is None]
        self._pending.record(transaction, with_files)
        return with_files

    def take_out_of_service(self, digest: str, transaction: Transaction) -> bool:
        """Quarantine what a reader found bad, if it still is; false where it is whole, or not held any more."""
        # Read again here, where nothing can change meanwhile: inode numbers are reused, so only the bytes can tell whether
        # this is still the replica that a reader found bad.
        row = catalog.find(transaction.sql, digest)
        if row is None:
            return False
        if (body := self._reader.read_whole(transaction.sql, digest, row, past_cache=True)) is not None:
            if not (row.is_sound and len(body) == row.size_bytes):
                catalog.correct(transaction, digest, row, len(body))
                logger.error("the record of a whole chunk was damaged, and is written anew", digest=digest)
            return False
        packed = None if row.packed_id is None else read_packed(transaction.sql, row.packed_id)
        logger.error("chunk corrupt, quarantined", digest=digest, tier=TIER_NAME, size_bytes=row.size_bytes)
        catalog.lose(transaction, digest, row.start_index)
        if packed is not None and is_nearly(actual := digest_of(packed), digest):
            # Damage hit the name in the catalog and not the bytes: they are a whole chunk, and it is missing here.
            catalog.add_packed(transaction, actual, packed, row.start_index)
            logger.warning("a packed chunk lay under a damaged name", digest=digest, actual=actual)
        if row.packed_id is None:
            self._files.move_to_quarantine(digest)
            transaction.directories.add(self._files.path_of(digest).parent)
        return True

    def after_commit(self, transaction: Transaction) -> None:
        """By the commit thread, after COMMIT and before any reply of the batch goes out."""
        if transaction.removed:
            self._warm.forget(transaction.removed)
            self._verified.forget(transaction.removed)
        if self._gate.reason is None:  # else this commit may be in doubt, and its rows be back after a restart
            self._unlinks_aside.add(transaction.unlinks_aside)
        self._verified.record(transaction.written)
        self._holdings.change(transaction)


def restore_packed(transaction: Transaction, digest: str, body: bytes, start_index: int) -> bool:
    """Store a small chunk that is lost; whether it was."""
    return catalog.is_lost(transaction.sql, digest) and catalog.add_packed(transaction, digest, body, start_index)


def lose_unless_held(transaction: Transaction, digest: str, start_index: int) -> None:
    """List a chunk as lost that is not there."""
    if not catalog.holds(transaction.sql, digest):
        catalog.lose(transaction, digest, start_index)


def raise_and_list(transaction: Transaction, start_indexes: Mapping[str, int]) -> set[str]:
    """Raise the start indexes of those that are held; which ones are."""
    held = catalog.present(transaction.sql, list(start_indexes))
    catalog.raise_start_indexes(transaction, [(digest, start_indexes[digest]) for digest in held])
    return held


def _may_delete(candidate: ConditionalDelete, row: Row | None, lost_index: int | None) -> bool:
    if row is not None and not row.is_sound:
        return False  # its start index may be what was damaged; a read, a put or the next start puts it right
    start_index = lost_index if row is None else row.start_index
    return start_index is not None and candidate.condition(start_index)
