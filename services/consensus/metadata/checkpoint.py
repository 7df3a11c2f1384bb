"""Makes what was applied durable, beside the applying: the log may be cut below it afterwards.

The state machine commits without fsync, because the Raft log replays what a power cut takes away. Before the log is cut, this
module syncs SQLite's write-ahead file, and moves it into the main file so that it stays short. The bulk is moved on a
connection of its own, which neither the writer nor a reader waits for; the writer moves the last frames itself, so that the
file starts over with its next transaction. Source: https://sqlite.org/wal.html, "Avoiding Excessively Large WAL Files".
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from shared.disk.durable_files import sync_file
from shared.units import KIB, MIB

SMALL_FRAMES: Final = 256
"""Few enough for the writer to move: 1 MiB of pages."""

_ROUNDS: Final = 4
_CACHE_BYTES: Final = 2 * MIB


def sync_write_ahead(path: Path) -> None:
    """Make every transaction durable that was committed before the call. Blocks.

    Frames that are no longer in the write-ahead file were synced into the main file before SQLite let go of them.

    Raises:
        SyncFailedError: what is durable is not known any more; never retry.
    """
    sync_file(path.with_name(path.name + "-wal"))


def move_bulk(path: Path) -> int:
    """Move frames into the main file until few are left; nobody waits. Returns how many are left. Blocks.

    Raises:
        sqlite3.Error: there is no room, or the file is damaged.
    """
    # Not created when it is missing: a snapshot may have taken its place a moment ago.
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
    try:
        connection.execute(f"PRAGMA cache_size=-{_CACHE_BYTES // KIB}")
        left = 0
        for _ in range(_ROUNDS):
            left = move_now(connection)
            if left <= SMALL_FRAMES:
                break
        return left
    finally:
        connection.close()


def is_for_want_of_room(error: sqlite3.OperationalError) -> bool:
    """Whether frames could not be moved because the disk is full or somebody reads: they stay, durable where they are."""
    return error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def move_now(connection: sqlite3.Connection) -> int:
    """One passive checkpoint; returns how many frames it had to leave because of readers or newer writes."""
    _, frames, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(max(0, frames - moved))
