"""A file of the store onto the disk, by ranges.

The bytes go into a file beside the target, which replaces it when all are there and the digest is right. A journal beside it says
which ranges are there, of which version (etag). Every range is asked for with If-Match, so that what comes together is of one
version.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from blake3 import blake3

from trivet.download import AsyncDownload
from trivet.errors import BrokenDownload, DigestMismatch, PreconditionFailed, RangeNotSatisfiable
from trivet.models import FileInfo, Progress
from trivet.transfers.hashing import hash_section
from trivet.transfers.journal import Journal, boot_id
from trivet.transfers.own_files import open_own
from trivet.transfers.parallel import in_parallel
from trivet.transfers.plan import PART_BYTES, Piece, pieces

_WRITE_BYTES: Final = 1 << 20
_NAME_BYTES_MAX: Final = 255 - len("..trivet-partial")
"""A longer one has no room for what is put around it in the longest name that file systems take."""

_STARTS_MAX: Final = 3
"""So often a file that is replaced meanwhile is begun from its start."""


class FileSource(Protocol):
    """The calls that a download needs, all about one file or one version of it."""

    def open(self, *, start: int, end: int, if_match: str | None) -> AbstractAsyncContextManager[AsyncDownload]:
        """A range. Raises PreconditionFailed where the file has another etag."""

    async def head(self) -> FileInfo:
        """What the file is now."""


class Places(msgspec.Struct, frozen=True):
    """Where a download puts things: the target, and beside it the bytes and the journal."""

    target: Path
    partial: Path
    journal: Path

    @classmethod
    def of(cls, target: Path) -> Places:
        """Beside the target, so that it can be replaced in one step.

        Raises:
            IsADirectoryError: the target is a folder.
        """
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder; name the file in it")
        name = target.name
        if len(os.fsencode(name)) > _NAME_BYTES_MAX:
            name = blake3(os.fsencode(name)).hexdigest()[:32]
        return cls(target, target.with_name(f".{name}.trivet-partial"), target.with_name(f".{name}.trivet-journal"))


class Downloading:
    """One download.

    Invariant: a piece stands in the journal only after its bytes were written.
    Invariant: the descriptor is open while a thread is at work: else a late write would go into whatever has its number next.
    """

    def __init__(
        self, places: Places, journal: Journal, source: FileSource, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self._places = places
        self._journal = journal
        self._source = source
        self._on_progress = on_progress
        self._descriptor = -1
        self._at_work: set[asyncio.Future[None]] = set()
        self._done_bytes = self._resumed_bytes = 0

    async def run(self, parallel: int) -> FileInfo:
        """Fetch what is missing, check it, and put it into its place.

        Raises:
            PreconditionFailed: the file was replaced while it was fetched, again and again.
            DigestMismatch: the bytes are not those that were stored.
            TrivetError: a range could not be fetched. A later run goes on.
        """
        self._descriptor = open_own(self._places.partial, os.O_RDWR, 0o666)
        try:
            self._take_over_mode()
            info = await self._fetched(parallel)
        finally:
            try:
                await self._threads_end()
            finally:
                os.close(self._descriptor)
        self._places.partial.replace(self._places.target)
        self._journal.remove()
        return info

    def _take_over_mode(self) -> None:
        """Before the first byte: what only its owner may read stays so."""
        with suppress(FileNotFoundError):
            mode = self._places.target.lstat().st_mode
            # Not where it is the same already: some file systems have one mode for all, and change none.
            if stat.S_ISREG(mode) and (os.fstat(self._descriptor).st_mode ^ mode) & 0o777:
                os.fchmod(self._descriptor, mode & 0o777)

    async def _fetched(self, parallel: int) -> FileInfo:
        if self._can_go_on():
            info = await self._source.head()
            if info.etag == (self._journal.head or {}).get("etag") and self._is_sure(info):
                # Else it is another file by now. Or the disk lost bytes that it had: from the start, too.
                with suppress(PreconditionFailed, DigestMismatch):
                    return await self._rest(info, None, parallel)
        for _ in range(_STARTS_MAX - 1):
            with suppress(PreconditionFailed):
                return await self._from_start(parallel)
        return await self._from_start(parallel)

    def _can_go_on(self) -> bool:
        head = self._journal.head or {}
        is_there = bool(self._journal.done) and os.fstat(self._descriptor).st_size == head.get("size_bytes")
        return is_there and head.get("piece_bytes") == PART_BYTES

    def _is_sure(self, info: FileInfo) -> bool:
        # Without a digest nothing else would tell that the system went down before the bytes were on the disk. Whether there
        # is one says the store: the journal may be planted.
        return info.digest is not None or (self._journal.head or {}).get("boot_id") == boot_id() != ""

    async def _from_start(self, parallel: int) -> FileInfo:
        # The first range alone says what the file is. Of a small one it is all.
        try:
            async with self._source.open(start=0, end=PART_BYTES, if_match=None) as first:
                self._begin(first.info)
                return await self._rest(first.info, first, parallel)
        except RangeNotSatisfiable:
            info = await self._source.head()
            if info.size_bytes:
                raise
            self._begin(info)
            return info

    def _begin(self, info: FileInfo) -> None:
        self._journal.begin(
            {
                "etag": info.etag,
                "size_bytes": info.size_bytes,
                "digest": info.digest,
                "piece_bytes": PART_BYTES,
                "boot_id": boot_id(),
            }
        )
        os.ftruncate(self._descriptor, 0)
        os.ftruncate(self._descriptor, info.size_bytes)

    async def _rest(self, info: FileInfo, first: AsyncDownload | None, parallel: int) -> FileInfo:
        plan = pieces(info.size_bytes, PART_BYTES)
        arrived = {piece.number: asyncio.Event() for piece in plan}
        for number in self._journal.done & arrived.keys():
            arrived[number].set()
        missing = [piece for piece in plan if not arrived[piece.number].is_set()]
        self._resumed_bytes = self._done_bytes = info.size_bytes - sum(piece.size_bytes for piece in missing)

        async def fetch(piece: Piece) -> None:
            if first is not None and piece.number == 1:
                await self._write(piece, first)
            else:
                async with self._source.open(start=piece.start, end=piece.end, if_match=info.etag) as download:
                    await self._write(piece, download)
            self._journal.add(piece.number)
            arrived[piece.number].set()

        # A download of everything in one range compares the digest by itself.
        is_compared = info.digest is None or (first is not None and len(plan) == 1)
        following = None if is_compared else asyncio.create_task(self._hash(plan, arrived))
        try:
            await in_parallel(missing, parallel, fetch)
            if following is not None and await following != info.digest:
                self._journal.begin({})
                raise DigestMismatch(
                    f"{info.bucket}/{info.key} came with other bytes than were stored. Fetch it again."
                )
        finally:
            if following is not None:
                following.cancel()
        return info

    async def _write(self, piece: Piece, download: AsyncDownload) -> None:
        place, held, held_bytes = piece.start, [], 0
        writing: asyncio.Future[None] | None = None
        async for chunk in download:
            held.append(chunk)
            held_bytes += len(chunk)
            if place + held_bytes > piece.end:
                break
            self._progressed(len(chunk))
            if held_bytes >= _WRITE_BYTES:
                # The next bytes come while these are written.
                if writing is not None:
                    await asyncio.shield(writing)
                writing = self._in_thread(_write_all, self._descriptor, held, place)
                place, held, held_bytes = place + held_bytes, [], 0
        if writing is not None:
            await asyncio.shield(writing)
        if place + held_bytes != piece.end:
            raise BrokenDownload(f"Other bytes came than those from {piece.start} to {piece.end}.")
        await asyncio.shield(self._in_thread(_write_all, self._descriptor, held, place))

    def _in_thread(self, act: Callable[..., None], *arguments: Any) -> asyncio.Future[None]:
        """Begin `act`. Wait for it behind a shield: a cancelled wait does not end the thread."""
        work = asyncio.get_running_loop().run_in_executor(None, act, *arguments)
        self._at_work.add(work)
        work.add_done_callback(self._ended)
        return work

    def _ended(self, work: asyncio.Future[None]) -> None:
        self._at_work.discard(work)
        # Of several failures one is raised; none is to be reported as never looked at.
        work.exception()

    async def _threads_end(self) -> None:
        """Wait for all threads, also while this is cancelled."""
        cancelled = None
        while self._at_work:
            try:
                await asyncio.wait(self._at_work)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def _progressed(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        if self._on_progress is not None:
            self._on_progress(
                Progress(
                    done_bytes=self._done_bytes,
                    total_bytes=(self._journal.head or {}).get("size_bytes"),
                    resumed_bytes=self._resumed_bytes,
                )
            )

    async def _hash(self, plan: Sequence[Piece], arrived: dict[int, asyncio.Event]) -> str:
        """The digest of the whole file, as its pieces become complete."""
        digest = blake3()
        for piece in plan:
            await arrived[piece.number].wait()
            await asyncio.shield(self._in_thread(hash_section, digest, self._descriptor, piece.start, piece.end))
        return digest.hexdigest()


def _write_all(descriptor: int, chunks: list[bytes], place: int) -> None:
    written = os.pwritev(descriptor, chunks, place) if chunks else 0
    rest = b"".join(chunks)[written:] if written < sum(map(len, chunks)) else b""
    while rest:
        place += written
        written = os.pwrite(descriptor, rest, place)
        rest = rest[written:]
