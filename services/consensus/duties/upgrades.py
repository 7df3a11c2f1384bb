"""Members of two versions in one cluster: who can apply which entries, and when new ones may be proposed (C-60).

Every member writes into the log which entries it can apply, as soon as that differs from what the log says. The leader raises
what may be proposed when every member, learners included, has announced it; a member that joins must know as much before it
may vote (`Membership`). What was raised never goes back: entries of that version may be in the log already. A member that is
taken back to an older version afterwards stops applying at the first entry that it does not know, and says so.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Final

import structlog

from services.consensus.metadata.entries import FIRST_ENTRY_VERSION, KNOWN_ENTRY_VERSION
from services.consensus.service import ConsensusService
from shared.background_tasks import BackgroundTasks
from shared.contracts.metadata import AnnounceMember, Proposal, ProposalBatch, ProposalResults, RaiseEntryVersion
from shared.contracts.time import TimeSource
from shared.errors import TrivetError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.roles import Role

logger = structlog.get_logger(__name__)

CHECK_INTERVAL_S: Final = 1.0
_TIMEOUT_S: Final = 5.0


def common_version(announced: Mapping[str, int], members: Iterable[str]) -> int:
    """The newest entry version that all of `members` said they can apply; one that said nothing knows the first."""
    return min((announced.get(member, FIRST_ENTRY_VERSION) for member in members), default=FIRST_ENTRY_VERSION)


class Upgrades:
    """Announces this member; while it leads, raises what may be proposed."""

    def __init__(self, service: ConsensusService, clock: TimeSource, client: PeerClient) -> None:
        self._service = service
        self._clock = clock
        self._client = client

    def start(self, tasks: BackgroundTasks) -> None:
        """Look again and again."""
        tasks.every("upgrades", CHECK_INTERVAL_S, self._step, on_ticks=True)

    async def _step(self) -> None:
        self._step_aside()
        try:
            await self._announce()
            await self._raise()
        except TrivetError as error:
            logger.debug("announcement put off", reason=error.message)

    def _step_aside(self) -> None:
        """A leader that cannot apply lets another one lead, as soon as there is one that can."""
        role = self._service.member.leader_role
        if role is not None and self._service.member.stopped_applying is not None:
            role.transfer()

    async def _announce(self) -> None:
        """To whoever leads: a follower cannot propose."""
        own = self._service.member
        leader = own.leader
        known = self._service.store.announced().get(own.id)
        if (
            leader is None
            or self._service.store.cluster_id is None
            or known == KNOWN_ENTRY_VERSION
            or own.configuration.find(own.id) is None
        ):
            return
        command = AnnounceMember(member_id=own.id, entry_version=KNOWN_ENTRY_VERSION, stamp=self._clock.stamp())
        batch = ProposalBatch(proposals=[Proposal(request_id=secrets.token_hex(16), retain_s=0, command=command)])
        if leader.id == own.id:
            await self._service.propose(batch.proposals)
            return
        address = PeerAddress(leader.id, leader.url, Role.CONSENSUS)
        await self._client.call(address, "POST", "/v1/proposals", ProposalResults, body=batch, timeout_s=_TIMEOUT_S)

    async def _raise(self) -> None:
        own, store = self._service.member, self._service.store
        if own.leader_role is None:
            return
        members = [member.id for member in own.configuration.members]
        version = min(common_version(store.announced(), members), KNOWN_ENTRY_VERSION)
        if members and version > store.summary().entry_version:
            logger.info("every member knows newer entries", entry_version=version)
            command = RaiseEntryVersion(entry_version=version, stamp=self._clock.stamp())
            await self._service.propose_one(secrets.token_hex(16), command, retain_s=0)
        for gone in store.announced().keys() - set(members):
            removal = AnnounceMember(member_id=gone, entry_version=None, stamp=self._clock.stamp())
            await self._service.propose_one(secrets.token_hex(16), removal, retain_s=0)
