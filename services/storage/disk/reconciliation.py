"""Makes chunk files and rows agree at start: a crash leaves files without rows, damage from outside rows without files.

Folder by folder: memory stays small however many chunks there are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from services.storage.disk import catalog, pending_unlinks
from services.storage.disk.chunk_files import ChunkFiles
from services.storage.disk.group_commit import Transaction

FOLDER_COUNT = 256


@dataclass(frozen=True, slots=True)
class Differences:
    """Digests of one folder.

    Attributes:
        unnamed: files without a row, which nobody was told of. Their bytes are unknown until they are read.
        deleted: files without a row whose deletion was acknowledged.
        missing: rows without a file.
    """

    unnamed: list[str]
    deleted: list[str]
    missing: list[str]


def find_differences(sql: sqlite3.Connection, files: ChunkFiles, prefix: int) -> Differences:
    """Compare the files of one of the `FOLDER_COUNT` folders with their rows."""
    present = files.files_under(prefix)
    named = catalog.large_digests(sql, prefix)
    unnamed = sorted(present - named)
    deleted = [digest for digest in unnamed if pending_unlinks.is_recorded(sql, digest)]
    return Differences(
        [digest for digest in unnamed if digest not in deleted], deleted, missing=sorted(named - present)
    )


def resolve(
    transaction: Transaction, files: ChunkFiles, found: Differences, whole: Sequence[str], bad: Sequence[str]
) -> None:
    """Adopt the `whole` files, quarantine the `bad` ones, remove the deleted, list chunks without a file as lost.

    A file that is adopted unread would be counted as a replica by the next put of its digest, whatever its bytes are.
    """
    transaction.unlinks += [files.path_of(digest) for digest in found.deleted]
    for digest in whole:
        path = files.path_of(digest)
        # Its bytes were synced before the rename, but no put of it was acknowledged: no upload counts on it, so 0.
        catalog.add_file(transaction, digest, path.stat().st_size, 0)
        transaction.directories.add(path.parent)
    for digest in bad:
        files.move_to_quarantine(digest)
        transaction.directories.add(files.path_of(digest).parent)
    for digest in found.missing:
        catalog.lose(transaction, digest, 0)
