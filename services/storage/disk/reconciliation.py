"""Makes chunk files and rows agree at start: a crash leaves files without rows, damage from outside rows without files."""

from __future__ import annotations

from services.storage.disk import catalog, pending_unlinks
from services.storage.disk.chunk_files import ChunkFiles
from services.storage.disk.group_commit import Transaction


def reconcile(transaction: Transaction, files: ChunkFiles) -> tuple[int, int]:
    """Adopt files without a row, and list chunks whose file is missing as lost; how many of each."""
    adopted = lost = 0
    for prefix in range(256):  # folder by folder: memory stays small however many chunks there are
        present = files.files_under(prefix)
        named = catalog.large_digests(transaction.sql, prefix)
        for digest in present - named:
            path = files.path_of(digest)
            if pending_unlinks.is_recorded(transaction, digest):
                transaction.unlinks.append(path)
                continue
            # Its bytes were synced before the rename, but no put of it was acknowledged: no upload counts on it, so 0.
            adopted += catalog.add_file(transaction, digest, path.stat().st_size, 0)
            transaction.directories.add(path.parent)
        for digest in named - present:
            catalog.lose(transaction, digest, 0)
            lost += 1
    return adopted, lost
