"""Compares this member's state with the others': equal entries must have made equal tables everywhere (C-58).

Applying is deterministic, so a difference is a defect, of the software or of a disk, and it never goes away by itself. A
member that finds itself in the minority says so in /readyz and in /v1/status: it must be rebuilt. Where nobody is in the
minority, every member says that it differs, and a person has to look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

import structlog

from services.consensus.member import Member
from services.consensus.metadata.store import MetadataStore, StateMark
from shared.background_tasks import BackgroundTasks
from shared.contracts.cluster import MemberStatus
from shared.errors import TrivetError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.roles import Role

logger = structlog.get_logger(__name__)

COMPARE_INTERVAL_S: Final = 10.0
_TIMEOUT_S: Final = 2.0


def differing(own: Mapping[int, str], others: Mapping[str, Mapping[int, str]]) -> tuple[dict[str, StateMark], bool]:
    """Those that had another state at an index that both know, and whether more of them agree with each other than with us.

    Args:
        own: state hashes by log index.
        others: the same, by member.
    """
    verdicts: dict[str, StateMark] = {}
    with_us = 1
    for member, hashes in others.items():
        common = max(own.keys() & hashes.keys(), default=None)
        if common is None:
            continue
        if own[common] == hashes[common]:
            with_us += 1
        else:
            verdicts[member] = StateMark(common, hashes[common])
    largest = max(Counter(verdicts.values()).values(), default=0)
    return verdicts, largest > with_us


class StateComparison:
    """Asks the others for their state hashes, for as long as this member runs."""

    def __init__(self, member: Member, store: MetadataStore, client: PeerClient) -> None:
        self._member = member
        self._store = store
        self._client = client
        self.differing: dict[str, StateMark] = {}
        self.is_outvoted = False

    def start(self, tasks: BackgroundTasks) -> None:
        """Compare again and again."""
        tasks.every("state comparison", COMPARE_INTERVAL_S, self._compare)

    async def _compare(self) -> None:
        found: dict[str, dict[int, str]] = {}
        for member in self._member.configuration.members:
            if member.id == self._member.id:
                continue
            try:
                status = await self._client.call(
                    PeerAddress(member.id, member.url, Role.CONSENSUS),
                    "GET",
                    "/v1/status",
                    MemberStatus,
                    timeout_s=_TIMEOUT_S,
                )
            except TrivetError:
                continue
            found[member.id] = status.state_marks | (
                {} if status.state_hash is None else {status.last_applied: status.state_hash}
            )
        # Ours after theirs: they cannot be ahead of the marks that both know.
        verdicts, is_outvoted = differing(self._store.state_hashes(), found)
        for member_id, mark in verdicts.items():
            logger.critical(
                "members disagree about the state; one of them must be rebuilt",
                member=member_id,
                index=mark.index,
                own_hash=self._store.state_hashes().get(mark.index),
                other_hash=mark.state_hash,
                is_outvoted=is_outvoted,
            )
        if found:
            self.differing, self.is_outvoted = verdicts, is_outvoted
