"""Routes are decided on the raw path, so that nothing before us can be passed by writing a path in another way.

The server decodes a path before the framework looks at it: `/v1/%63luster` would be served as `/v1/cluster`, though a proxy that
guards the one has seen the other. Here an escape stands for itself, except below the prefixes where names are decoded by
whoever reads them.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class RawPaths:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, decoded_prefixes: tuple[bytes, ...]) -> None:
        self._app = app
        self._decoded_prefixes = decoded_prefixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, its path as it was sent."""
        is_escaped = scope["type"] == "http" and b"%" in scope["raw_path"]
        if is_escaped and not scope["raw_path"].startswith(self._decoded_prefixes):
            scope = {**scope, "path": scope["raw_path"].decode("latin-1")}
        await self._app(scope, receive, send)
