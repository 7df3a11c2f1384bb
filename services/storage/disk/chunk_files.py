"""The folders in which large chunks lie, one file each, and what a crash may have left in them.

    chunks/<first two hex digits>/<digest>   whole chunks
    tmp/<digest>.<number>                    being written; removed at start
    quarantine/<digest>.<number>             found bad; kept for people, never served

All three are on one file system, so that a rename moves no bytes. Names are digests, never words from a client.
All calls block.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Final

import structlog

from services.storage.body_buffers import BodyBuffers, make_body_buffers
from services.storage.disk.direct_io import DirectIo
from services.storage.ports import Body, Chunk
from shared.contracts.names import check_digest
from shared.disk.durable_files import sync_directory
from shared.errors import InvalidNameError

logger = structlog.get_logger(__name__)

_MAX_QUARANTINED: Final = 256


class ChunkFiles:
    """Names and files under one root."""

    def __init__(self, root: Path, buffers: BodyBuffers | None = None) -> None:
        self._chunks = root / "chunks"
        self._temporary = root / "tmp"
        self._quarantine = root / "quarantine"
        self._numbers = itertools.count()
        self._direct = DirectIo(make_body_buffers() if buffers is None else buffers)

    def prepare(self) -> None:
        """Make the folders, durably, and remove what an earlier process left half written. Raises OSError."""
        for folder in (self._temporary, self._quarantine, self._chunks):
            folder.mkdir(exist_ok=True)
        for prefix in range(256):
            (self._chunks / f"{prefix:02x}").mkdir(exist_ok=True)
        sync_directory(self._chunks)
        sync_directory(self._chunks.parent)
        for leftover in self._temporary.iterdir():
            leftover.unlink()

    def open(self) -> None:
        """Find out how files are best written here. Raises OSError."""
        self._direct.probe(self._temporary)

    @property
    def is_direct(self) -> bool:
        """Whether reads past the page cache are what they say here."""
        return self._direct.is_direct

    def path_of(self, digest: str) -> Path:
        """Where the chunk lies, or would lie."""
        return self._chunks / digest[:2] / digest

    def write_temporary(self, chunk: Chunk) -> Path:
        """The bytes, durable, under a name that a crash forgets. Raises OSError, SyncFailedError."""
        path = self._temporary / f"{chunk.digest}.{next(self._numbers)}"
        self._direct.write_new_file(path, chunk.pieces, chunk.blocks)
        return path

    def read_past_cache(self, digest: str) -> Body:
        """The file as the medium has it now, unchecked. Raises OSError."""
        return self._direct.read_file(self.path_of(digest))

    def read(self, digest: str) -> bytes:
        """The file, unchecked, from the page cache if it is there. Raises OSError."""
        # Unbuffered: one read of the right size into one object.
        with self.path_of(digest).open("rb", buffering=0) as file:
            return file.readall()

    def _quarantine_path(self, digest: str) -> Path:
        """A free name in the quarantine; the oldest files are removed when it is full."""
        quarantined = sorted(self._quarantine.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in quarantined[: max(0, len(quarantined) - _MAX_QUARANTINED + 1)]:
            path.unlink(missing_ok=True)
        return self._quarantine / f"{digest}.{os.getpid()}-{next(self._numbers)}"

    def move_to_quarantine(self, digest: str) -> None:
        """Take the file out of the chunks, if there is one. The caller syncs its folder. Raises OSError."""
        path = self.path_of(digest)
        if path.exists():
            path.rename(self._quarantine_path(digest))

    def files_under(self, prefix: int) -> set[str]:
        """Digests of the chunk files in one of the 256 folders; foreign names are logged and left alone."""
        found: set[str] = set()
        with os.scandir(self._chunks / f"{prefix:02x}") as entries:
            for entry in entries:
                if _is_chunk_name(entry.name, prefix):
                    found.add(entry.name)
                else:
                    logger.warning("foreign file among the chunks", name=entry.name)
        return found


def _is_chunk_name(name: str, prefix: int) -> bool:
    try:
        return check_digest(name)[:2] == f"{prefix:02x}"
    except InvalidNameError:
        return False
