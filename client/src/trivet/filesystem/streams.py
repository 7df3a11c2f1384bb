"""Open files for programs that await: `await fs.open_async(path)`, as `open_files` has them for those that block."""

from __future__ import annotations

import warnings
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

from fsspec.asyn import AbstractAsyncStreamedFile

from trivet.filesystem.entries import Entry
from trivet.filesystem.os_errors import os_errors
from trivet.filesystem.publication import Publication, block_bytes, pieces_of

if TYPE_CHECKING:
    from trivet.filesystem.file_system import TrivetFileSystem


class AsyncReader(AbstractAsyncStreamedFile):
    """Reads one version, from where it stands (`seek`), without reading ahead."""

    def __init__(self, fs: TrivetFileSystem, path: str, entry: Entry, block_size: int) -> None:
        if entry["type"] == "directory":
            raise IsADirectoryError(path)
        self.details = entry
        super().__init__(fs, path, "rb", block_size=block_size, cache_type="none", size=entry["size"])

    async def _fetch_range(self, start: int, end: int) -> bytes:
        found: bytes = await self.fs._cat_file(self.path, start=start, end=end, version=self.details["version"])  # noqa: SLF001 as fsspec names what is awaited
        return found

    def __del__(self) -> None:
        """Nothing is left open; the base would close it, without awaiting."""


class AsyncWriter(AbstractAsyncStreamedFile):
    """Sends each block as a part while the caller goes on; visible when it is closed, or never."""

    blocksize: int

    def __init__(self, fs: TrivetFileSystem, path: str, mode: str, publication: Publication, block_size: int) -> None:
        super().__init__(fs, path, mode, block_size=block_bytes(block_size, 0))
        self._publication, self._block_size = publication, block_size
        self.buffer.write(publication.kept)
        self.loc = publication.offset_bytes

    async def _upload_chunk(self, final: bool = False) -> bool:
        pieces = pieces_of(self.buffer.getbuffer(), self.blocksize, is_last=final)
        try:
            with os_errors(self.path):
                for piece in pieces[:-1] if final else pieces:
                    await self._publication.send(piece)
                if final:
                    await self._publication.publish(pieces[-1])
        except BaseException:
            with suppress(OSError):  # the first error counts
                await self.discard()
            raise
        self.blocksize = block_bytes(self._block_size, self._publication.part_count)
        return True

    async def flush(self, force: bool = False) -> None:
        """Send full blocks. What was flushed is not visible: a file appears when it is closed."""
        if force and self.mode == "ab" and self.loc == self._publication.offset_bytes > 0:
            self.forced = True  # nothing was appended
            return
        await super().flush(force=force)

    async def discard(self) -> None:
        """Give the file up. What stood under its name before stays."""
        self.forced = self.closed = True
        with os_errors(self.path):
            await self._publication.abort()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            await self.discard()

    def __del__(self) -> None:
        if not self.closed:
            self.closed = True
            warnings.warn(f"{self.path} was never closed: nothing of it was stored", RuntimeWarning, stacklevel=2)
