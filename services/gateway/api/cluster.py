"""The cluster, its storage nodes and its time."""

from __future__ import annotations

from typing import Any, Final

import structlog
from fastapi import APIRouter, Request, Response

from services.gateway.admin_token import AdminToken
from services.gateway.api.models import ClusterInfo, NodeAdmission, NodeAdmitted, NodeDraining, TimeNow
from services.gateway.api.problems import problems
from services.gateway.api.requests import json_body, refuse_query
from services.gateway.api.services import RunningGateway
from services.gateway.semantics.raw_names import query_values
from shared.contracts.cluster import NodeState
from shared.errors import InvalidRequestError, TrivetError

logger = structlog.get_logger(__name__)


def create_router(gateway: RunningGateway) -> APIRouter:
    """The routes over one gateway."""
    router = APIRouter(prefix="/v1", tags=["cluster"])

    @router.get("/cluster", summary="Describe the cluster", responses=problems(400, 503, about="cluster"))
    async def get_cluster(request: Request) -> ClusterInfo:
        """Members, leader and storage nodes at one log index. `under_replicated_chunks` is null: not measured yet."""
        refuse_query(request.scope)
        return ClusterInfo.of(*await gateway.services.admin.cluster())

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
        openapi_extra=_ADMISSION_BODY | _ADMIN,
    )
    async def admit_node(request: Request, response: Response) -> NodeAdmitted:
        """By id; the node dials in by itself. Needs the admin token."""
        services = gateway.services
        _require_admin(services.admin_token, request)
        refuse_query(request.scope)
        admission = await json_body(request, NodeAdmission)
        created = await services.admin.admit(admission.id)
        response.status_code = 201 if created else 200
        return NodeAdmitted(id=admission.id, created=created)

    @router.delete(
        "/cluster/nodes/{node_id}",
        summary="Drain and remove a storage node",
        status_code=202,
        response_model=NodeDraining,
        responses={204: {"description": "Removed."}, **problems(400, 401, 403, 404, 503, about="cluster")},
        openapi_extra=_REMOVAL | _ADMIN,
    )
    async def remove_node(request: Request, node_id: str) -> Response | NodeDraining:
        """The first call drains; once the node is empty, a call removes it. Repeat until 204. Needs the admin token."""
        services = gateway.services
        _require_admin(services.admin_token, request)
        lost = query_values(request.scope["query_string"], frozenset({"lost"})).get("lost", "false")
        if lost not in {"true", "false"}:
            raise InvalidRequestError("lost is true or false.", parameter="lost")
        progress = await services.admin.remove(node_id, is_lost=lost == "true")
        if progress.is_removed:
            return Response(status_code=204)
        return NodeDraining(id=node_id, state=NodeState.DRAINING, chunks_left=progress.chunks_left)

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


def _require_admin(token: AdminToken, request: Request) -> None:
    """Raise what `AdminToken.require` raises. Every refusal is logged: somebody guesses, or has an old token."""
    try:
        token.require(request.headers.get("authorization"))
    except TrivetError as error:
        client = None if request.client is None else request.client.host
        logger.warning(
            "a cluster change was refused", client=client, method=request.method, path=request.url.path, code=error.code
        )
        raise


_ADMIN: Final[dict[str, Any]] = {"security": [{"AdminToken": []}]}
ADMIN_SCHEME: Final[dict[str, Any]] = {"AdminToken": {"type": "http", "scheme": "bearer"}}

_ADMISSION_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": NodeAdmission.model_json_schema()}},
    }
}
_REMOVAL: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "lost",
            "in": "query",
            "description": "The node will never come back: remove it at once and heal its chunks from the others.",
            "schema": {"type": "boolean", "default": False},
        }
    ]
}
