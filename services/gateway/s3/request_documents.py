"""XML in the bodies of requests."""

from __future__ import annotations

from typing import Literal, overload

from services.gateway.s3.body_hashing import BodyHashes
from services.gateway.s3.errors import S3Error
from services.gateway.s3.requests import S3Request
from services.gateway.s3.xml_documents import LIMIT_BYTES, Element, malformed, parse


@overload
async def read_document(request: S3Request, root: str, *, limit_bytes: int = ...) -> Element: ...
@overload
async def read_document(
    request: S3Request, root: str, *, limit_bytes: int = ..., is_optional: Literal[True]
) -> Element | None: ...
async def read_document(
    request: S3Request, root: str, *, limit_bytes: int = LIMIT_BYTES, is_optional: bool = False
) -> Element | None:
    """The root of the document that is the body.

    Args:
        root: how it is called.
        is_optional: no body at all is None.

    Raises:
        S3Error: MalformedXML, or as `S3Body.read`.
    """
    body = await read_body(request, limit_bytes)
    if not body and is_optional:
        return None
    return parse(body, root, limit_bytes=limit_bytes)


async def read_body(request: S3Request, limit_bytes: int = LIMIT_BYTES) -> bytes:
    """All of the body, compared with Content-MD5 and with the checksum that is announced, if they are.

    Raises:
        S3Error: InvalidDigest, BadDigest; MalformedXML where it is longer; as `S3Body.read`.
    """
    if request.body is None:
        return b""
    hashes, body = BodyHashes.of(request.headers, request.body, default=None), b""
    if request.body.size_bytes != 0:
        try:
            body = await request.body.read(limit_bytes)
        except S3Error as error:
            if error.code == "EntityTooLarge":
                raise malformed() from error
            raise
    if hashes.is_announced:
        hashes.update(body)
        await hashes.catch_up()
        hashes.check()
    return body
