"""What a transfer remembers in a file, so that a later process goes on with it: a head of JSON, then a line for each piece.

Lines are appended. A process that is killed leaves whole lines and at most one that is cut off, which does not count. While a
journal is open it is locked: two processes never have the same transfer in hand.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from trivet.errors import TransferInProgress
from trivet.transfers.own_files import open_own

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Journal:
    """A journal file, open and locked. Use it as a context.

    Attributes:
        head: what the transfer is, as `begin` was given it; None of a new or unreadable file.
        done: numbers of the pieces that are done.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            TransferInProgress: another process has it open.
            OSError: it cannot be opened.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._descriptor = self._locked()
        try:
            self.head, self.done = _parsed(os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0))
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def begin(self, head: dict[str, Any]) -> None:
        """A new transfer: what was remembered is forgotten."""
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, msgspec.json.encode(head) + b"\n")
        self.head, self.done = head, set()

    def add(self, number: int) -> None:
        """A piece is done."""
        os.write(self._descriptor, b"%d\n" % number)
        self.done.add(number)

    def remove(self) -> None:
        """The transfer is over: the file goes."""
        self._path.unlink(missing_ok=True)

    def _locked(self) -> int:
        """A descriptor of the file that has the name, and the lock of it."""
        while True:
            descriptor = open_own(self._path, os.O_RDWR | os.O_APPEND, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Who had the lock may have removed the file meanwhile, and somebody else have made another one.
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), self._path.lstat()):
                        return descriptor
            except BlockingIOError as error:
                os.close(descriptor)
                raise TransferInProgress(
                    f"Another process has this transfer in hand ({self._path} is locked); wait for its end."
                ) from error
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


def boot_id() -> str:
    """Names this run of the system, and is empty where it has no name.

    What was written and not synced is still there after a killed process, and may not be after a system that went down.
    """
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _parsed(content: bytes) -> tuple[dict[str, Any] | None, set[int]]:
    head_line, end, rest = content.partition(b"\n")
    try:
        head = msgspec.json.decode(head_line, type=dict[str, Any]) if end else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        head = None
    # What follows the last end of a line is a line that was cut off.
    lines = rest.split(b"\n")[:-1]
    return head, {int(line) for line in lines if line.isdigit()} if head is not None else set()
