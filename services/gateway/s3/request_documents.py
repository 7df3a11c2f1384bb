"""XML in the bodies of requests."""

from __future__ import annotations

import binascii
import hashlib
from base64 import b64decode
from typing import Final, Literal, overload

from services.gateway.s3.errors import S3Error
from services.gateway.s3.requests import S3Request
from services.gateway.s3.xml_documents import LIMIT_BYTES, Element, malformed, parse

_MD5_BYTES: Final = 16


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
    """All of the body, compared with Content-MD5.

    Raises:
        S3Error: InvalidDigest, BadDigest; MalformedXML where it is longer; as `S3Body.read`.
    """
    announced = _announced_md5(request)
    body = b""
    if request.body is not None and request.body.size_bytes != 0:
        try:
            body = await request.body.read(limit_bytes)
        except S3Error as error:
            if error.code == "EntityTooLarge":
                raise malformed() from error
            raise
    if announced is not None and hashlib.md5(body, usedforsecurity=False).digest() != announced:
        raise S3Error("BadDigest", "The Content-MD5 you specified did not match what we received.")
    return body


def _announced_md5(request: S3Request) -> bytes | None:
    if (value := request.headers.get("content-md5")) is None:
        return None
    try:
        digest = b64decode(value, validate=True)
    except binascii.Error as error:
        raise _invalid_digest() from error
    if len(digest) != _MD5_BYTES:
        raise _invalid_digest()
    return digest


def _invalid_digest() -> S3Error:
    return S3Error("InvalidDigest", "The Content-MD5 you specified was invalid.")
