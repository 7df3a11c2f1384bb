"""Memory admission of queries about many chunks: inventory, comparison, `has`.

As parsed objects they take several times what crosses the wire, so they take their share of the byte budget before FastAPI
reads them.
"""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from services.storage.chunk_store import ChunkStore
from shared.errors import TrivetError
from shared.units import KIB, MIB
from shared.web.service_app import problem_response

_PREFIXES: Final = ("/v1/chunks", "/v1/partitions")
_ANSWER_BYTES: Final = 512 * KIB
"""A page of the inventory, as objects and as text."""
_BYTES_PER_BODY_BYTE: Final = 8


class QueryAdmission:
    """ASGI middleware. A query for which there is no room is refused with a problem document; definite."""

    def __init__(self, app: ASGIApp, *, store: ChunkStore) -> None:
        self._app = app
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, within the budget if it is a query."""
        is_query = scope["type"] == "http" and scope["method"] in {"GET", "POST"}
        if not is_query or not scope["path"].startswith(_PREFIXES):
            await self._app(scope, receive, send)
            return
        try:
            lease = await self._store.lease(admission_bytes(scope))
        except TrivetError as error:
            await problem_response(error, scope["path"])(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            lease.release()


def admission_bytes(scope: Scope) -> int:
    """What a query takes."""
    return _ANSWER_BYTES + _BYTES_PER_BODY_BYTE * _body_bytes(scope)


def _body_bytes(scope: Scope) -> int:
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    if length.isdigit():
        return int(length)
    return MIB if scope["method"] == "POST" else 0
