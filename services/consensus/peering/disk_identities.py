"""Which disk each member has: a member that lost its disk must not vote under its old name.

It could vote a second time in a term, or help to elect a leader that lacks an entry which it had acknowledged (docs/consensus.md,
"Amnesia"). So every data folder gets a random id when it is made, members tell it in every handshake, and the first
one that was seen under a name is the only one that is ever accepted under it. A replaced disk comes back under a new name.

Both files carry a checksum: a flipped bit in an id would make this member refuse an honest one, or be refused, and tell the
wrong id to those who know none yet. Files written before there was one are read as they are.
"""

from __future__ import annotations

import json
import secrets
import zlib
from pathlib import Path
from typing import Final

from services.consensus.raft.ports import LogDamagedError
from shared.disk.durable_files import replace_file

DISK_ID_BYTES: Final = 16
_CHECKSUM_BYTES: Final = 4


class DiskIdentities:
    """This member's own disk id, and those of the others as first seen. Invariant: what `accept` returned True for is on disk."""

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether `folder` has an id, so that log, term and vote must be there too: an id without them proves nothing."""
        return (folder / "disk_id").exists()

    def __init__(self, folder: Path) -> None:
        """Read the folder's ids, or give it one: to be done after log and vote were made, never before."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "known_disks.json"
        own_path = folder / "disk_id"
        if not own_path.exists():
            made = secrets.token_bytes(DISK_ID_BYTES)
            replace_file(own_path, made + _checksum(made))
        self.own = _read_own(own_path)
        self._known = self._read()

    @property
    def known(self) -> dict[str, str]:
        """Disk ids in hex, by member."""
        return dict(self._known)

    def accept(self, member: str, disk_id: bytes) -> bool:
        """Whether `disk_id` is the disk of `member`; the first one ever seen is remembered durably."""
        self.learn({member: disk_id.hex()})
        return self._known[member] == disk_id.hex()

    def learn(self, others: dict[str, str]) -> None:
        """What another member knows. So a disk is known to those that never met its member before it was lost."""
        news = {member: disk_id for member, disk_id in others.items() if member not in self._known}
        if news:
            known = self._known | news
            body = {"known": known, "checksum": _checksum(_canonical(known)).hex()}
            replace_file(self._path, json.dumps(body, indent=1, sort_keys=True).encode())
            self._known = known

    def _read(self) -> dict[str, str]:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            return _decode(raw)
        except (ValueError, AttributeError) as error:
            raise LogDamagedError(f"{self._path} cannot be read: {error}") from error


def _decode(raw: bytes) -> dict[str, str]:
    """Raises ValueError, AttributeError."""
    found = json.loads(raw)
    is_checked = found.keys() == {"known", "checksum"}
    known = {str(member): str(disk_id) for member, disk_id in (found["known"] if is_checked else found).items()}
    if is_checked and found["checksum"] != _checksum(_canonical(known)).hex():
        raise ValueError("it does not fit its checksum")
    if any(len(bytes.fromhex(disk_id)) != DISK_ID_BYTES for disk_id in known.values()):
        raise ValueError("it holds something that is no disk id")
    return known


def _read_own(path: Path) -> bytes:
    raw = path.read_bytes()
    own, checksum = raw[:DISK_ID_BYTES], raw[DISK_ID_BYTES:]
    if len(own) != DISK_ID_BYTES or checksum not in {b"", _checksum(own)}:
        raise LogDamagedError(f"{path} is damaged: {len(raw)} bytes that do not fit their checksum")
    return own


def _canonical(known: dict[str, str]) -> bytes:
    return json.dumps(known, sort_keys=True).encode()


def _checksum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "little")
