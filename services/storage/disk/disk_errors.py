"""What a failed system call means: full, or broken. The one place that decides, because only the first may be retried."""

from __future__ import annotations

import errno
import sqlite3
from typing import Final

import structlog

from services.storage.write_gate import WriteGate
from shared.durable_files import SyncFailedError
from shared.errors import DiskFullError, InternalError, TrivetError, UnavailableError

logger = structlog.get_logger(__name__)

_FULL: Final = {errno.ENOSPC, errno.EDQUOT}


def error_from_write(error: OSError, gate: WriteGate) -> TrivetError:
    """The typed error behind a failed write of a chunk's own file, which nothing refers to yet.

    A file system that allocates late reports "full" at the sync; only this abandoned file was at stake, so the gate stays
    open for that. Every other failed sync or write closes it.
    """
    if error.errno in _FULL:
        return DiskFullError("The file system is full.")
    kind = "fsync" if isinstance(error, SyncFailedError) else "write"
    gate.close(f"{kind} failed: {error.strerror}")
    return UnavailableError(f"The disk failed: {error.strerror}.", definite=False, retry_after_s=60)


def error_from_commit(error: Exception, gate: WriteGate) -> TrivetError:
    """The typed error behind a failed transaction, which was rolled back."""
    if isinstance(error, sqlite3.Error):
        if _primary_code(error) == sqlite3.SQLITE_FULL:
            return DiskFullError("The file system is full.")
        gate.close(f"the catalog failed: {error}")
    elif isinstance(error, SyncFailedError):
        gate.close(f"fsync failed: {error.strerror}")
    elif isinstance(error, OSError):
        return error_from_write(error, gate)
    else:
        logger.error("defect in a catalog operation", exc_info=error)
        return InternalError("A defect of ours; it has been logged.")
    return UnavailableError(f"The disk failed: {error}.", definite=False, retry_after_s=60)


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
