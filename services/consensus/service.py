"""What a member does for its callers: ordered proposals, linearizable reads, the making of a cluster, its own status."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from services.consensus.member import Member
from services.consensus.metadata.database import RowDamagedError
from services.consensus.metadata.entries import (
    BUCKET_LIMIT_VERSION,
    KNOWN_ENTRY_VERSION,
    OBJECTS_VERSION,
    encode_proposal,
    entry_version_of,
    fit,
)
from services.consensus.metadata.store import MetadataStore
from services.consensus.persistence.runner import ThreadRunner
from services.consensus.persistence.state_damage import is_damage
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.decide import has_majority
from shared.contracts.calls import Command, Proposed, ResultT
from shared.contracts.cluster import InitRequest, InitResponse, MemberStatus, StorageNode
from shared.contracts.metadata import (
    AnyCommand,
    AnyQuery,
    ClusterAnswer,
    CreateBucket,
    InitCluster,
    Proposal,
    ProposalResult,
    PublishFile,
    ReadResult,
)
from shared.contracts.objects import CopyFile, PutBucketDocument
from shared.contracts.read_results import encode_read_results
from shared.contracts.time import TimeSource
from shared.contracts.uploads import BeginUpload, CompleteUpload, CopyPart, PutPart
from shared.errors import (
    ClusterMismatchError,
    DiskFullError,
    InternalError,
    InvalidRequestError,
    LeaderUnavailableError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    TrivetError,
    UpgradeUnfinishedError,
    error_from_problem,
)
from shared.units import MIB

MAX_ENTRY_BYTES: Final = MIB
MAX_ANSWER_BYTES: Final = 4 * MIB
"""Of chunk lists, files and buckets in one answer to a batch of queries; the first query is always answered."""

_INIT_RETENTION_S: Final = 7 * 86400
_GROWING: Final = (
    PublishFile,
    CreateBucket,
    CopyFile,
    PutBucketDocument,
    BeginUpload,
    PutPart,
    CopyPart,
    CompleteUpload,
)


class ConsensusService:
    """The use cases of a consensus member; `api` gives them routes."""

    def __init__(
        self,
        member: Member,
        store: MetadataStore,
        reader: ThreadRunner,
        clock: TimeSource,
        *,
        connected_peers: Callable[[], Sequence[str]],
        cluster_id: str,
        deadline_s: float,
        bucket_limit: int,
        differing_members: Callable[[], list[str]],
        fill_nodes: Callable[[int], Callable[[StorageNode], StorageNode]],
    ) -> None:
        self.member = member
        self.store = store
        self._reader = reader
        self._clock = clock
        self._connected_peers = connected_peers
        self._cluster_id = cluster_id
        self._deadline_s = deadline_s
        self._bucket_limit = bucket_limit
        self._differing_members = differing_members
        self._fill_nodes = fill_nodes

    async def propose(self, proposals: Sequence[Proposal], *, needs_requesters: bool = False) -> list[ProposalResult]:
        """Order and apply; one result per proposal, in order.

        Args:
            needs_requesters: the sender is known to be a gateway that speaks for clients: what it proposes says for whom, as
                soon as entries may say that. One whose role is not known may be a gateway of a version before.

        Raises:
            NotLeaderError, LeaderUnavailableError, OverloadedError: nothing was appended; definite.
        """
        entry_version = self.store.summary().entry_version
        proposals = [fit(self._with_limit(proposal), entry_version) for proposal in proposals]
        payloads = [encode_proposal(proposal) for proposal in proposals]
        needs_requesters = needs_requesters and entry_version >= OBJECTS_VERSION
        refusals = [
            _without_requester()
            if needs_requesters and proposal.requester is None
            else self._why_refused(proposal, payload)
            for proposal, payload in zip(proposals, payloads, strict=True)
        ]
        fitting = [payload for payload, refusal in zip(payloads, refusals, strict=True) if refusal is None]
        waiting = iter(self.member.propose(fitting) if fitting else [])
        entries = [next(waiting) if refusal is None else None for refusal in refusals]
        if pending := [entry for entry in entries if entry is not None]:
            await asyncio.wait(pending, timeout=self._deadline_s)
        return [
            _outcome(entry) if refusal is None else _problem(refusal)
            for entry, refusal in zip(entries, refusals, strict=True)
        ]

    async def propose_one(
        self, request_id: str, command: Command[ResultT], *, retain_s: int = 600
    ) -> Proposed[ResultT]:
        """One command of this member itself. Raises the typed error when it was rejected or is unknown."""
        proposal = Proposal(request_id=request_id, retain_s=retain_s, command=cast("AnyCommand", command))
        (outcome,) = await self.propose([proposal])
        if outcome.problem is not None:
            raise error_from_problem(outcome.problem)
        return Proposed.of(type(command), outcome.log_index, outcome.term, outcome.result)

    async def read(self, queries: Sequence[AnyQuery]) -> bytes:
        """`ReadResults` as JSON, from one applied index, which is no older than the moment of the call.

        As JSON, because writing many chunk lists down takes long enough to be deposed: it is done off the loop. Queries
        that do not fit into `MAX_ANSWER_BYTES` get a problem that says to ask again.

        Raises:
            NotLeaderError, LeaderUnavailableError: definite.
        """
        # Where nothing has to be applied first, the answer is prepared while leadership is proven.
        prepared = self._prepare(queries) if self.member.may_answer_unproven else None
        try:
            async with asyncio.timeout(self._deadline_s):
                await self.member.read_barrier()
        except TimeoutError as error:
            raise LeaderUnavailableError("Leadership could not be proven within the deadline.") from error
        try:
            answered: bytes = await (prepared or self._prepare(queries))
        except (RowDamagedError, sqlite3.DatabaseError) as error:
            if is_damage(error):
                self.member.fatal(error)
            raise
        return answered

    def _prepare(self, queries: Sequence[AnyQuery]) -> asyncio.Future[bytes]:
        """The answer from the state that a thread finds. Nobody may see it before the barrier has ended."""
        term = self.member.raft.storage.term
        engine = {
            "cluster_id": self.member.configuration.cluster_id,
            "leader_id": self.member.raft.get_leader(),
            "members": list(self.member.configuration.members),
            "is_low_on_disk": self.member.raft.is_low_on_disk,
        }
        fill_node, hlc = self._fill_nodes(term), self._clock.stamp().hlc

        def answer() -> bytes:
            results = self.store.answer(queries, term=term, max_bytes=MAX_ANSWER_BYTES)
            filled = [_with_leaders_knowledge(result, engine, fill_node) for result in results.results]
            update = {"results": filled, "hlc": max(hlc, results.hlc)}
            return encode_read_results(results.model_copy(update=update))

        prepared = self._reader.run(answer)
        # Its error is nobody's where the barrier fails.
        prepared.add_done_callback(lambda done: done.cancelled() or done.exception())
        return prepared

    async def initialise(self, request: InitRequest) -> InitResponse:
        """Make the cluster, or confirm that it was made; idempotent.

        Raises:
            ClusterMismatchError: another cluster id is in force here; definite.
            NotLeaderError: follow it to finish.
        """
        if request.cluster_id != self._cluster_id:
            raise ClusterMismatchError("This member was started for another cluster.", cluster_id=self._cluster_id)
        configuration = Configuration(request.cluster_id, tuple(request.members))
        if configuration.find(self.member.id) is None:
            raise ClusterMismatchError("This member is not among the first members.", id=self.member.id)
        self.member.bootstrap(configuration)
        await self._wait_until_leader_known()
        result = await self.propose_one(
            f"init-{request.cluster_id}",
            InitCluster(
                cluster_id=request.cluster_id, admitted_nodes=request.admitted_nodes, stamp=self._clock.stamp()
            ),
            retain_s=_INIT_RETENTION_S,
        )
        return InitResponse(cluster_id=request.cluster_id, created=result.result.created)

    @property
    def members(self) -> str:
        """The members in force, as `MEMBERS_HEADER` says them."""
        return ",".join(f"{member.id}={member.url}" for member in self.member.configuration.members)

    def status(self) -> MemberStatus:
        """This member about itself; nothing linearizable."""
        member, leader, state = self.member, self.member.leader, self.store.summary()
        return MemberStatus(
            id=member.id,
            cluster_id=member.configuration.cluster_id or None,
            role=type(member.raft.state).__name__.removesuffix("Role").lower(),
            term=member.raft.storage.term,
            leader_id=leader.id if leader else None,
            leader_url=leader.url if leader else None,
            commit_index=member.log.commit_index,
            last_applied=state.last_applied,
            last_log_index=member.log.last_log_index,
            state_hash=state.digest(),
            state_marks={mark.index: mark.state_hash for mark in self.store.marks()},
            differs_from=self._differing_members(),
            first_log_index=member.log.base.index + 1,
            is_rebuilding=member.log.is_behind_base,
            entry_version=state.entry_version,
            known_entry_version=KNOWN_ENTRY_VERSION,
            stopped_applying=member.stopped_applying,
            reaches_majority=self._reaches_majority(),
            members=list(member.configuration.members),
        )

    def _reaches_majority(self) -> bool:
        """Learners and members that were never initialised do not know who counts: they say yes."""
        voters = self.member.configuration.voters
        if self.member.id not in voters:
            return True
        return has_majority([self.member.id, *self._connected_peers()], voters)

    def _with_limit(self, proposal: Proposal) -> Proposal:
        """Settings of the leader stand in the entry: so `apply` decides the same on every member, and for ever."""
        if not isinstance(proposal.command, CreateBucket):
            return proposal
        is_known = self.store.summary().entry_version >= BUCKET_LIMIT_VERSION
        command = proposal.command.model_copy(update={"limit": self._bucket_limit if is_known else None})
        return proposal.model_copy(update={"command": command})

    def _why_refused(self, proposal: Proposal, payload: bytes) -> TrivetError | None:
        if len(payload) > MAX_ENTRY_BYTES:
            return PayloadTooLargeError(
                "The metadata of this file is larger than one log entry.",
                size_bytes=len(payload),
                limit_bytes=MAX_ENTRY_BYTES,
            )
        if entry_version_of(proposal) > self.store.summary().entry_version:
            return UpgradeUnfinishedError(
                "A consensus member does not know this kind of change yet; upgrade all of them first.",
                kind=proposal.command.kind,
            )
        if self.member.raft.is_low_on_disk and isinstance(proposal.command, _GROWING):
            # What is left of the disk is for deletions and for the cluster's own entries.
            return DiskFullError("The consensus members are short of disk space; deletions go on.")
        return None

    async def _wait_until_leader_known(self) -> None:
        known = asyncio.Event()
        self.member.on_role_change(known.set)
        try:
            async with asyncio.timeout(self._deadline_s):
                while self.member.leader is None:
                    known.clear()
                    await known.wait()
        except TimeoutError as error:
            raise LeaderUnavailableError("No leader was elected yet; are the other members running?") from error
        finally:
            self.member.off_role_change(known.set)


def _with_leaders_knowledge(
    result: ReadResult, engine: Mapping[str, object], fill_node: Callable[[StorageNode], StorageNode]
) -> ReadResult:
    """Who the members are is the engine's knowledge, and how the nodes are that of the leader; neither is in the log."""
    if not isinstance(result.answer, ClusterAnswer):
        return result
    node_map = result.answer.node_map
    update = {**engine, "node_map": node_map.model_copy(update={"nodes": list(map(fill_node, node_map.nodes))})}
    return result.model_copy(update={"answer": result.answer.model_copy(update=update)})


def _without_requester() -> TrivetError:
    return InvalidRequestError("A gateway's proposal names whom it is made for.", name="requester")


def _outcome(waiting: asyncio.Future[Any] | None) -> ProposalResult:
    """What became of one proposal by now."""
    if waiting is None or not waiting.done():
        return _problem(OutcomeUnknownError("The proposal was not committed within the deadline; it may still be."))
    error = waiting.exception()
    if isinstance(error, TrivetError):
        return _problem(error)
    if error is not None or not isinstance(waiting.result(), ProposalResult):
        return _problem(InternalError("The state machine gave no result."))
    return cast("ProposalResult", waiting.result())


def _problem(error: TrivetError) -> ProposalResult:
    return ProposalResult(log_index=0, term=0, problem=error.to_problem())
