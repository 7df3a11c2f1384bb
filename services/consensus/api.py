"""The routes of a consensus member; all signed. Shapes in `shared.contracts.metadata` and `shared.contracts.cluster`."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from services.consensus.duties.membership import Membership
from services.consensus.duties.storage_nodes import StorageNodes
from services.consensus.fast_path import answer_proposals, answer_reads
from services.consensus.persistence.backup_source import BackupCopy, BackupSource
from services.consensus.service import ConsensusService
from shared.contracts.cluster import (
    DIGEST_HEADER,
    LOG_INDEX_HEADER,
    MEMBERS_HEADER,
    AddMemberRequest,
    Heartbeat,
    HeartbeatResponse,
    InitRequest,
    InitResponse,
    MembersResponse,
    MemberStatus,
)
from shared.contracts.metadata import ProposalBatch, ProposalResults, ReadBatch, ReadResults
from shared.contracts.names import check_member_id
from shared.web.service_app import BODY_DIGEST, caller_of

_NOT_LEADER: dict[int | str, dict[str, Any]] = {
    421: {"description": "This member does not lead; `leader_url` names the one that does, when known."},
    503: {"description": "No leader, or too much waits to be committed. `definite` says whether it may have happened."},
}


class RunningMember(Protocol):
    """What the routes need; every property raises NotReadyError while the member starts or stops."""

    @property
    def service(self) -> ConsensusService:
        """Proposals, reads, status."""

    @property
    def nodes(self) -> StorageNodes:
        """Heartbeats."""

    @property
    def backups(self) -> BackupSource:
        """Copies of the metadata."""

    @property
    def members(self) -> Membership:
        """Changes of the membership."""


class _CopyResponse(StreamingResponse):
    """Sends a copy and has it removed, also when the client goes away in the middle: a background task would not run then."""

    def __init__(self, copy: BackupCopy, backups: BackupSource) -> None:
        headers = {
            "content-length": str(copy.size_bytes),
            LOG_INDEX_HEADER: str(copy.last_applied),
            DIGEST_HEADER: copy.digest,
        }
        super().__init__(copy.pieces(), media_type="application/vnd.sqlite3", headers=headers)
        self._backups = backups

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_proved_by_header(message: Message) -> None:
            await send({**message, BODY_DIGEST: ""} if message["type"] == "http.response.start" else message)

        try:
            await super().__call__(scope, receive, send_proved_by_header)
        finally:
            self._backups.close()


def _json(content: bytes, service: ConsensusService) -> Response:
    return Response(content, media_type="application/json", headers={MEMBERS_HEADER: service.members})


def create_router(member: RunningMember) -> APIRouter:
    """The routes over one member."""
    router = APIRouter(prefix="/v1")

    @router.post(
        "/proposals",
        tags=["metadata"],
        summary="Order and apply commands",
        response_model=ProposalResults,
        responses=_NOT_LEADER,
    )
    async def propose(request: Request, batch: ProposalBatch) -> Response:
        """Answered when every proposal is committed on a majority and applied here. Each happens once per request_id."""
        service = member.service
        return _json(await answer_proposals(service, caller_of(request.scope), batch), service)

    @router.post(
        "/reads",
        tags=["metadata"],
        summary="Linearizable reads",
        response_model=ReadResults,
        responses=_NOT_LEADER,
    )
    async def read(request: Request, batch: ReadBatch) -> Response:
        """One ReadIndex barrier serves the whole batch; all answers come from one applied index."""
        service = member.service
        return _json(await answer_reads(service, caller_of(request.scope), batch), service)

    @router.post(
        "/nodes/{node_id}/heartbeat",
        tags=["cluster"],
        summary="A storage node says that it lives",
        responses=_NOT_LEADER | {409: {"description": "The node belongs to another cluster."}},
    )
    async def heartbeat(beat: Heartbeat, node_id: Annotated[str, Path(max_length=63)]) -> HeartbeatResponse:
        """Leader only. The answer says whether the node is admitted; one that is not is logged once for the operator."""
        return await member.nodes.heard(check_member_id(node_id), beat)

    @router.post(
        "/cluster/init",
        tags=["cluster"],
        summary="Make the cluster, once",
        responses=_NOT_LEADER | {409: {"description": "Another cluster id is in force."}},
    )
    async def initialise(request: InitRequest) -> InitResponse:
        """Writes the cluster id and the first voters. Repeating it with the same id changes nothing."""
        return await member.service.initialise(request)

    @router.post(
        "/members",
        tags=["cluster"],
        summary="Add a consensus member",
        responses=_NOT_LEADER | {409: {"description": "Another change is under way, or the id was used before."}},
    )
    async def add_member(request: AddMemberRequest) -> MembersResponse:
        """It joins as a learner, gets a snapshot or the log, and votes from the moment it has caught up."""
        return await member.members.add(request)

    @router.delete(
        "/members/{member_id}",
        tags=["cluster"],
        summary="Remove a consensus member",
        responses=_NOT_LEADER
        | {404: {"description": "No such member."}, 409: {"description": "Another change is under way."}},
    )
    async def remove_member(member_id: Annotated[str, Path(max_length=63)]) -> MembersResponse:
        """For good: a disk that was replaced comes back under a new id. A leader that removes itself hands over."""
        return await member.members.remove(check_member_id(member_id))

    @router.get(
        "/backup",
        tags=["cluster"],
        summary="A consistent copy of the metadata",
        response_class=StreamingResponse,
        responses={
            200: {"content": {"application/vnd.sqlite3": {}}, "description": "The tables at one log index."},
            503: {"description": "Another backup is being made from this member."},
        },
    )
    async def backup() -> Response:
        """Of this member, at its last applied index (`X-Trivet-Log-Index`); `X-Trivet-Digest` is the BLAKE3 of the bytes."""
        backups = member.backups
        return _CopyResponse(await backups.open(), backups)

    @router.get("/status", tags=["cluster"], summary="This member about itself")
    async def status() -> MemberStatus:
        """Role, term, indexes and members as this member sees them; not linearizable."""
        return member.service.status()

    return router
