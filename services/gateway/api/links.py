"""Signed links, made for clients that cannot or will not make them themselves (`shared.links`). Nothing is stored."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from services.gateway.access.context import current_access
from services.gateway.access.links import Now
from services.gateway.access.policy import decide
from services.gateway.api.identity_models import LinkMade, LinkRequest
from services.gateway.api.problems import problems
from services.gateway.api.requests import described_body, json_body, refuse_query
from services.gateway.api.services import RunningGateway
from shared.access_keys import PlainKey
from shared.contracts.access import Action
from shared.contracts.time import rfc3339
from shared.errors import ForbiddenError
from shared.links import make_link
from shared.units import NANOSECONDS_PER_SECOND

_ACTIONS: Final = {"GET": Action.READ, "PUT": Action.WRITE, "DELETE": Action.DELETE}


def create_router(gateway: RunningGateway) -> APIRouter:
    """The routes over one gateway."""
    router = APIRouter(prefix="/v1", tags=["links"])

    @router.post(
        "/links",
        summary="Make a signed link",
        status_code=201,
        responses=problems(400, 401, 403, 413, 503, about="links"),
        openapi_extra=described_body(LinkRequest),
    )
    async def post_link(request: Request, response: Response) -> LinkMade:
        """Whoever has the link may make one request without a credential: by this method, on this file, until it expires.

        It is signed with the key that this request shows: it may do what that key's identity may do then, and ends with the
        key. Clients can make links without asking.
        """
        refuse_query(request.scope)
        asked = await json_body(request, LinkRequest)
        key = _shown_key(request)
        decide(current_access().principal, _ACTIONS[asked.method], asked.bucket, asked.key, version=asked.version)
        # Not a moment longer than asked for, and not shorter than the whole second that a link can say.
        expires_s = Now.of(gateway.services.clock).earliest_ns // NANOSECONDS_PER_SECOND + asked.expires_in_s
        path = make_link(
            key.id,
            key.secret,
            method=asked.method,
            bucket=asked.bucket,
            key=asked.key,
            expires_s=expires_s,
            query={} if asked.version is None else {"version": str(asked.version)},
            headers=asked.headers,
        )
        response.headers["Cache-Control"] = "no-store"
        return LinkMade(path=path, expires=rfc3339(expires_s * NANOSECONDS_PER_SECOND))

    return router


def _shown_key(request: Request) -> PlainKey:
    """The key by which the request was let in: only whoever shows it has its secret, so nothing is unsealed."""
    principal = current_access().principal
    if principal.key is None:
        raise ForbiddenError("A link is signed with a key: make this request with one.")
    key = PlainKey.parse(request.headers["authorization"].strip().partition(" ")[2])
    assert key.id == principal.key, "the door lets a request in for the key that it shows"
    return key
