"""Answers on S3's port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.gateway.s3.requests import S3Request

_BODILESS: Final = frozenset({204, 304})


async def send(request: S3Request, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
    """A whole answer at once; `headers` by lower-case names, beside those that every answer to `request` has.

    An answer to HEAD says how long its body would be by `content-length` among them, and has none.
    """
    raw, is_head = start_headers(request, headers), request.scope["method"] == "HEAD"
    if not is_head and status not in _BODILESS and "content-length" not in headers:
        raw.append((b"content-length", b"%d" % len(body)))
    await request.send({"type": "http.response.start", "status": status, "headers": raw})
    await request.send({"type": "http.response.body", "body": b"" if is_head else body})


async def send_xml(
    request: S3Request, document: bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> None:
    """A document."""
    await send(request, status, {"content-type": "application/xml", **(headers or {})}, document)


async def send_empty(request: S3Request, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
    """No body."""
    await send(request, status, headers or {})


def start_headers(request: S3Request, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer as ASGI has them, those included that every answer to `request` carries."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.answer_headers.items()]
    raw.extend((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items())
    return raw
