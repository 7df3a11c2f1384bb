"""Lets in whoever shows no credential, as far as the settings say, and nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from services.gateway.access.context import AccessContext
from services.gateway.access.control import AccessControl
from services.gateway.access.transport import Peer
from services.gateway.api.client_connection import body_of
from services.gateway.s3.errors import S3Error
from services.gateway.s3.requests import S3Request
from services.gateway.s3.rules import S3Rules

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


async def authenticate(request: S3Request, control: AccessControl, rules: S3Rules) -> AccessContext:
    """As the authentication of S3 will be.

    Raises:
        S3Error: NotImplemented, for every form of signature.
    """
    if "authorization" in request.headers or "X-Amz-Signature" in request.target:
        raise S3Error("NotImplemented", "Signatures cannot be verified yet.")
    client = request.scope.get("client")
    address = "" if client is None else client[0]
    is_forwarded = any(name in request.headers for name in _FORWARDED)
    context = AccessContext(rules.transport.anonymous_from(Peer(address, is_forwarded=is_forwarded)), address)
    control.enter(context)
    context.require_anybody()
    length = request.headers.get("content-length")
    request.body = PlainBody(request, None if length is None else int(length))
    return context


class PlainBody:
    """A body without any framing of S3's."""

    sha256 = None
    announced_trailer = None
    trailers: Mapping[str, str] = {}

    def __init__(self, request: S3Request, size_bytes: int | None) -> None:
        has_body = size_bytes is not None or "transfer-encoding" in request.headers
        self.size_bytes = size_bytes if has_body else 0
        self._request = request

    def __aiter__(self) -> AsyncIterator[bytes]:
        """As `S3Body`."""
        return body_of(self._request.receive)

    async def read(self, limit_bytes: int) -> bytes:
        """As `S3Body`."""
        body = bytearray()
        async for piece in self:
            body += piece
            if len(body) > limit_bytes:
                raise S3Error("EntityTooLarge", "The body is too large.")
        return bytes(body)
