"""What a request carries, from whatever a caller has: bytes, a file, a stream. Hashed on its way.

A body that can be read again from its start (`is_rewindable`) may be sent again after a failure; a stream is sent once.
"""

from __future__ import annotations

import asyncio
import io
import os
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias, cast

from blake3 import blake3

from trivet.errors import SourceChanged, TrivetError

Data: TypeAlias = "bytes | bytearray | memoryview | Path | BinaryIO | Iterable[bytes] | AsyncIterable[bytes]"
"""What can be stored. A binary file is sent from where it stands."""

PIECE_BYTES: Final = 1 << 20
"""So much goes to the connection at once. Half of it costs a sixth more CPU, in threads and event loop; more gains nothing."""

_GATHER_S: Final = 0.02
"""How long what a stream gave waits for more of it."""


class Body(ABC):
    """Bytes to send.

    Attributes:
        size_bytes: None where it is not known before the end.
        is_rewindable: `pieces` may be called again.
        error: what the source raised, which the transport does not tell.
        on_progress: called with the bytes that were taken so far; from 0 again when the body is sent again.
    """

    size_bytes: int | None = None
    is_rewindable: bool = True

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.on_progress: Callable[[int], None] | None = None
        self.has_begun = False
        self._hash = blake3()

    @property
    def digest(self) -> str:
        """BLAKE3 of what `pieces` gave so far, hex."""
        return self._hash.hexdigest()

    async def pieces(self) -> AsyncIterator[bytes | memoryview]:
        """The bytes, from the start, each hashed before it is given.

        Raises:
            TrivetError: they were begun before, and there is no way back; or the source changed.
        """
        if self.has_begun and not self.is_rewindable:
            raise TrivetError("This stream was sent in part, and cannot be sent again.")
        self.has_begun = True
        self._hash = blake3()
        try:
            taken_bytes = 0
            async for piece in self._pieces():
                yield piece
                taken_bytes += len(piece)
                if self.on_progress is not None:
                    self.on_progress(taken_bytes)
        except Exception as error:
            self.error = error
            raise

    @abstractmethod
    def _pieces(self) -> AsyncIterator[bytes | memoryview]:
        """The bytes; each piece goes into `_hash`."""


class BytesBody(Body):
    """Bytes in memory."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        super().__init__()
        self.data = memoryview(data).cast("B")
        self.size_bytes = len(self.data)

    @property
    def whole(self) -> memoryview:
        """All of it as one piece, hashed."""
        self._hash = blake3(self.data)
        return self.data

    async def _pieces(self) -> AsyncIterator[bytes | memoryview]:
        for start in range(0, len(self.data), PIECE_BYTES):
            piece = self.data[start : start + PIECE_BYTES]
            self._hash.update(piece)
            yield piece


class FileBody(Body):
    """A section of a file on disk. It is read ahead in a thread, by one piece; the place of the file does not move.

    A piece is a view of memory that is used again when the view is gone: keep the view, or a copy of it.
    """

    def __init__(self, descriptor: int, start: int, size_bytes: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._start = start
        self.size_bytes: int = size_bytes

    async def _pieces(self) -> AsyncIterator[bytes | memoryview]:
        loop = asyncio.get_running_loop()
        place, end = self._start, self._start + self.size_bytes
        # Of this pass: what an earlier one still reads must not come into it.
        digest, buffers = self._hash, _Buffers(min(PIECE_BYTES, self.size_bytes))
        ahead = loop.run_in_executor(None, self._read, buffers, place, end, digest)
        try:
            while place < end:
                piece = await ahead
                place += len(piece)
                if place < end:
                    ahead = loop.run_in_executor(None, self._read, buffers, place, end, digest)
                yield piece
        finally:
            # The descriptor may be closed as soon as this ends.
            with suppress(Exception):
                await ahead

    def _read(self, buffers: _Buffers, place: int, end: int, digest: blake3) -> memoryview:
        room = buffers.take()[: end - place]
        piece = room[: os.preadv(self._descriptor, [room], place)]
        if not piece and place < end:
            raise SourceChanged("The file became shorter while it was sent.")
        digest.update(piece)
        return piece


class _Buffers:
    """Memory that is used again: what is new costs a page fault for every page, as much as the bytes that go in.

    Not for several threads at once.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._all: list[bytearray] = []

    def take(self) -> memoryview:
        """All of a buffer of which no view is left: a transport may hold the end of a piece when it asks for the next."""
        for buffer in self._all:
            # Python refuses to resize what is viewed. Nothing is moved by this.
            with suppress(BufferError, IndexError):
                buffer.append(buffer.pop())
                return memoryview(buffer)
        self._all.append(bytearray(self._size_bytes))
        return memoryview(self._all[-1])


class StreamBody(Body):
    """What an iterator gives, or what a file without a length reads: in a thread, because both may wait."""

    is_rewindable = False

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._source = pieces

    async def _pieces(self) -> AsyncIterator[bytes | memoryview]:
        while piece := await asyncio.to_thread(self._gather):
            yield piece

    def _gather(self) -> bytes:
        """What comes in a moment, up to a piece: a thread for each of many small ones would cost more than sending them."""
        gathered: list[bytes] = []
        size_bytes, until_s = 0, time.monotonic() + _GATHER_S
        for piece in self._source:
            gathered.append(piece)
            size_bytes += len(piece)
            if size_bytes and (size_bytes >= PIECE_BYTES or time.monotonic() >= until_s):
                break
        whole = b"".join(gathered)
        self._hash.update(whole)
        return whole


class AsyncStreamBody(Body):
    """What an asynchronous iterator gives."""

    is_rewindable = False

    def __init__(self, pieces: AsyncIterable[bytes]) -> None:
        super().__init__()
        self._source = pieces

    async def _pieces(self) -> AsyncIterator[bytes | memoryview]:
        async for piece in self._source:
            if piece:
                self._hash.update(piece)
                yield piece


class OpenedBody:
    """The body of `data`, and the file that was opened for it: use it as a context."""

    def __init__(self, data: Data) -> None:
        self._opened: BinaryIO | None = None
        if isinstance(data, Path):
            data = self._opened = data.open("rb")
        self._data = data

    def __enter__(self) -> Body:
        return body_of(self._data)

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened.close()


def body_of(data: Data) -> Body:
    """The body of `data`, which is not a path.

    Raises:
        TypeError: it is text, or nothing that has bytes.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        return BytesBody(data)
    if isinstance(data, str | Path):
        raise TypeError("text is encoded first, and the path of a file is a pathlib.Path")
    if isinstance(data, io.TextIOBase):
        raise TypeError("open the file in binary mode")
    if hasattr(data, "read"):
        return _body_of_file(cast("BinaryIO", data))
    if isinstance(data, AsyncIterable):
        return AsyncStreamBody(data)
    if isinstance(data, Iterable):
        return StreamBody(iter(data))
    raise TypeError(f"{type(data).__name__} has no bytes: give bytes, a Path, a binary file, or an iterator of bytes")


def _body_of_file(file: BinaryIO) -> Body:
    if isinstance(file, io.BytesIO):
        return BytesBody(file.getbuffer()[file.tell() :])
    section = section_of(file)
    if section is not None:
        return FileBody(*section)
    return StreamBody(iter(lambda: file.read(PIECE_BYTES), b""))


def section_of(file: BinaryIO) -> tuple[int, int, int] | None:
    """Descriptor, place and bytes that are left of a regular file; None of anything else."""
    # A reader that unpacks, such as gzip's, has the descriptor of the packed file.
    if not isinstance(file, io.BufferedReader | io.BufferedRandom | io.FileIO):
        return None
    try:
        descriptor, place = file.fileno(), file.tell()
        facts = os.fstat(descriptor)
    except (OSError, ValueError):
        return None
    return (descriptor, place, max(0, facts.st_size - place)) if stat.S_ISREG(facts.st_mode) else None
