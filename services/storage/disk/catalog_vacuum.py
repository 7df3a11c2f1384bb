"""Gives the free pages of the catalog back to the file system, a few at a time, between commits (S-124).

A deletion puts pages on SQLite's free list, where later chunks take them from; the file never shrinks by itself. A catalog
with `auto_vacuum=INCREMENTAL` moves pages from its end to free ones when it is told, at the price of one more page in most
commits (a map from pages to their parents). What was moved leaves the file at the next checkpoint that gets to its end.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from services.storage.disk.disk_errors import error_from_commit
from services.storage.disk.write_gate import WriteGate
from shared.units import MIB

logger = structlog.get_logger(__name__)

_SLICE_PAGES: Final = 64
"""A millisecond or two, with its fsync. A commit that comes meanwhile waits for it."""
_MIN_PAUSE_S: Final = 0.01
_PAUSE_FACTOR: Final = 4
"""A pause is so many times as long as the slice before it: four fifths of the time belong to commits."""
_CHECKPOINT_RETRY_S: Final = 1.0
_MIN_FREE_PAGES: Final = 256
_START_PART: Final = 8
_STOP_PART: Final = 16
"""It starts when an eighth of the file is free and stops at a sixteenth: what is free is what the next puts need."""
_MAX_CONVERTED_BYTES: Final = 64 * MIB


def make_incremental(sql: sqlite3.Connection, database: Path) -> None:
    """Have a catalog of an earlier version give back space, if it is small; at start. Blocks for about a second at most.

    VACUUM writes the whole file anew, and needs twice its size of room meanwhile. A node with a large catalog would be away
    for that long at its first start, and one that is nearly full could not do it. So a larger one stays as it is: its free
    pages serve later puts, and docs/operations.md says how it is converted. No format of ours depends on it: versions that
    know nothing of it read and write such a file.
    """
    if sql.execute("PRAGMA auto_vacuum").fetchone()[0]:
        return
    if database.stat().st_size > _MAX_CONVERTED_BYTES:
        logger.warning(
            "the catalog keeps the space of deleted chunks for later ones; it is too large to be converted now"
        )
        return
    try:
        sql.execute("PRAGMA auto_vacuum=INCREMENTAL")
        sql.execute("VACUUM")
    except sqlite3.Error as error:
        # As before, then: what is wrong with it, if anything, is for others to find.
        logger.warning("the catalog could not be converted to give space back", error=str(error))


class CatalogVacuum:
    """Used by the commit thread alone, outside of transactions."""

    def __init__(self, sql: sqlite3.Connection, gate: WriteGate, now_s: Callable[[], float] = time.monotonic) -> None:
        self._sql = sql
        self._gate = gate
        self._now_s = now_s
        self._due_at_s: float | None = None
        self._is_moved = False
        """Whether all is moved, and the file only has to be cut."""
        self._is_possible = sql.execute("PRAGMA auto_vacuum").fetchone()[0] == 2
        self.check()

    def check(self) -> None:
        """Chunks were removed: is there enough to give back?"""
        if self._is_possible and self._due_at_s is None and self._has_free_pages(_START_PART):
            self._due_at_s = self._now_s() + _MIN_PAUSE_S
            self._is_moved = False

    def wait_s(self) -> float | None:
        """How long until `step` is due; None when there is nothing to do."""
        return None if self._due_at_s is None else max(0.0, self._due_at_s - self._now_s())

    def step(self) -> None:
        """Move a slice, or cut the file. An error ends it until chunks are removed again; a broken disk closes the gate."""
        began_s = self._now_s()
        try:
            if self._is_moved:
                self._due_at_s = None if self._cut() else began_s + _CHECKPOINT_RETRY_S
                self.check()
                return
            # As a script, because `execute` ends such a statement after its first page.
            self._sql.executescript(f"PRAGMA incremental_vacuum({_SLICE_PAGES})")
            self._is_moved = not self._has_free_pages(_STOP_PART)
        except sqlite3.Error as error:
            self._due_at_s = None
            self._give_up(error)
            return
        ended_s = self._now_s()
        self._due_at_s = ended_s + max(_MIN_PAUSE_S, _PAUSE_FACTOR * (ended_s - began_s))

    def _give_up(self, error: sqlite3.Error) -> None:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT:
            # The map of pages, which nothing but this reads. Chunks go on without it.
            self._is_possible = False
            logger.error("the catalog does not give space back any more: its map of pages is damaged", error=str(error))
        else:
            logger.warning("the catalog did not give space back", error=str(error_from_commit(error, self._gate)))

    def _has_free_pages(self, part: int) -> bool:
        (free,) = self._sql.execute("PRAGMA freelist_count").fetchone()
        (pages,) = self._sql.execute("PRAGMA page_count").fetchone()
        return bool(free > max(_MIN_FREE_PAGES, pages // part))

    def _cut(self) -> bool:
        """Whether the checkpoint got to the end of the write-ahead file. A reader may keep it from that."""
        _, frames, moved = self._sql.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return bool(frames == moved)
