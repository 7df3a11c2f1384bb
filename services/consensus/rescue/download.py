"""A copy of the tables of a running member, over the network."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from blake3 import blake3

from services.consensus.rescue.backup_files import BackupDamagedError
from shared.contracts.cluster import DIGEST_HEADER, LOG_INDEX_HEADER
from shared.errors import TrivetError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.settings import refuse_to_start

PATIENCE_S: Final = 60.0
ROUNDS: Final = 20
ROUND_PAUSE_S: Final = 0.5
"""For members that have not applied yet what the leader has."""


async def download_copy(members: Sequence[PeerAddress], client: PeerClient, target: Path, *, at_least: int) -> None:
    """From the first member that gives one that is not older than log index `at_least`: what it lacks may be deleted."""
    refusals: dict[str, str] = {}
    for _ in range(ROUNDS):
        for member in members:
            try:
                index = await _download_from(member, client, target)
            except TrivetError as error:
                refusals[member.id] = error.message
                continue
            if index >= at_least:
                sys.stdout.write(f"copied from {member.id} at log index {index}\n")
                return
            refusals[member.id] = f"it is behind, at log index {index} of {at_least}"
        if not any(reason.startswith("it is behind") for reason in refusals.values()):
            break
        await asyncio.sleep(ROUND_PAUSE_S)
    refuse_to_start("no member gives a copy: " + "; ".join(f"{member}: {why}" for member, why in refusals.items()))


async def _download_from(member: PeerAddress, client: PeerClient, target: Path) -> int:
    hasher = blake3()
    with target.open("wb") as file:

        def write(piece: bytes) -> None:
            hasher.update(piece)
            file.write(piece)

        headers = await client.download(member, "/v1/backup", write, timeout_s=PATIENCE_S)
    if headers.get(DIGEST_HEADER) != hasher.hexdigest():
        raise BackupDamagedError(f"what {member.id} sent is not what it announced")
    return int(headers[LOG_INDEX_HEADER])
