"""Gives a consistent copy of this member's metadata away, over the signed API: the source of backups.

The copy is made beside the applying (`metadata.copy`) and lies in the data folder while it is sent; there is one at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from services.consensus.metadata.copy import write_copy
from services.consensus.metadata.store import MetadataStore
from services.consensus.persistence.file_digest import hash_file
from shared.errors import OverloadedError
from shared.units import MIB

COPY_NAME: Final = "backup_copy.sqlite"


class BackupCopy:
    """One copy, to be sent once; removed when it is closed."""

    def __init__(self, path: Path, last_applied: int, digest: str) -> None:
        self._path = path
        self.last_applied = last_applied
        self.digest = digest
        self.size_bytes = path.stat().st_size

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes, read off the loop as they are taken."""
        with self._path.open("rb") as file:
            while piece := await asyncio.to_thread(file.read, MIB):
                yield piece


class BackupSource:
    """Makes copies for backups."""

    def __init__(self, store: MetadataStore, folder: Path) -> None:
        self._store = store
        self._path = folder / COPY_NAME
        self._is_busy = False
        # Left over when the process ended while it was sent.
        self._path.unlink(missing_ok=True)

    async def open(self) -> BackupCopy:
        """A copy at the last applied index; `close` must follow.

        Raises:
            OverloadedError: another one is being sent; definite.
        """
        if self._is_busy:
            raise OverloadedError("Another backup is being made from this member.")
        self._is_busy = True
        try:
            last_applied, digest = await asyncio.to_thread(self._make)
            return BackupCopy(self._path, last_applied, digest)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the copy."""
        self._path.unlink(missing_ok=True)
        self._is_busy = False

    def _make(self) -> tuple[int, str]:
        last_applied = write_copy(self._store.path, self._path)
        return last_applied, hash_file(self._path)[0].hex()
