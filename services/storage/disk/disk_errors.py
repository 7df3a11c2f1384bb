"""What a failed system call means: full, short of something for now, or broken.

The one place that decides, because only the first two may be retried; after the last the disk is not to be trusted.
"""

from __future__ import annotations

import errno
import sqlite3
from typing import Final

import structlog

from services.storage.disk.write_gate import WriteGate
from shared.disk.durable_files import SyncFailedError
from shared.errors import DiskFullError, InternalError, TrivetError, UnavailableError

logger = structlog.get_logger(__name__)

_FULL: Final = {errno.ENOSPC, errno.EDQUOT}
_SHORTAGE: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Of descriptors or memory, in this process or this machine. It passes, and says nothing about the disk."""


def error_from_write(error: OSError, gate: WriteGate) -> TrivetError:
    """The typed error behind a failed write of a chunk's own file, which nothing refers to yet.

    A file system that allocates late reports "full" at the sync; only this abandoned file was at stake, so the gate stays
    open for that. Every other failed sync or write closes it.
    """
    if is_full(error):
        return DiskFullError("The file system is full.")
    if is_shortage(error):
        return _shortage(error)
    kind = "fsync" if isinstance(error, SyncFailedError) else "write"
    gate.close(f"{kind} failed: {error.strerror}")
    return UnavailableError(f"The disk failed: {error.strerror}.", definite=False, retry_after_s=60)


def error_from_commit(error: Exception, gate: WriteGate) -> TrivetError:
    """The typed error behind a failed transaction, which was rolled back."""
    if isinstance(error, sqlite3.Error):
        if _primary_code(error) == sqlite3.SQLITE_FULL:
            return DiskFullError("The file system is full.")
        if is_shortage(error):
            return _shortage(error)
        gate.close(f"the catalog failed: {error}")
    elif isinstance(error, SyncFailedError):
        gate.close(f"fsync failed: {error.strerror}")
    elif isinstance(error, OSError):
        return error_from_write(error, gate)
    else:
        logger.error("defect in a catalog operation", exc_info=error)
        return InternalError("A defect of ours; it has been logged.")
    return UnavailableError(f"The disk failed: {error}.", definite=False, retry_after_s=60)


def error_from_read(error: sqlite3.Error, gate: WriteGate) -> TrivetError:
    """The typed error behind a question that the catalog could not answer.

    What the records say is not known any more then, so nothing may be promised on top of them; except in a shortage.
    """
    if is_shortage(error):
        return _shortage(error)
    gate.close(f"the catalog cannot be read: {error}")
    return UnavailableError(f"The catalog cannot be read: {error}.", retry_after_s=60)


def is_full(error: OSError) -> bool:
    """Whether the file system, or the share of it, has no room left."""
    return error.errno in _FULL


def is_shortage(error: Exception) -> bool:
    """Whether descriptors or memory were missing, which passes. A failed sync is never that: its pages may be gone."""
    if isinstance(error, sqlite3.Error):
        return _primary_code(error) == sqlite3.SQLITE_NOMEM
    return isinstance(error, OSError) and error.errno in _SHORTAGE and not isinstance(error, SyncFailedError)


def _shortage(error: Exception) -> UnavailableError:
    logger.warning("short of descriptors or memory", error=str(error))
    return UnavailableError("This node is short of file descriptors or memory.", definite=True)


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
