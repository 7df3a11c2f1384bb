"""The few file operations that must survive power loss, each with its fsyncs in the right order.

A rename without an fsync of the directory loses the name in a power cut (docs/promises.md, P1).
All calls block; they belong in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_MAX_PIECES_PER_CALL: Final = 512
"""Below IOV_MAX (1024 on Linux)."""


class SyncFailedError(OSError):
    """The kernel reported that bytes did not reach the medium. Never retry: the process must stop acknowledging."""


def sync_data(fd: int) -> None:
    """Call fdatasync. Raises SyncFailedError."""
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise SyncFailedError(error.errno, error.strerror) from error


def sync_directory(path: Path) -> None:
    """Make renames and unlinks in `path` durable. Raises SyncFailedError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        raise SyncFailedError(error.errno, error.strerror) from error
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Make the bytes durable that any descriptor of this file has written; its name is another matter. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_data(fd)
    finally:
        os.close(fd)


def write_new_file(path: Path, pieces: Sequence[bytes | memoryview]) -> None:
    """Write `pieces` to a file that must not exist; its bytes are durable on return, its name is not yet.

    On any error the file is removed as far as possible.

    Raises:
        OSError: it could not be written, e.g. ENOSPC.
        SyncFailedError: it was written and is not durable.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _write_all(fd, pieces)
        sync_data(fd)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def replace_file(path: Path, body: bytes) -> None:
    """Put `body` at `path`, durably and in one step: a reader sees the old file or the new one. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    write_new_file(temporary, [body])
    temporary.rename(path)
    sync_directory(path.parent)


def _write_all(fd: int, pieces: Sequence[bytes | memoryview]) -> None:
    """Write without joining the pieces first: a copy of 1 MiB costs as much as its digest."""
    views = [memoryview(piece) for piece in pieces if piece]
    while views:
        written_bytes = os.writev(fd, views[:_MAX_PIECES_PER_CALL])
        while views and written_bytes >= len(views[0]):
            written_bytes -= len(views.pop(0))
        if written_bytes:
            views[0] = views[0][written_bytes:]
