"""Files of chunks that were read lately, kept open: what the page cache still holds is read again without a thread (S-78).

A hop to a thread and back costs more than copying 1 MiB. But nothing on the event loop may wait for a disk, so the file is
open already, and `RWF_NOWAIT` makes the kernel say that a page is not in memory instead of fetching it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.storage.body_buffers import BodyBuffers
from services.storage.ports import Body
from shared.units import MIB

MAX_FILE_BYTES: Final = 2 * MIB
"""Larger ones go through a thread every time: hashing them would hold the loop for longer than a hop costs."""

_CAN_ASK: Final = hasattr(os, "RWF_NOWAIT")


@dataclass(frozen=True, slots=True)
class _OpenFile:
    fd: int
    size_bytes: int


class WarmFiles:
    """At most `limit` open files, the least recently read closed first. The event loop reads; disk threads do the rest.

    Invariant: a file in here had a row in the catalog when it came, and leaves between the COMMIT that takes the row away
    and the answer that tells of it. So what was deleted or found bad is not served from here.
    """

    def __init__(self, limit: int, buffers: BodyBuffers) -> None:
        # Most descriptors are for connections and for files under way.
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if allowed != resource.RLIM_INFINITY:
            limit = min(limit, allowed // 4)
        self._limit = limit if _CAN_ASK else 0
        self._buffers = buffers
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()
        self._removals = 0
        # Also held while a file is read: its descriptor must not be closed, and given to another file, meanwhile.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._files)

    def read(self, digest: str) -> Body | None:
        """The file as the page cache has it, unchecked; None when it is not open or not all of it is in memory."""
        with self._lock:
            found = self._files.get(digest)
            if found is None:
                return None
            self._files.move_to_end(digest)
            is_common = found.size_bytes == self._buffers.size_bytes
            body: bytearray | memoryview = (
                memoryview(self._buffers.take()) if is_common else bytearray(found.size_bytes)
            )
            try:
                read_bytes = os.preadv(found.fd, [body], 0, os.RWF_NOWAIT)
            except OSError:  # no page of it is there, or the file system cannot tell
                return None
            return body if read_bytes == found.size_bytes else None

    def removals(self) -> int:
        """A number to read before a row is looked up, for `keep`."""
        with self._lock:
            return self._removals

    def keep(self, digest: str, path: Path, size_bytes: int, removals_before: int) -> None:
        """Open the file of a chunk that was just read, unless any row was removed since `removals_before`. Blocks."""
        if self._limit == 0 or size_bytes > MAX_FILE_BYTES:
            return
        try:
            opened = _OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), size_bytes)
        except OSError:
            return
        with self._lock:
            if self._removals != removals_before:  # it may have been this one
                closing = [opened]
            else:
                # One that is here already may be another file of that name, which was replaced.
                closing = self._pop([digest])
                self._files[digest] = opened
                if len(self._files) > self._limit:
                    closing.append(self._files.popitem(last=False)[1])
        _close(closing)

    def forget(self, digests: Iterable[str]) -> None:
        """Rows were removed. Blocks: the last descriptor of an unlinked file frees its space."""
        with self._lock:
            self._removals += 1
            closing = self._pop(digests)
        _close(closing)

    def close(self) -> None:
        """Close all of them. Blocks."""
        self.forget(list(self._files))

    def _pop(self, digests: Iterable[str]) -> list[_OpenFile]:
        found = (self._files.pop(digest, None) for digest in digests)
        return [opened for opened in found if opened is not None]


def _close(files: Iterable[_OpenFile]) -> None:
    for opened in files:
        # Nothing was written through it; some file systems report errors of others here.
        with contextlib.suppress(OSError):
            os.close(opened.fd)
