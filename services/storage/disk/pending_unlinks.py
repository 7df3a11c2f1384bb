"""Files whose deletion was acknowledged and whose unlink may not be durable: after a power cut they would be adopted again.

A file is unlinked after COMMIT and its directory is not synced for it: that would cost every deletion an fsync of its own.
Instead the same transaction notes the digest here. At start, such a file is removed and not adopted; a note is dropped
once the unlink is durable. A row of the catalog outranks a note: what was stored again stays.
"""

from __future__ import annotations

from typing import Final

from services.storage.disk.catalog import find
from services.storage.disk.chunk_files import ChunkFiles
from services.storage.disk.group_commit import Transaction
from services.storage.disk.row_damage import SOUND_DIGEST

MAX_NOTES: Final = 4096
"""From here on the notes are settled: one fsync for each directory among them, whatever their number."""


def note(transaction: Transaction, digest: str) -> None:
    """The file of `digest` is unlinked after this transaction."""
    transaction.sql.execute("INSERT OR IGNORE INTO leaving (digest) VALUES (?)", (bytes.fromhex(digest),))


def is_noted(transaction: Transaction, digest: str) -> bool:
    """Whether the deletion of `digest` was acknowledged since it was last settled."""
    found = transaction.sql.execute("SELECT 1 FROM leaving WHERE digest = ?", (bytes.fromhex(digest),)).fetchone()
    return found is not None


def settle(transaction: Transaction, files: ChunkFiles) -> None:
    """Drop the notes of files that are gone, and have that made durable with this transaction."""
    noted = [digest.hex() for (digest,) in transaction.sql.execute(f"SELECT digest FROM leaving WHERE {SOUND_DIGEST}")]  # noqa: S608 - constants
    # A file that is still there and has no row was deleted in this very transaction.
    gone = [digest for digest in noted if not files.path_of(digest).exists() or find(transaction.sql, digest)]
    transaction.directories.update(files.path_of(digest).parent for digest in gone)
    transaction.sql.executemany("DELETE FROM leaving WHERE digest = ?", [(bytes.fromhex(digest),) for digest in gone])
