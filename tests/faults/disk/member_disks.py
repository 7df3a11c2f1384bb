"""Consensus members that each keep everything on a loop disk, and what must never go back on such a disk."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from services.consensus.persistence.hard_state import FileHardState
from services.consensus.persistence.log_store import SqliteLogStore
from services.consensus.raft.ports import Entry
from shared.errors import TrivetError
from shared.peer_calls.http_client import PeerClient
from shared.units import MIB
from tests.faults.tools.mounts import Mounts
from tests.integration.consensus.members import Members

QUICK = {
    "TRIVET_RAFT_HEARTBEAT_INTERVAL_MS": "50",
    "TRIVET_ELECTION_TIMEOUT_MIN_MS": "800",
    "TRIVET_ELECTION_TIMEOUT_MAX_MS": "1600",
}
"""More elections in a minute, so more votes to forget."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a member may have told others: durable before, so there after a power cut."""

    term: int
    voted_for: str | None
    acknowledged_index: int


class MemberDisks:
    """Mounts a disk where each of three members will keep its data; to be made before the members start."""

    def __init__(self, mounts: Mounts, members: Members, folder: Path, size_bytes: int = 256 * MIB) -> None:
        self._members = members
        self._folder = folder
        self.disks = [
            mounts.loop_disk(size_bytes, mount_point=folder / f"consensus-{number}") for number in range(1, 4)
        ]
        for number in range(3):
            members.settings.setdefault(number, {}).update(QUICK)

    async def lose_power(self, client: PeerClient, *numbers: int) -> None:
        """Cut these members at once, check that their disks kept what they had told, and leave them ready to start."""
        told = {number: await self._told(client, number) for number in numbers}
        await asyncio.to_thread(self._cut_and_check, told)

    def entries(self, number: int) -> dict[int, Entry]:
        """The whole log of a member that does not run, by index."""
        with tempfile.TemporaryDirectory() as scratch:
            log = self._open_copy(number, Path(scratch))
            try:
                stored = log.load()
                first = stored.base.index + 1
                return dict(enumerate(log.read(first, stored.last_index, max_bytes=1 << 40), first))
            finally:
                log.close()

    async def _told(self, client: PeerClient, number: int) -> Told:
        """Term, vote and the mark of what was acknowledged, as they stand in the files now, and surely durable.

        A vote stands in its file a moment before it is durable. It is written on the member's loop, so once the loop has
        answered, that moment is over. The mark is written after the entries below it are durable.
        """
        folder = self._folder / f"consensus-{number + 1}"
        state = FileHardState(folder, must_exist=True)
        mark = int.from_bytes((folder / "raft_log.acknowledged").read_bytes()[:8], "little")
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(TrivetError):
                    await self._members.status(client, number)
                    return Told(state.term, state.voted_for, mark)

    def _cut_and_check(self, told: dict[int, Told]) -> None:
        for number in told:
            self.disks[number].cut_power([self._members.pid(number)])
        for number, promised in told.items():
            self._members.kill(number)
            self.disks[number].restore_power()
            self._check(number, promised)

    def _check(self, number: int, told: Told) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            log = self._open_copy(number, Path(scratch))
            try:
                last_index = log.load().last_index
            finally:
                log.close()
            state = FileHardState(Path(scratch), must_exist=True)
        assert state.term >= told.term, f"the term went back from {told} to {state.term}"
        if state.term == told.term and told.voted_for is not None:
            assert state.voted_for == told.voted_for, f"the vote changed from {told} to {state.voted_for}"
        assert last_index >= told.acknowledged_index, f"the log went back from {told} to {last_index}"

    def _open_copy(self, number: int, scratch: Path) -> SqliteLogStore:
        # A copy, because opening a log settles its write-ahead file: the member shall find what the power cut left.
        shutil.copytree(
            self._folder / f"consensus-{number + 1}",
            scratch,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("lost*"),
        )
        return SqliteLogStore(scratch, must_exist=True)
