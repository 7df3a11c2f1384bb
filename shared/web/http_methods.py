"""Which methods a path takes: HEAD wherever there is GET, and an Allow header that is true (RFC 9110 sections 9.1 and 10.2.1).

The framework knows HEAD only where a route declares it, and names in Allow only the first route of a path.
"""

from __future__ import annotations

from typing import Final

from starlette.applications import Starlette
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

_METHODS: Final = ("DELETE", "GET", "HEAD", "POST", "PUT")


class HeadAsGet:
    """ASGI middleware: a HEAD that no route takes is answered by the GET of its path; the server leaves the body out."""

    def __init__(self, app: ASGIApp, routes: Starlette) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, perhaps under another method."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            declared = _declared_methods(self._routes, scope)
            if "GET" in declared and "HEAD" not in declared:
                scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


def allowed_methods(app: Starlette, scope: Scope) -> list[str]:
    """What the path of `scope` may be asked with; nothing where it is only mounted, and the mounted one has to say."""
    declared = _declared_methods(app, scope)
    return sorted(declared | {"HEAD"} if "GET" in declared else declared)


def _declared_methods(app: Starlette, scope: Scope) -> set[str]:
    bare = {name: scope[name] for name in ("type", "path", "raw_path", "root_path") if name in scope}
    routes = [route for route in app.router.routes if not isinstance(route, Mount)]
    return {
        method
        for method in _METHODS
        if any(route.matches({**bare, "method": method, "headers": []})[0] is Match.FULL for route in routes)
    }
