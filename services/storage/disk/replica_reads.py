"""Reads a replica in a reading thread: past the page cache or through it, and never a byte that is not the chunk's."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import structlog

from services.storage.body_buffers import BUFFER_BYTES
from services.storage.digests import is_whole
from services.storage.disk import catalog
from services.storage.disk.catalog import Row
from services.storage.disk.chunk_files import ChunkFiles
from services.storage.disk.disk_errors import is_shortage
from services.storage.disk.disk_threads import without_frames
from services.storage.disk.recent_reads import RecentReads
from services.storage.disk.row_damage import read_packed
from services.storage.disk.warm_files import WarmFiles
from services.storage.outcomes import too_large_for_a_batch
from services.storage.ports import Body
from services.storage.verified_chunks import VerifiedChunks
from shared.errors import ChunkNotFoundError, TrivetError, UnavailableError

logger = structlog.get_logger(__name__)


class DiskReader:
    """Over the files of a node and the connection of whichever thread reads."""

    def __init__(self, files: ChunkFiles, warm: WarmFiles, verified: VerifiedChunks) -> None:
        self._files = files
        self._warm = warm
        self._verified = verified
        self._recent_reads = RecentReads()

    def read_many(
        self, sql: sqlite3.Connection, digests: Sequence[str], max_bytes: int
    ) -> list[Body | TrivetError | None]:
        """For each of `digests` what `read` gives or raises; and a refusal of one that is longer than `max_bytes`."""
        found: list[Body | TrivetError | None] = []
        for digest in digests:
            try:
                found.append(self.read(sql, digest, past_cache=False, max_bytes=max_bytes))
            except TrivetError as error:
                found.append(without_frames(error))
        return found

    def read(
        self, sql: sqlite3.Connection, digest: str, *, past_cache: bool, max_bytes: int | None = None
    ) -> Body | None:
        """The whole chunk, or None when what lies here, or its record, is bad."""
        removals, forgets = self._warm.removals(), self._verified.forgets()
        row = catalog.find(sql, digest)
        if row is None:
            raise ChunkNotFoundError("This node does not hold the chunk.", digest=digest)
        if max_bytes is not None and row.is_sound and row.size_bytes > max_bytes:
            raise too_large_for_a_batch(max_bytes)
        # A scrub is no reader: what it reads would push out what readers come back to.
        past_cache = past_cache or self._is_first_read(digest, row)
        body = self.read_whole(sql, digest, row, past_cache=past_cache)
        if body is not None and not (row.is_sound and len(body) == row.size_bytes):
            return None  # the record is bad
        if body is not None and row.packed_id is None:
            if past_cache:
                self._verified.record_read(digest, forgets)
            else:
                self._warm.keep(digest, self._files.path_of(digest), len(body), removals)
        return body

    def _is_first_read(self, digest: str, row: Row) -> bool:
        """Whether a file is read for the first time lately: then past the cache, where that costs less."""
        is_file = row.is_sound and row.packed_id is None and row.size_bytes <= BUFFER_BYTES
        return is_file and self._files.is_direct and not self._recent_reads.record(digest)

    def read_whole(self, sql: sqlite3.Connection, digest: str, row: Row, *, past_cache: bool) -> Body | None:
        """The bytes that `row` names, if they are those of the chunk."""
        body = self._read_unchecked(sql, digest, row, past_cache=past_cache)
        return body if body is not None and is_whole(body, digest) else None

    def _read_unchecked(self, sql: sqlite3.Connection, digest: str, row: Row, *, past_cache: bool) -> Body | None:
        try:
            if row.packed_id is not None:
                return read_packed(sql, row.packed_id)
            return self._files.read_past_cache(digest) if past_cache else self._files.read(digest)
        except (OSError, sqlite3.Error) as error:
            if is_shortage(error):
                # No word about the replica: taking it out of service would be wrong.
                raise UnavailableError("This node is short of file descriptors or memory.", digest=digest) from error
            logger.warning("a chunk cannot be read", digest=digest, error=str(error))
            return None
