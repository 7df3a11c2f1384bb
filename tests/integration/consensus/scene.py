"""Running members, clients that load them, and the history that is judged in the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from shared.consensus_calls.client import ConsensusClient
from shared.errors import TrivetError
from shared.peer_calls.http_client import PeerClient
from tests.integration.consensus.history import Registers
from tests.integration.consensus.members import Members

PROGRESS_WITHIN_S = 30.0
"""Says that it goes on at all, on a busy machine too; how soon is what `make bench-consensus` measures."""


class Scene:
    """Running members, clients that load them, and the history."""

    def __init__(self, members: Members, client: PeerClient, consensus: ConsensusClient) -> None:
        self.members = members
        self.client = client
        self.consensus = consensus
        seed = random.SystemRandom().randrange(1 << 32)
        self.registers = Registers(consensus, seed=seed, prefix=f"register-{seed:08x}")
        print(f"seed {seed}")

    async def describe(self) -> str:
        """How every member sees itself, for messages of failed checks."""
        lines = [f"{dict(self.registers.counts)}"]
        for number, address in enumerate(self.members.addresses):
            try:
                status = await self.members.status(self.client, number)
                lines.append(status.model_dump_json(exclude={"members", "leader_url", "cluster_id", "state_hash"}))
            except TrivetError as error:
                lines.append(f"{address.id}: {error.message}")
        return "\n".join(lines)

    async def wait_for_progress(self, *, writes: int = 20, within_s: float = PROGRESS_WITHIN_S) -> float:
        """Seconds until `writes` more writes were acknowledged."""
        began, before = time.monotonic(), self.registers.counts["writes"]
        try:
            async with asyncio.timeout(within_s):
                while self.registers.counts["writes"] < before + writes:  # noqa: ASYNC110 polls what has no event
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"no progress within {within_s} s: {await self.describe()}") from None
        return time.monotonic() - began

    async def wait_until_all_agree(self, *, within_s: float = PROGRESS_WITHIN_S) -> None:
        """Until the three members, without load now, have applied the same entries and hold the same state."""
        try:
            async with asyncio.timeout(within_s):
                while not await self._all_agree():  # noqa: ASYNC110 polls other processes
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"no agreement within {within_s} s: {await self.describe()}") from None

    async def _all_agree(self) -> bool:
        try:
            statuses = [await self.members.status(self.client, number) for number in range(3)]
        except TrivetError:
            return False
        states = {(status.last_applied, status.state_hash) for status in statuses}
        return len(states) == 1 and statuses[0].state_hash is not None


@asynccontextmanager
async def running_scene(
    folder: Path, settings: dict[str, str] | None = None, *, programs: dict[int, list[str]] | None = None
) -> AsyncIterator[Scene]:
    """Three members with these settings, initialised; everything ends with the block."""
    members = Members(folder, settings)
    members.programs |= programs or {}
    async with members.running() as (client, consensus):
        yield Scene(members, client, consensus)
