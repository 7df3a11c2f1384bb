"""XML in the bodies of requests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, Literal, overload

from services.gateway.api.requests import client_of
from services.gateway.s3.body_hashing import BodyHashes, announced_md5
from services.gateway.s3.checksums import announced
from services.gateway.s3.errors import S3Error
from services.gateway.s3.requests import S3Request
from services.gateway.s3.xml_documents import LIMIT_BYTES, Element, malformed, parse
from services.gateway.transfers.admission import Transfer

_BUDGET_WAIT_S: Final = 1.0


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


async def read_body(
    request: S3Request,
    limit_bytes: int = LIMIT_BYTES,
    transfer: Transfer | None = None,
    *,
    is_checksum_of_body: bool = True,
) -> bytes:
    """All of the body, also one that is empty, compared with Content-MD5 and the checksum that is announced, if they are.

    Args:
        transfer: see `S3Body.read`.
        is_checksum_of_body: the headers of checksums are about the body.

    Raises:
        S3Error: InvalidDigest, BadDigest; MalformedXML where it is longer; as `S3Body.read`.
    """
    if request.body is None:
        return b""
    hashes = BodyHashes(
        request.body,
        md5=announced_md5(request.headers),
        checksum=announced(request.headers, request.body.announced_trailer) if is_checksum_of_body else None,
        default=None,
    )
    try:
        body = await request.body.read(limit_bytes, transfer)
    except S3Error as error:
        if error.code == "EntityTooLarge":
            raise malformed() from error
        raise
    if hashes.is_announced:
        hashes.update(body)
        await hashes.catch_up()
        hashes.check()
    return body


@asynccontextmanager
async def room_for_body(request: S3Request, limit_bytes: int) -> AsyncGenerator[Transfer, None]:
    """A slot and the bytes of a body that may be long, as for a file: many of them at once would be gigabytes.

    Raises:
        OverloadedError: there is no room for it, or its client was too slow while others waited; definite.
        TooManyRequestsError: as `Admission.transfer`.
    """
    size_bytes = 0 if request.body is None else request.body.size_bytes
    async with request.services.admission.transfer(client_of(request.scope), is_large_upload=True) as transfer:
        if size_bytes is not None:
            transfer.size_known(size_bytes)
        with transfer.lease() as lease:
            held_bytes = limit_bytes if size_bytes is None else min(size_bytes, limit_bytes)
            await transfer.grow(lease, held_bytes, wait_s=_BUDGET_WAIT_S)
            yield transfer
