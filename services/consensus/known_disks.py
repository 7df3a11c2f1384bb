"""Which disk each member has: a member that lost its disk must not vote under its old name.

It could vote a second time in a term, or help to elect a leader that lacks an entry which it had acknowledged (DESIGN.md
section 12, Amnesia). So every data folder gets a random id when it is made, members tell it in every handshake, and the first
one that was seen under a name is the only one that is ever accepted under it. A replaced disk comes back under a new name.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from services.consensus.raft.ports import LogDamagedError
from shared.durable_files import replace_file

DISK_ID_BYTES = 16


class KnownDisks:
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
            replace_file(own_path, secrets.token_bytes(DISK_ID_BYTES))
        self.own = own_path.read_bytes()
        if len(self.own) != DISK_ID_BYTES:
            raise LogDamagedError(f"{own_path} has {len(self.own)} bytes instead of {DISK_ID_BYTES}")
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
            replace_file(self._path, json.dumps(known, indent=1, sort_keys=True).encode())
            self._known = known

    def _read(self) -> dict[str, str]:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            known = json.loads(raw)
            return {str(member): str(disk_id) for member, disk_id in known.items()}
        except (ValueError, AttributeError) as error:
            raise LogDamagedError(f"{self._path} cannot be read: {error}") from error
