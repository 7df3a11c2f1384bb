"""Who belongs to the consensus group: add as a learner, promote when caught up, remove; one change at a time (C-36).

The log decides (`LeaderRole.propose_configuration`); this module turns a request into the next configuration, and promotes
learners by itself, so that a new member never counts for a majority before it can hold one up.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from services.consensus.member import Member
from services.consensus.metadata.entries import FIRST_ENTRY_VERSION
from services.consensus.metadata.store import MetadataStore
from services.consensus.peering.disk_identities import DiskIdentities
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.progress import Mode
from shared.background_tasks import BackgroundTasks
from shared.contracts.cluster import AddMemberRequest, ConsensusMember, MembersResponse
from shared.contracts.names import check_member_id
from shared.errors import ConflictError, NodeNotFoundError, NotLeaderError, OutcomeUnknownError, TrivetError

logger = structlog.get_logger(__name__)

CHECK_INTERVAL_S: Final = 0.5
MAX_MEMBERS: Final = 9


class Membership:
    """Changes of the membership, on the leader."""

    def __init__(self, member: Member, store: MetadataStore, disks: DiskIdentities, *, deadline_s: float) -> None:
        self._member = member
        self._store = store
        self._disks = disks
        self._deadline_s = deadline_s
        self._last_check: tuple[int, int] | None = None
        """(term, commit index) when this member last checked for learners to promote."""

    async def add(self, request: AddMemberRequest) -> MembersResponse:
        """Add a learner; returns when that is committed. Adding the same member again changes nothing.

        Raises:
            ConflictError: another change is under way, the id is taken, or the group is full; definite.
            NotLeaderError: definite.
            OutcomeUnknownError: not committed within the deadline; it may still be.
        """
        await self._member.read_barrier()
        configuration = self._member.configuration
        new = ConsensusMember(
            id=check_member_id(request.id), url=request.url, peer_address=request.peer_address, is_voter=False
        )
        known = configuration.find(new.id)
        if known is not None:
            if known.model_copy(update={"is_voter": False}) != new:
                raise ConflictError("A member of that id exists with other addresses.", id=new.id)
            return self._response()
        if new.id in self._disks.known:
            raise ConflictError("The id was used before; a new member needs a new one.", id=new.id)
        if len(configuration.members) >= MAX_MEMBERS:
            raise ConflictError("The group has as many members as it takes.", limit=MAX_MEMBERS)
        await self._change(Configuration(configuration.cluster_id, (*configuration.members, new)))
        return self._response()

    async def remove(self, member_id: str) -> MembersResponse:
        """Remove a member; returns when that is committed.

        Raises:
            NodeNotFoundError: no such member; definite.
            ConflictError: another change is under way, or it is the last voter; definite.
            NotLeaderError, OutcomeUnknownError: as in `add`.
        """
        await self._member.read_barrier()
        configuration = self._member.configuration
        if configuration.find(member_id) is None:
            raise NodeNotFoundError("There is no consensus member of that id.", id=member_id)
        rest = tuple(member for member in configuration.members if member.id != member_id)
        await self._change(Configuration(configuration.cluster_id, rest))
        return self._response()

    def start(self, tasks: BackgroundTasks) -> None:
        """While leading, promote learners that have caught up."""
        tasks.every("learner watch", CHECK_INTERVAL_S, self._step, on_ticks=True)

    async def _step(self) -> None:
        try:
            await self._promote_one()
        except NotLeaderError:
            pass
        except TrivetError as error:
            logger.info("promotion put off", reason=error.message)

    async def _promote_one(self) -> None:
        role = self._member.leader_role
        last_check = self._last_check
        self._last_check = None if role is None else (role.term, self._member.log.commit_index)
        if role is None or last_check is None or last_check[0] != role.term or last_check[1] < role.first_index:
            return
        configuration = self._member.configuration
        # What was committed at the previous check: under load a learner is never level with this very moment.
        goal = last_check[1]
        for learner in configuration.members:
            progress = role.progress.get(learner.id)
            if (
                not learner.is_voter
                and progress is not None
                and progress.mode is not Mode.SNAPSHOT
                and not progress.lacks_state
                and progress.match_index >= goal
                and self._can_apply(learner)
            ):
                members = tuple(
                    member.model_copy(update={"is_voter": True}) if member is learner else member
                    for member in configuration.members
                )
                logger.info("promoting a learner", member=learner.id)
                await self._change(Configuration(configuration.cluster_id, members))
                return

    def _can_apply(self, learner: ConsensusMember) -> bool:
        """Of a version that knows every entry that may be in the log; else it would vote for what it cannot apply."""
        announced = self._store.announced().get(learner.id, FIRST_ENTRY_VERSION)
        return announced >= self._store.summary().entry_version

    async def _change(self, configuration: Configuration) -> None:
        committed = self._member.propose_configuration(configuration)
        try:
            async with asyncio.timeout(self._deadline_s):
                await committed
        except TimeoutError as error:
            raise OutcomeUnknownError("The change was not committed within the deadline; it may still be.") from error

    def _response(self) -> MembersResponse:
        index, configuration = self._member.log.configuration()
        return MembersResponse(members=list(configuration.members), log_index=index)
