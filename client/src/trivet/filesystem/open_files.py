"""Open files: a reader of one version through a cache of blocks, and a writer whose file appears when it is closed.

What happens to a file that was opened to write:

- the block `with` ends, or `close` is called: everything is durable, and the file is visible, whole;
- the block ends by an exception, `discard` is called, or nobody closes the file: nothing was ever visible, and nothing stays.
"""

from __future__ import annotations

import io
import os
import warnings
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fsspec.asyn import sync
from fsspec.compression import compr
from fsspec.spec import AbstractBufferedFile

from trivet.filesystem.os_errors import os_errors
from trivet.filesystem.publication import Publication, block_bytes, pieces_of

if TYPE_CHECKING:
    from trivet.filesystem.file_system import TrivetFileSystem


class Reader(AbstractBufferedFile):
    """Reads the version that was current when it was opened, whatever is written meanwhile.

    A bucket that keeps no older versions has it no more once it was replaced: then reading on is a FileNotFoundError, and never
    a mixture of two versions. It can be pickled, and goes on from the same place of the same version.
    """

    def __init__(self, fs: TrivetFileSystem, path: str, *, version: int | None = None, **options: Any) -> None:
        self.details = fs.info(path, version=version)
        # The base keeps what it does not know as `self.kwargs`, and hands it over when the file is pickled.
        options.pop("size", None)
        super().__init__(fs, path, "rb", size=self.details["size"], version=self.details["version"], **options)

    def _fetch_range(self, start: int, end: int) -> bytes:
        found: bytes = self.fs.cat_file(self.path, start=start, end=end, version=self.kwargs["version"])
        return found


class Writer(AbstractBufferedFile):
    """Collects blocks, and sends each as a part while the caller goes on."""

    blocksize: int

    def __init__(
        self,
        fs: TrivetFileSystem,
        path: str,
        mode: str,
        publication: Publication,
        *,
        block_size: int,
        autocommit: bool,
    ) -> None:
        """Open it.

        Args:
            publication: of `path`.
            block_size: least bytes of a part, but for the last.
            autocommit: publish at `close`; else at `commit`.
        """
        self._block_size = block_size
        super().__init__(fs, path, mode, block_size=block_bytes(block_size, 0), autocommit=autocommit)
        self._publication, self._pid = publication, os.getpid()
        self._is_new = mode == "xb"
        self.buffer.write(publication.kept)
        self.loc = publication.offset_bytes

    def _upload_chunk(self, final: bool = False) -> bool:
        """Hand over what was collected; the last time, publish it."""
        try:
            pieces = pieces_of(self.buffer.getbuffer(), self.blocksize, is_last=final)
            for piece in pieces[:-1] if final else pieces:
                self._run(self._publication.send, piece)
            if final:
                self._run(self._publication.publish if self.autocommit else self._publication.hold, pieces[-1])
        except BaseException:
            with suppress(OSError):  # the first error counts; an upload that could not be given up now ends by itself
                self.discard()
            raise
        self.blocksize = block_bytes(self._block_size, self._publication.part_count)
        return True

    def flush(self, force: bool = False) -> None:
        """Send full blocks. What was flushed is not visible: a file appears when it is closed."""
        if force and self.mode == "ab" and self.loc == self._publication.offset_bytes > 0:
            self.forced = True  # nothing was appended
            return
        super().flush(force=force)

    def commit(self) -> None:
        """Make a file of a transaction visible."""
        self._run(self._publication.commit)

    def discard(self) -> None:
        """Give the file up. What stood under its name before stays."""
        self.forced = self.closed = True
        self._run(self._publication.abort)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        if self.closed or self._pid != os.getpid():  # after a fork the file is the parent's
            return
        self.closed = True
        # Not published: whoever forgot the file may have failed half way.
        warnings.warn(
            f"{self.path} was never closed: nothing of it was stored", RuntimeWarning, stacklevel=2, source=self
        )
        self.fs.in_background(self._publication.abort)

    def _run(self, call: Any, *arguments: Any) -> None:
        with os_errors(self.path, is_new=self._is_new):
            sync(self.fs.loop, call, *arguments)


class LayeredWriter(io.BufferedIOBase):
    """A compressor over a `Writer`, closed and discarded with it; fsspec itself never closes the file below."""

    def __init__(self, compression: str, writer: Writer) -> None:
        self._writer = writer
        self._compressor: Any = compr[compression](_UntilClosed(writer), mode=writer.mode[0])

    def write(self, data: Any) -> int:
        """Compress and collect it."""
        written: int = self._compressor.write(data)
        return written

    def writable(self) -> bool:
        """Yes."""
        return True

    def flush(self) -> None:
        """Nothing: what was flushed would not be visible either."""

    def discard(self) -> None:
        """Give the file up."""
        self._writer.discard()
        self._compressor.close()
        super().close()

    def close(self) -> None:
        """Write the end of the compressed bytes and publish the file."""
        if not self.closed and not self._writer.closed:
            self._compressor.close()
            self._writer.close()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
        self.close()


class _UntilClosed:
    """A `Writer` for a compressor, which writes an end when it is closed, be it after its file was discarded."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def write(self, data: Any) -> int:
        if self._writer.closed:
            return len(data)
        written: int = self._writer.write(data)
        return written

    def flush(self) -> None:
        """Nothing, as of the writer."""


class TextWriter(io.TextIOWrapper):
    """Text over a `Writer` or `LayeredWriter`, discarded with it when its block ends by an exception."""

    def __init__(self, below: Any, **options: Any) -> None:
        super().__init__(below, **options)
        self._below = below

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._below.discard()
        self.close()


def layered(writer: Writer, text: dict[str, Any] | None, compression: str | None) -> Any:
    """`writer` below a compressor, below text, as is asked for."""
    file: Any = writer
    if compression is not None:
        file = LayeredWriter(compression, writer)
    return file if text is None else TextWriter(file, **text)
