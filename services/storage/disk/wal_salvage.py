"""Detects that SQLite's write-ahead file lost what was acknowledged, and repairs it before SQLite opens it (S-66).

After a crash SQLite replays its write-ahead file up to the first frame whose checksum does not fit, and silently forgets the
rest: right after a torn write, wrong after a changed bit in the middle, because what lies behind was acknowledged. Two
things tell the cases apart: a mark, written without fsync after each commit, of how many frames were acknowledged (it may
lag after a power cut and is never ahead); and that a transaction begins only once the one before it is synced.

Every acknowledged frame is kept as it is and gets a checksum that fits. A changed body is then found by its digest, at once
(`DiskTier`), and fetched from a peer; a packed body whose row is missing gets one (`row_damage`).
Source: "WAL-mode File Format", sqlite.org/walformat.html. Everything here blocks.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from shared.disk.durable_files import replace_file, sync_data, sync_directory

logger = structlog.get_logger(__name__)

_HEADER: Final = struct.Struct(">IIIIIIII")
_FRAME_HEADER: Final = struct.Struct(">IIIIII")
_MAGIC: Final = 0x377F0682
"""Of files with little-endian checksums, with the lowest bit set of those with big-endian ones."""
_VERSION: Final = 3007000
_MARK: Final = struct.Struct("<8sII")
_SHARED_MEMORY_BYTES: Final = 48
_MASK: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Salvage:
    """What was found wrong. `wal_bytes` bounds how much of the newest data may be affected."""

    damaged_frames: int
    missing_frames: int
    wal_bytes: int


@dataclass(frozen=True, slots=True)
class _Frame:
    page: int
    size_after_commit: int
    salts: bytes
    checksum: tuple[int, int]
    body: bytes


@dataclass(frozen=True, slots=True)
class WalPosition:
    """How far the write-ahead file is written. The salts change each time that it is used again from its start."""

    salts: bytes
    frames: int


_NOTHING: Final = WalPosition(bytes(8), 0)


class AcknowledgedMark:
    """How many frames of the write-ahead file were acknowledged, in a small file of its own.

    The count is read from SQLite's shared memory. That file is opened once and closed only after every connection: closing
    it earlier would drop the locks that SQLite holds on it in this process.
    """

    def __init__(self, database: Path) -> None:
        self._shared_memory = database.with_name(database.name + "-shm")
        self._fd = os.open(_mark_path(database), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._shared_memory_fd: int | None = None

    def record(self) -> WalPosition | None:
        """After a commit; what is acknowledged now, or None when SQLite does not tell.

        Raises:
            OSError: it could not be written.
        """
        try:
            position = self._read_shared_memory()
        except OSError as error:
            # Only a help against damage: what was committed is durable without it.
            logger.warning("what is acknowledged cannot be told from the catalog's shared memory", error=str(error))
            position = None
        self._write(_NOTHING if position is None else position)
        return position

    def clear(self) -> None:
        """Before the last connection closes, which removes the write-ahead file. Durable. Raises OSError."""
        self._write(_NOTHING)
        sync_data(self._fd)

    def close(self) -> None:
        """After every connection."""
        for fd in (self._fd, self._shared_memory_fd):
            if fd is not None:
                os.close(fd)

    def _read_shared_memory(self) -> WalPosition | None:
        if self._shared_memory_fd is None:
            self._shared_memory_fd = os.open(self._shared_memory, os.O_RDONLY | os.O_CLOEXEC)
        found = os.pread(self._shared_memory_fd, _SHARED_MEMORY_BYTES, 0)
        if len(found) != _SHARED_MEMORY_BYTES:
            return None
        return WalPosition(salts=found[32:40], frames=int.from_bytes(found[16:20], "little"))

    def _write(self, position: WalPosition) -> None:
        os.pwrite(self._fd, _pack_mark(position), 0)


def salvage(database: Path, quarantine: Path) -> None:
    """Repair the write-ahead file of `database`, before anything opens it, if something acknowledged is missing there.

    The damaged file is kept in `quarantine`, the findings until `mark_checked` is called. Raises OSError.
    """
    found = _repair(database, quarantine)
    # The first connection that closes removes the write-ahead file, and a mark without one would be an alarm.
    replace_file(_mark_path(database), _pack_mark(_NOTHING))
    if found is not None:
        logger.error(
            "the write-ahead file of the catalog was damaged; what could be saved of it is checked",
            damaged_frames=found.damaged_frames,
            missing_frames=found.missing_frames,
        )


def find_unchecked(database: Path) -> Salvage | None:
    """What the last `salvage` that found damage left to be checked. Raises OSError."""
    path = _findings_path(database)
    return Salvage(**json.loads(path.read_text())) if path.exists() else None


def mark_checked(database: Path) -> None:
    """Everything that may have been damaged was checked. Raises OSError."""
    _findings_path(database).unlink(missing_ok=True)
    sync_directory(database.parent)


def _repair(database: Path, quarantine: Path) -> Salvage | None:
    wal = database.with_name(database.name + "-wal")
    marked = _read_mark(_mark_path(database))
    raw = wal.read_bytes() if wal.exists() else b""
    file = _WalFile.parse(raw, marked.salts, database) if len(raw) >= _HEADER.size else None
    if file is None:
        return _record(database, Salvage(0, marked.frames, len(raw))) if marked.frames else None
    acknowledged = marked.frames if file.salts == marked.salts else 0
    used = file.used_frames(acknowledged)
    bad, changed = file.check(used)
    commits = [number for number, frame in enumerate(file.frames[:used], 1) if frame.size_after_commit]
    # A transaction begins only once the one before it is synced, so all but the last were acknowledged, mark or not.
    durable = max(acknowledged, commits[-2] if len(commits) >= 2 else 0)
    if file.first_refused(bad) > durable:
        return None
    # Whole transactions only: what follows those that were acknowledged is taken as far as it is good.
    until = min((number for number in bad if number > durable), default=len(file.frames) + 1)
    whole = durable if durable <= len(file.frames) else 0
    kept = max([whole, *(number for number in commits if number < until)])
    quarantine.mkdir(exist_ok=True)
    shutil.copyfile(wal, quarantine / f"{wal.name}.{os.getpid()}")
    # The findings first: a crash in between repairs again, or checks once too often.
    damaged = sum(number <= durable for number in bad)
    found = _record(database, Salvage(damaged, max(0, durable - len(file.frames)), len(raw)))
    replace_file(wal, file.write(kept, changed))
    database.with_name(database.name + "-shm").unlink(missing_ok=True)
    return found


def _record(database: Path, found: Salvage) -> Salvage:
    replace_file(_findings_path(database), json.dumps(asdict(found)).encode())
    return found


def _findings_path(database: Path) -> Path:
    return database.with_name("catalog.salvaged")


@dataclass(frozen=True, slots=True)
class _WalFile:
    page_bytes: int
    order: str
    salts: bytes
    checksum: tuple[int, int]
    sequence: int
    frames: list[_Frame]

    @classmethod
    def parse(cls, raw: bytes, marked_salts: bytes, database: Path) -> _WalFile | None:
        """None when nothing says how to read it."""
        magic, _, page_bytes, sequence, *_, first, second = _HEADER.unpack_from(raw)
        order = ">" if magic & 1 else "<"
        salts = raw[16:24]
        if magic & ~1 != _MAGIC or _checksum(raw[:24], order, (0, 0)) != (first, second):
            # The header itself: the mark knows the salts, the database its page size.
            page_bytes, order, salts = _page_bytes(database), "<", marked_salts
            if not any(marked_salts) or not page_bytes:
                return None
            first = second = -1
        step = _FRAME_HEADER.size + page_bytes
        frames = [_parse_frame(raw[at : at + step]) for at in range(_HEADER.size, len(raw) - step + 1, step)]
        return cls(page_bytes, order, salts, (first, second), sequence, frames)

    def used_frames(self, acknowledged: int) -> int:
        """How many frames this use of the file has written, of which `acknowledged` are known; an earlier one left the rest.

        The salts tell, and one that was hit stands before another that was not, or before what was acknowledged.
        """
        own = (number for number, frame in enumerate(self.frames, 1) if frame.salts == self.salts)
        return min(max([acknowledged, *own]), len(self.frames))

    def check(self, used: int) -> tuple[set[int], set[int]]:
        """Of all frames, counted from 1, those that SQLite refuses; and those of the used ones whose page was changed."""
        refused = set(range(used + 1, len(self.frames) + 1))
        changed: set[int] = set()
        written = computed = self.checksum
        for number, frame in enumerate(self.frames[:used], 1):
            expected = self._checksum_after(written, frame)
            is_changed = frame.checksum != expected
            if is_changed and computed != written:
                # Where only the checksum before was hit, this frame fits what that should have been.
                expected = self._checksum_after(computed, frame)
                is_changed = frame.checksum != expected
                if not is_changed:
                    changed.discard(number - 1)
            if is_changed:
                changed.add(number)
            if is_changed or frame.salts != self.salts:
                refused.add(number)
            written, computed = frame.checksum, expected
        return refused, changed

    def _checksum_after(self, before: tuple[int, int], frame: _Frame) -> tuple[int, int]:
        head = struct.pack(">II", frame.page, frame.size_after_commit)
        return _checksum(frame.body, self.order, _checksum(head, self.order, before))

    def first_refused(self, bad: set[int]) -> int:
        """The first frame that SQLite would not take; one past the last if it takes all."""
        return min(bad, default=len(self.frames) + 1)

    def write(self, count: int, changed: set[int]) -> bytes:
        """A file with the first `count` frames that SQLite takes to the end."""
        sound = [frame for number, frame in enumerate(self.frames[:count], 1) if number not in changed]
        largest = max((max(frame.page, frame.size_after_commit) for frame in sound), default=0)
        # A changed frame may name any page: one that cannot be is left out, the rest is for the digests to find.
        limit = largest + sum(number <= count for number in changed)
        kept = [(number, frame) for number, frame in enumerate(self.frames[:count], 1) if 0 < frame.page <= limit]
        magic = _MAGIC | (self.order == ">")
        head = struct.pack(">IIII", magic, _VERSION, self.page_bytes, self.sequence) + self.salts
        checksum = _checksum(head, self.order, (0, 0))
        out = bytearray(head + struct.pack(">II", *checksum))
        for number, frame in kept:
            size_after_commit = frame.size_after_commit if number not in changed else 0
            if number == kept[-1][0] and not size_after_commit:
                size_after_commit = max(largest, *(frame.page for _, frame in kept))
            written = replace(frame, size_after_commit=size_after_commit)
            checksum = self._checksum_after(checksum, written)
            out += struct.pack(">II", frame.page, size_after_commit) + self.salts + struct.pack(">II", *checksum)
            out += frame.body
        return bytes(out)


def _parse_frame(raw: bytes) -> _Frame:
    page, size_after_commit, _, _, first, second = _FRAME_HEADER.unpack_from(raw)
    return _Frame(page, size_after_commit, raw[8:16], (first, second), raw[_FRAME_HEADER.size :])


def _checksum(data: bytes, order: str, before: tuple[int, int]) -> tuple[int, int]:
    first, second = before
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    # Masked once at the end of a page: Python's integers hold the carries, which a sum keeps apart from the low bits.
    for at in range(0, len(words), 2):
        first = (first + words[at] + second) & _MASK
        second = (second + words[at + 1] + first) & _MASK
    return first, second


def _page_bytes(database: Path) -> int:
    with database.open("rb") as file:
        head = file.read(18)
    size = int.from_bytes(head[16:18], "big") if len(head) == 18 else 0
    return 65536 if size == 1 else size


def _mark_path(database: Path) -> Path:
    return database.with_name("catalog.acknowledged")


def _pack_mark(position: WalPosition) -> bytes:
    checksum = zlib.crc32(position.salts + position.frames.to_bytes(4, "little"))
    return _MARK.pack(position.salts, position.frames, checksum)


def _read_mark(path: Path) -> WalPosition:
    """Nothing acknowledged when there is no mark, or a damaged one."""
    raw = path.read_bytes() if path.exists() else b""
    if len(raw) != _MARK.size:
        return _NOTHING
    salts, frames, _ = _MARK.unpack(raw)
    position = WalPosition(salts, frames)
    return position if raw == _pack_mark(position) else _NOTHING
