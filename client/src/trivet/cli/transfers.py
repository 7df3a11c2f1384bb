"""Moves one file between this machine and the store, or within the store.

The time of the last change goes with a file as user metadata, `mtime`: seconds since 1970 with nine decimals, as rclone writes it
to S3. `sync` compares by it where the store has no digest of the whole file, and a download gets it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import msgspec

from trivet.cli.addresses import Remote
from trivet.cli.exit_codes import ExitCode
from trivet.cli.failures import Failure
from trivet.cli.local import LocalFile
from trivet.cli.progress import Progress

if TYPE_CHECKING:
    from trivet import AsyncClient, models

MTIME: Final = "mtime"
_STREAM_PIECE_BYTES: Final = 1 << 20
_STREAM_PIECES: Final = 8
_MTIME_LIMIT_NS: Final = 1 << 62
"""Until the year 2116: more than every file of these days, and less than any system takes."""


class Wishes(msgspec.Struct, frozen=True):
    """What is asked for of every file.

    Attributes:
        content_type: None: the client guesses it by the key.
        keeps_existing: nothing that is there is replaced.
        resumes: goes on where an earlier call was interrupted.
    """

    content_type: str | None = None
    user_metadata: Mapping[str, str] = msgspec.field(default_factory=dict)
    keeps_existing: bool = False
    resumes: bool = True
    part_size_bytes: int | None = None
    parallel: int | None = None

    @property
    def condition(self) -> str | None:
        """For `if_none_match`."""
        return "*" if self.keeps_existing else None

    def transfer_settings(self) -> dict[str, Any]:
        """For `upload_file` and `download_file`."""
        chosen: dict[str, Any] = {"resume": self.resumes}
        if self.parallel:
            chosen["parallel"] = self.parallel
        return chosen


def mtime_text(mtime_ns: int) -> str:
    """As it stands in user metadata."""
    return f"{mtime_ns // 10**9}.{mtime_ns % 10**9:09d}"


def parse_mtime_ns(user_metadata: Mapping[str, str] | None) -> int | None:
    """What `mtime_text` wrote; None where nothing, or something else, or no time that a file can have, is there."""
    text = (user_metadata or {}).get(MTIME, "")
    seconds, _, fraction = text.partition(".")
    try:
        found = int(seconds) * 10**9 + int(fraction[:9].ljust(9, "0"))
    except ValueError:
        return None
    return found if abs(found) < _MTIME_LIMIT_NS else None


async def upload(
    client: AsyncClient, source: LocalFile, target: Remote, wishes: Wishes, progress: Progress
) -> models.Receipt:
    """One file of this machine into the store."""
    with counted(progress) as tell, _refusals():
        settings = wishes.transfer_settings()
        if wishes.part_size_bytes:
            settings["part_size_bytes"] = wishes.part_size_bytes
        receipt = await client.upload_file(
            target.bucket,
            target.key,
            source.path,
            content_type=wishes.content_type,
            user_metadata={MTIME: mtime_text(source.mtime_ns), **wishes.user_metadata},
            if_none_match=wishes.condition,
            on_progress=tell,
            **settings,
        )
    progress.finish_file()
    return receipt


async def upload_stream(
    client: AsyncClient, source: RawIOBase, target: Remote, wishes: Wishes, progress: Progress
) -> models.Receipt:
    """What comes from a stream, of whatever length. It cannot be sent again: what fails on the way has to be piped in anew."""

    async def pieces() -> AsyncIterator[bytes]:
        async for piece in read_in_thread(source):
            yield piece
            progress.advance(len(piece))

    with _refusals():
        receipt = await client.put(
            target.bucket,
            target.key,
            pieces(),
            content_type=wishes.content_type,
            user_metadata=dict(wishes.user_metadata),
            if_none_match=wishes.condition,
        )
    progress.finish_file()
    return receipt


async def download(
    client: AsyncClient,
    source: Remote,
    target: Path,
    wishes: Wishes,
    progress: Progress,
    *,
    version: int | None = None,
    is_named: bool = False,
) -> models.FileInfo:
    """One file of the store to this machine; complete and proved before it has its name.

    Args:
        is_named: whether the target itself was named, and not a folder that it is in.

    Raises:
        FileExistsError: it is there, and what is there is to be kept.
        Failure: it is a device or a pipe that nobody named.
    """
    if wishes.keeps_existing and os.path.lexists(target):  # noqa: ASYNC240 - one look at a local disk
        raise FileExistsError(errno.EEXIST, "it is there already, and is kept", str(target))
    if _is_special(target):
        if not is_named:
            raise Failure(f"{target} is here and is neither a file nor a link to one; it is left alone.")
        # A device or a pipe: bytes go into it; nothing takes its place.
        return await _download_into(client, source, target, progress, version=version)
    with counted(progress) as tell:
        info = await client.download_file(
            source.bucket,
            source.key,
            target,
            version=version,
            on_progress=tell,
            **wishes.transfer_settings(),
        )
    mtime_ns = parse_mtime_ns(info.user_metadata)
    if mtime_ns is None:
        mtime_ns = int(info.modified.timestamp()) * 10**9 if info.modified else time.time_ns()
    os.utime(target, ns=(mtime_ns, mtime_ns))
    progress.finish_file()
    return info


async def write_out(
    client: AsyncClient,
    source: Remote,
    target: BinaryIO,
    *,
    version: int | None = None,
    start: int = 0,
    end: int | None = None,
    progress: Progress | None = None,
) -> models.FileInfo:
    """The bytes of a file into a stream, as they come."""
    async with client.open(source.bucket, source.key, version=version, start=start, end=end) as answer:
        async for piece in answer:
            # A full pipe makes it wait in the loop: there is nothing else to do meanwhile.
            target.write(piece)
            if progress:
                progress.advance(len(piece))
        target.flush()
        return answer.info


async def copy(
    client: AsyncClient, source: Remote, target: Remote, wishes: Wishes, *, version: int | None = None
) -> Any:
    """Within the store: one entry of the log, and no bytes."""
    description: dict[str, Any] = {}
    if wishes.content_type:
        description["content_type"] = wishes.content_type
    if wishes.user_metadata:
        description["user_metadata"] = dict(wishes.user_metadata)
    return await client.copy(
        source.bucket,
        source.key,
        target.bucket,
        target.key,
        version=version,
        if_none_match=wishes.condition,
        **description,
    )


async def read_in_thread(source: RawIOBase) -> AsyncIterator[bytes]:
    """The pieces of a stream that may never end.

    A thread of its own reads, one that dies with the program: a pool would wait at Ctrl-C for a line that nobody types. The
    stream has no buffer, because Python ends with an abort where such a thread holds the lock of one.
    """
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes | BaseException] = asyncio.Queue()
    room = threading.Semaphore(_STREAM_PIECES)

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            try:
                while True:
                    room.acquire()
                    piece = source.read(_STREAM_PIECE_BYTES) or b""
                    loop.call_soon_threadsafe(pieces.put_nowait, piece)
                    if not piece:
                        return
            except (OSError, ValueError) as error:
                loop.call_soon_threadsafe(pieces.put_nowait, error)

    threading.Thread(target=read, name="stdin", daemon=True).start()
    while piece := await pieces.get():
        if isinstance(piece, BaseException):
            raise piece
        room.release()
        yield piece


def standard_input() -> RawIOBase:
    """Its bytes, as they come."""
    return cast("RawIOBase", getattr(sys.stdin.buffer, "raw", sys.stdin.buffer))


def standard_output() -> BinaryIO:
    """Its bytes."""
    return sys.stdout.buffer


def _is_special(path: Path) -> bool:
    """Whether it is there, and neither a file nor a link to one."""
    return path.exists() and not path.is_file()


async def _download_into(
    client: AsyncClient, source: Remote, target: Path, progress: Progress, *, version: int | None
) -> models.FileInfo:
    with target.open("wb") as file:
        info = await write_out(client, source, file, version=version, progress=progress)
    progress.finish_file()
    return info


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """What the client refuses before it asks the store: metadata, and parts of a size that cannot be."""
    try:
        yield
    except ValueError as error:
        raise Failure(f"{error}.", ExitCode.USAGE) from error


@contextlib.contextmanager
def counted(progress: Progress) -> Iterator[Callable[[models.Progress], None]]:
    """A callback for the client that turns what is done of one file into what is done of all; a failed file counts nothing."""
    told = resumed = 0

    def tell(state: models.Progress) -> None:
        nonlocal told, resumed
        if not told and state.resumed_bytes:
            told = resumed = state.resumed_bytes
            progress.resume(resumed)
        progress.advance(state.done_bytes - told)
        told = state.done_bytes

    try:
        yield tell
    except BaseException:
        progress.resume(-resumed)
        progress.advance(resumed - told)
        raise
