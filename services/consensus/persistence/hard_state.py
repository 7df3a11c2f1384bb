"""Term and vote on disk: one small checksummed file, replaced atomically and fsynced before anybody hears of either.

Written on the loop: it happens at elections only, and nothing else may happen before it is durable.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import msgpack

from services.consensus.raft.ports import HardStateChange, LogDamagedError
from shared.disk.durable_files import replace_file

_FORMAT_VERSION = 1


class FileHardState:
    """A `HardStateStore`. Invariant: what `term` and `voted_for` say is on disk."""

    def __init__(self, folder: Path, *, must_exist: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "hard_state"
        self._term: int = 0
        self._voted_for: str | None = None
        if self._path.exists():
            self._term, self._voted_for = self._read()
        elif must_exist:
            raise LogDamagedError(f"{self._path} is gone, and with it a vote that may have been given")
        else:
            self._write(0, None)

    @property
    def term(self) -> int:
        """See `HardStateStore`."""
        return self._term

    @property
    def voted_for(self) -> str | None:
        """See `HardStateStore`."""
        return self._voted_for

    def update(self, change: HardStateChange) -> None:
        """See `HardStateStore`. Raises OSError, after which the member must not go on."""
        term = change.get("term", self._term)
        voted_for = change.get("voted_for", self._voted_for)
        assert term >= self._term, "the term goes back"
        if (term, voted_for) == (self._term, self._voted_for):
            return
        self._write(term, voted_for)
        self._term, self._voted_for = term, voted_for

    def _write(self, term: int, voted_for: str | None) -> None:
        body = bytes(msgpack.packb([_FORMAT_VERSION, term, voted_for]))
        replace_file(self._path, zlib.crc32(body).to_bytes(4, "little") + body)

    def _read(self) -> tuple[int, str | None]:
        raw = self._path.read_bytes()
        body = raw[4:]
        if len(raw) < 5 or zlib.crc32(body) != int.from_bytes(raw[:4], "little"):
            raise LogDamagedError(f"{self._path} does not fit its checksum; its vote is lost")
        version, term, voted_for = msgpack.unpackb(body)
        if version != _FORMAT_VERSION:
            raise LogDamagedError(f"{self._path} has format {version}; this member knows {_FORMAT_VERSION}")
        return term, voted_for
