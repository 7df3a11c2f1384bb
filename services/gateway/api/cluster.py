"""The cluster, its storage nodes and its time."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from services.gateway.api.models import (
    ClusterInfo,
    ClusterVerification,
    NodeAdmission,
    NodeAdmitted,
    NodeDraining,
    NodeRemoved,
    TimeNow,
)
from services.gateway.api.problems import problems
from services.gateway.api.requests import NO_QUERY, described_body, json_body, refuse_query
from services.gateway.api.services import RunningGateway
from services.gateway.semantics.parameters import QueryParameters, described, flag
from shared.contracts.cluster import NodeState

_LOST: Final = flag(
    "lost",
    "The node will never come back: remove it at once and restore its chunks from the others. Refused while it is heard of, "
    "and while no other node is live.",
)
_REMOVAL_QUERY: Final = QueryParameters(_LOST)


def create_router(gateway: RunningGateway) -> APIRouter:
    """The routes over one gateway."""
    router = APIRouter(prefix="/v1", tags=["cluster"])

    @router.get("/cluster", summary="Describe the cluster", responses=problems(400, 503, about="cluster"))
    async def get_cluster(request: Request) -> ClusterInfo:
        """Members, leader and storage nodes at one log index, and what the nodes said last of what they still lack.

        `degraded` also names nodes that count as live and do not serve the gateway that answers.
        """
        refuse_query(request.scope)
        admin = gateway.services.admin
        answer, context = await admin.cluster()
        return ClusterInfo.of(answer, context, await admin.summary(answer))

    return router


def create_admin_router(gateway: RunningGateway) -> APIRouter:
    """Cluster changes over one gateway; for its operations listener only."""
    router = APIRouter(prefix="/v1", tags=["cluster"])

    @router.post(
        "/cluster/nodes",
        summary="Admit a storage node",
        status_code=201,
        response_model=NodeAdmitted,
        responses={
            200: {"model": NodeAdmitted, "description": "It had been admitted before."},
            **problems(400, 401, 403, 413, 503, about="cluster"),
        },
        dependencies=[NO_QUERY],
        openapi_extra=described_body(NodeAdmission),
    )
    async def admit_node(request: Request, response: Response) -> NodeAdmitted:
        """By id; the node dials in by itself. Needs `cluster-admin`."""
        admission = await json_body(request, NodeAdmission)
        created = await gateway.services.admin.admit(admission.id)
        response.status_code = 201 if created else 200
        return NodeAdmitted(id=admission.id, created=created)

    @router.delete(
        "/cluster/nodes/{node_id}",
        summary="Drain and remove a storage node",
        status_code=202,
        # Two kinds of answers, by status.
        response_model=None,
        responses={
            202: {"model": NodeDraining, "description": "It drains."},
            200: {"model": NodeRemoved, "description": "Removed: it is lost, or it never dialled in."},
            **problems(400, 401, 403, 404, 409, 503, about="nodes"),
        },
        openapi_extra=described(_REMOVAL_QUERY),
    )
    async def remove_node(request: Request, response: Response, node_id: str) -> NodeRemoved | NodeDraining:
        """Drains it: the others take over its chunks, then it leaves the cluster by itself, and a call is 404.

        Repeating the call says how far it is. Refused when fewer nodes would be left than a chunk has replicas, and while
        another node drains. Needs `cluster-admin`.
        """
        is_lost = _LOST.of(_REMOVAL_QUERY.values(request.scope["query_string"]))
        admin = gateway.services.admin
        removal = await (admin.remove_lost(node_id) if is_lost else admin.drain(node_id))
        if removal.draining_since is None:
            response.status_code = 200
            return NodeRemoved(id=node_id, chunks_at_risk=removal.chunks_at_risk)
        return NodeDraining(
            id=node_id,
            state=NodeState.DRAINING,
            draining_since=removal.draining_since,
            chunks_left=removal.chunks_left,
        )

    @router.post(
        "/cluster/nodes/{node_id}/replace",
        summary="Replace a lost storage node by another one",
        responses=problems(400, 401, 403, 404, 409, 413, 503, about="nodes"),
        dependencies=[NO_QUERY],
        openapi_extra=described_body(NodeAdmission),
    )
    async def replace_node(request: Request, node_id: str) -> NodeRemoved:
        """Admits the node of the body, which dials in by itself, and removes the one of the path, which never comes back.

        Its chunks are restored from the others. Refused while it is heard of, and while no other node is live. Needs
        `cluster-admin`.
        """
        by = await json_body(request, NodeAdmission)
        removal = await gateway.services.admin.replace(node_id, by.id)
        return NodeRemoved(id=node_id, chunks_at_risk=removal.chunks_at_risk)

    @router.delete(
        "/cluster/nodes/{node_id}/drain",
        summary="Cancel the drain of a storage node",
        status_code=204,
        responses=problems(400, 401, 403, 404, 409, 503, about="nodes"),
        dependencies=[NO_QUERY],
    )
    async def cancel_drain(node_id: str) -> Response:
        """It is written to again, and gets back what it has given away. Needs `cluster-admin`."""
        await gateway.services.admin.cancel_drain(node_id)
        return Response(status_code=204)

    @router.post(
        "/cluster/verify",
        summary="Verify every chunk on every storage node",
        status_code=202,
        responses=problems(400, 401, 403, 409, 503, about="verify"),
        dependencies=[NO_QUERY],
    )
    async def start_verify() -> ClusterVerification:
        """Every node reads all it holds, past every cache, and compares it with the log; what is bad or missing is restored.

        Rate-limited, and goes on after a restart. A node that is away is named and not verified. Needs `cluster-admin`.
        """
        return ClusterVerification.of(await gateway.services.verify.start())

    @router.get(
        "/cluster/verify",
        summary="How far verify is, or what it found last",
        responses=problems(400, 401, 403, 503, about="verify"),
        dependencies=[NO_QUERY],
    )
    async def get_verify() -> ClusterVerification:
        """Of the pass under way, else of the last one. Needs `cluster-admin`."""
        return ClusterVerification.of(await gateway.services.verify.report())

    @router.delete(
        "/cluster/verify",
        summary="Cancel verify",
        responses=problems(400, 401, 403, 503, about="verify"),
        dependencies=[NO_QUERY],
    )
    async def cancel_verify() -> ClusterVerification:
        """Keeps what was found so far. Without a pass under way nothing happens. Needs `cluster-admin`."""
        return ClusterVerification.of(await gateway.services.verify.cancel())

    return router


def create_time_router(gateway: RunningGateway) -> APIRouter:
    """What the time is, by itself in the description."""
    router = APIRouter(prefix="/v1", tags=["time"])

    @router.get("/time", summary="What time it is, and how surely", responses=problems(400, 503, about="cluster"))
    async def get_time(request: Request) -> TimeNow:
        """Timestamps describe; the log's order decides."""
        refuse_query(request.scope)
        return TimeNow.of(gateway.services.clock.stamp())

    return router
