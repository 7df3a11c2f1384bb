"""Routes for operators: what each needs before it does anything."""

from __future__ import annotations

from typing import Final

import structlog
from fastapi import Request
from fastapi.params import Depends

from services.gateway.api.requests import refuse_query
from services.gateway.api.services import RunningGateway
from shared.errors import TrivetError

logger = structlog.get_logger(__name__)


def admin_token_of(gateway: RunningGateway) -> Depends:
    """For a whole router: a request without the admin token raises what `AdminToken.require` raises.

    Every refusal is logged: somebody guesses, or has an old token. Where there are keys the door has asked for one with
    cluster-admin, and no token opens anything.
    """

    async def require(request: Request) -> None:
        if gateway.services.access is not None:
            return
        try:
            gateway.services.admin_token.require(request.headers.get("authorization"))
        except TrivetError as error:
            client = None if request.client is None else request.client.host
            logger.warning(
                "a cluster change was refused",
                client=client,
                method=request.method,
                path=request.url.path,
                code=error.code,
            )
            raise

    return Depends(require)


async def _refuse_query(request: Request) -> None:
    refuse_query(request.scope)


NO_QUERY: Final[Depends] = Depends(_refuse_query)
"""For a route: a query is refused, after what its router requires."""
