"""A consistent copy of the state machine's file, made while the member goes on applying: for snapshots and for backups.

The copy holds the state at exactly one index. It is made page by page from one read transaction, so nobody waits for it:
in WAL mode readers and the writer do not exclude each other; only the write-ahead file grows until the copy is done.
Pages are copied and not rows (VACUUM INTO), because that costs a fraction of the processor time, and the leader has other
work. Source: https://sqlite.org/backup.html.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shared.disk.durable_files import sync_directory, sync_file
from shared.units import KIB, MIB

PIECE_BYTES: Final = MIB
"""Copied between two calls of `pace`."""

_CACHE_BYTES: Final = 2 * MIB
_SYNC_EVERY_PIECES: Final = 16
"""Synced on the way: one fsync of everything at the end would make the log's own fsyncs wait behind it."""


def write_copy(source: Path, target: Path, *, pace: Callable[[], None] | None = None) -> int:
    """Copy the tables at `source` to the new file `target`; durable, name included, on return. Blocks: give it a thread.

    `pace` is called after every piece: it may rest, so that others get the disk, or raise to give up. On any error
    nothing is left at `target`.

    Returns:
        `last_applied` of the copy.

    Raises:
        FileExistsError: something is at `target`.
        OSError, sqlite3.Error: it could not be read or written.
    """
    target.touch(mode=0o600, exist_ok=False)
    try:
        last_applied = _copy(source, target, pace)
        sync_file(target)
        sync_directory(target.parent)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return last_applied


def _copy(source: Path, target: Path, pace: Callable[[], None] | None) -> int:
    reader = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        reader.execute(f"PRAGMA cache_size=-{_CACHE_BYTES // KIB}")
        # The read transaction pins the copy to one index: without it, SQLite starts again after every write of others.
        reader.execute("BEGIN")
        (last_applied,) = reader.execute("SELECT last_applied FROM state").fetchone()
        (page_size_bytes,) = reader.execute("PRAGMA page_size").fetchone()
        _copy_pages(reader, target, PIECE_BYTES // page_size_bytes, pace)
    finally:
        reader.close()
    return int(last_applied)


def _copy_pages(reader: sqlite3.Connection, target: Path, piece_pages: int, pace: Callable[[], None] | None) -> None:
    pieces = 0

    def after_piece(_status: int, _remaining: int, _total: int) -> None:
        nonlocal pieces
        pieces += 1
        if pieces % _SYNC_EVERY_PIECES == 0:
            sync_file(target)
        if pace is not None:
            pace()

    writer = sqlite3.connect(target, isolation_level=None)
    try:
        # No journal and no fsync of SQLite's own: an unfinished copy is thrown away, a finished one is synced by us.
        writer.execute("PRAGMA journal_mode=OFF")
        writer.execute("PRAGMA synchronous=OFF")
        writer.execute(f"PRAGMA cache_size=-{_CACHE_BYTES // KIB}")
        reader.backup(writer, pages=piece_pages, progress=after_piece)
        # Its head says "WAL", as in the source; a file that stands alone is easier to send and to look at.
        writer.execute("PRAGMA journal_mode=DELETE")
    finally:
        writer.close()
