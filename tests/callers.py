"""Applications of internal services without signatures: a test says who calls."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.cluster_keys import derive_peer_keys
from shared.errors import TrivetError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.peer_calls.http_connection import PeerAnswer
from shared.roles import Role
from shared.web.route_callers import RouteCallers
from shared.web.service_app import CALLER


def as_caller(app: ASGIApp, role: Role) -> ASGIApp:
    """`app`, to which every request is one of `role`."""

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, CALLER: role}, receive, send)

    return called


def anybody(role: Role, method: str, path: str) -> None:
    """For applications whose routes are a test's own: each role may call each."""


def routes_of(router: APIRouter) -> set[tuple[str, str]]:
    """Methods and paths as `shared.web.route_callers` writes them."""
    return {
        (method, re.sub(r"{\w+}", "{}", route.path))
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }


class ClientOfEveryRole(PeerClient):
    """Signs each request as the first role that may send it, so that one client can play a whole cluster to one service."""

    def __init__(self, secret: str, callers: RouteCallers) -> None:
        super().__init__(derive_peer_keys(secret, Role.OPERATOR))
        self._callers = callers
        self._clients = {
            role: PeerClient(derive_peer_keys(secret, role)) for role in (Role.GATEWAY, Role.STORAGE, Role.CONSENSUS)
        }

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()
        await super().aclose()

    async def request(self, peer: PeerAddress, method: str, path: str, **facts: Any) -> PeerAnswer:
        client = next((client for role, client in self._clients.items() if self._may(role, method, path)), None)
        return await (super() if client is None else client).request(peer, method, path, **facts)

    def _may(self, role: Role, method: str, path: str) -> bool:
        try:
            self._callers.check(role, method, path.partition("?")[0])
        except TrivetError:
            return False
        return True
