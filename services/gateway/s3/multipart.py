"""Uploads by parts: create, put a part, complete, abort.

The log joins the parts; what S3 wants to know beside that is made here of what each part had when it was put: the ETag of the
MD5s of all parts, and a checksum combined or composed of theirs, so that no byte is read again (S3 documentation, "Checking
object integrity"). A completion that is repeated gets the first answer again, from the log.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Final
from urllib.parse import quote

from services.gateway.api.requests import client_of
from services.gateway.s3.answers import send_empty, send_xml
from services.gateway.s3.body_hashing import BodyHashes
from services.gateway.s3.checksums import (
    ALGORITHMS,
    DEFAULT,
    HEADER_PREFIX,
    algorithm,
    checksum_headers,
    combined,
    composite,
    is_combinable,
)
from services.gateway.s3.conditions import plain_etag, write_conditions
from services.gateway.s3.decisions import require_sight
from services.gateway.s3.errors import S3Error
from services.gateway.s3.lists import checksum_elements
from services.gateway.s3.object_headers import described, s3_etag_of
from services.gateway.s3.object_versions import name_of, shown_id
from services.gateway.s3.objects import body_of, condition_failed
from services.gateway.s3.request_documents import read_body, room_for_body
from services.gateway.s3.requests import S3Request
from services.gateway.s3.retries import retry_key
from services.gateway.s3.upload_ids import open_upload_id, seal_upload_id
from services.gateway.s3.xml_documents import Element, document, element, malformed, parse, texts_of
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.admission import Transfer
from services.gateway.transfers.multipart import PartRequest, UploadBegin
from services.gateway.transfers.part_publication import UploadId
from shared.contracts.s3 import Checksum, ChecksumType, S3Attributes, S3UploadAttributes, shown_part_etag
from shared.contracts.uploads import PART_NUMBER_MAX, PARTS_LIMIT_MAX, Upload, UploadPart
from shared.errors import PreconditionFailedError, UploadNotFoundError
from shared.units import MIB

COMPLETION_BYTES_MAX: Final = 4 * MIB
"""Of a document that names as many parts as there may be, each with a checksum."""

COMPLETION_ELEMENTS_MAX: Final = 1 + 5 * PART_NUMBER_MAX

_CHECKSUM_ELEMENTS: Final[Mapping[str, Checksum]] = {f"Checksum{name.upper()}": name for name in ALGORITHMS}


def upload_of(request: S3Request) -> UploadId:
    """Which upload the query names. Raises S3Error, NoSuchUpload."""
    text = request.target.value("uploadId") or ""
    return open_upload_id(request.services.cursors, request.bucket, request.key, text)


def part_number(request: S3Request) -> int:
    """Which part the query names. Raises S3Error, InvalidArgument."""
    text = request.target.value("partNumber") or ""
    if not _is_part_number(text):
        raise S3Error(
            "InvalidArgument",
            f"Part number must be an integer between 1 and {PART_NUMBER_MAX}, inclusive",
            ArgumentName="partNumber",
            ArgumentValue=text[:256],
        )
    return int(text)


def _is_part_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= PART_NUMBER_MAX


# --- create, put, abort ---------------------------------------------------------------------------------------------


async def create_multipart_upload(request: S3Request) -> None:
    """CreateMultipartUpload: it is under way until it is completed or aborted."""
    asked = described(request.headers)
    checksum, checksum_type = _checksum_of(request.headers)
    begin = UploadBegin(
        name=FileName(request.bucket, request.key),
        content_type=asked.content_type,
        user_metadata=asked.user_metadata,
        tags=asked.tags or {},
        lifetime_s=None,
        s3=S3UploadAttributes(
            checksum=checksum, checksum_type=checksum_type, headers=asked.headers, storage_class=asked.storage_class
        ),
    )
    content = [begin.content_type, begin.user_metadata, begin.tags, asked.headers, asked.storage_class, checksum]
    upload = await request.services.multipart.begin(begin, retry_key(request, content))
    headers = {}
    if checksum is not None:
        headers = {"x-amz-checksum-algorithm": checksum.upper(), "x-amz-checksum-type": checksum_type}
    children = [
        element("Bucket", request.bucket),
        element("Key", request.key),
        element("UploadId", seal_upload_id(request.services.cursors, request.bucket, request.key, upload)),
    ]
    await send_xml(request, document("InitiateMultipartUploadResult", children), 200, headers)


def _checksum_of(headers: Mapping[str, str]) -> tuple[Checksum | None, ChecksumType]:
    """Which checksum the parts are to have, and what is made of them. Raises S3Error, InvalidRequest."""
    named, kind = headers.get("x-amz-checksum-algorithm"), headers.get("x-amz-checksum-type")
    if kind not in {None, "FULL_OBJECT", "COMPOSITE"}:
        raise S3Error("InvalidRequest", "Value for x-amz-checksum-type header is invalid.")
    if named is None:
        if kind is not None:
            raise S3Error(
                "InvalidRequest",
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
            )
        return None, "FULL_OBJECT"
    name = algorithm(named)
    if kind is None:
        kind = "FULL_OBJECT" if name == DEFAULT else "COMPOSITE"
    if (kind == "FULL_OBJECT" and not is_combinable(name)) or (kind == "COMPOSITE" and name == DEFAULT):
        raise S3Error("InvalidRequest", f"The {kind} checksum type cannot be used with the {name} checksum algorithm.")
    return name, "COMPOSITE" if kind == "COMPOSITE" else "FULL_OBJECT"


async def upload_part(request: S3Request) -> None:
    """UploadPart: stored as an object is; of several under one number the last one counts."""
    services, body = request.services, body_of(request)
    upload, number = upload_of(request), part_number(request)
    hashes = BodyHashes.of(request.headers, body)
    part = PartRequest(
        upload=upload,
        number=number,
        quorums=services.quorums,
        digests=hashes,
        announced_bytes=body.size_bytes,
        client=client_of(request.scope),
        s3=hashes.attributes,
    )
    stored = await services.multipart.put(part, body)
    s3_etag = None if stored.s3 is None else stored.s3.etag
    headers = {"etag": f'"{shown_part_etag(stored.etag, s3_etag)}"', **checksum_headers(stored.s3)}
    headers.pop("x-amz-checksum-type", None)
    await send_empty(request, 200, headers)


async def abort_multipart_upload(request: S3Request) -> None:
    """AbortMultipartUpload: its parts are gone."""
    upload = upload_of(request)
    await request.services.multipart.abort(upload, retry_key(request, str(upload)))
    await send_empty(request, 204)


_PAGES_AHEAD: Final = 2
"""Pages of parts that are read at a time: one is understood here while the leader makes the next."""

_ETAG_MAX: Final = 128
"""Characters; those of a part are 32 or 64."""

# --- complete -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _AskedPart:
    """Of the document. `checksums`: as it names them."""

    number: int
    etag: str
    checksums: Mapping[Checksum, str]


async def complete_multipart_upload(request: S3Request) -> None:
    """CompleteMultipartUpload: the parts are the object's current version from the entry on."""
    services, upload = request.services, upload_of(request)
    preconditions = write_conditions(request.headers)
    await require_sight(request, name_of(request), preconditions)
    # The room lasts until the log has answered: what was stored of the parts is as large as the document.
    async with room_for_body(request, COMPLETION_BYTES_MAX) as transfer:
        asked = _asked_parts(await _document(request, transfer))
        s3 = await _attributes(request, upload, asked)
        parts = [(part.number, part.etag) for part in asked]
        try:
            version = (await services.multipart.complete(upload, parts, preconditions, None, s3=s3)).version
        except PreconditionFailedError as error:
            raise condition_failed(error, request.key) from error
    services.downloads.published(version)
    children = [
        element("Location", _location(request)),
        element("Bucket", request.bucket),
        element("Key", request.key),
        element("ETag", f'"{s3_etag_of(version)}"'),
    ]
    if version.s3 is not None and version.s3.checksums:
        children += [*checksum_elements(version.s3.checksums), element("ChecksumType", version.s3.checksum_type)]
    version_id = shown_id(request, version)
    headers = {} if version_id is None else {"x-amz-version-id": version_id}
    await send_xml(request, document("CompleteMultipartUploadResult", children), 200, headers)


async def _document(request: S3Request, transfer: Transfer) -> Element:
    """What the client sent. The headers of checksums are about the object, and not about the document.

    Raises:
        S3Error: MalformedXML, or as `read_body`.
    """
    data = await read_body(request, COMPLETION_BYTES_MAX, transfer, is_checksum_of_body=False)
    return parse(
        data, "CompleteMultipartUpload", limit_bytes=COMPLETION_BYTES_MAX, limit_elements=COMPLETION_ELEMENTS_MAX
    )


def _location(request: S3Request) -> str:
    host = request.headers.get("host", "")
    return f"{request.scope['scheme']}://{host}/{request.bucket}/{quote(request.key, safe='/')}"


def _asked_parts(root: Element) -> list[_AskedPart]:
    """Raises S3Error: MalformedXML, InvalidPartOrder."""
    parts = [_asked_part(each) for each in root]
    if not 1 <= len(parts) <= PART_NUMBER_MAX:
        raise malformed()
    for before, part in pairwise(parts):
        if part.number <= before.number:
            raise S3Error(
                "InvalidPartOrder",
                "The list of parts was not in ascending order. The parts list must be specified in order by part number.",
            )
    return parts


def _asked_part(part: Element) -> _AskedPart:
    values = {name: text.strip() for name, text in texts_of(part).items()}
    number, sent = values.get("PartNumber", ""), values.get("ETag", "")
    if part.tag != "Part" or not _is_part_number(number) or not sent:
        raise malformed()
    etag = plain_etag(sent)
    if not 1 <= len(etag) <= _ETAG_MAX:
        raise S3Error("InvalidPart", "One or more of the specified parts could not be found.", PartNumber=number)
    checksums = {_CHECKSUM_ELEMENTS[name]: text for name, text in values.items() if name in _CHECKSUM_ELEMENTS}
    return _AskedPart(int(number), etag, checksums)


async def _attributes(request: S3Request, upload_id: UploadId, asked: Sequence[_AskedPart]) -> S3Attributes | None:
    """What S3 shows of the version; None where the upload is not under way, and the log may know the answer already.

    Raises:
        S3Error: InvalidPart, InvalidRequest, BadDigest.
    """
    try:
        upload, stored = await _stored_parts(request, upload_id, [part.number for part in asked])
    except UploadNotFoundError:
        return None
    parts = [_named(part, stored) for part in asked]
    _check_size(request, sum(part.size_bytes for part in parts))
    described_by = upload.s3 or S3UploadAttributes()
    checksums, checksum_type = _checksums(parts, described_by)
    _check_checksums(request, checksums, described_by)
    etags = b"".join(bytes.fromhex(shown_part_etag(part.etag, part.s3_etag)) for part in parts)
    return S3Attributes(
        etag=f"{hashlib.md5(etags, usedforsecurity=False).hexdigest()}-{len(parts)}",
        checksums=checksums,
        checksum_type=checksum_type,
        headers=described_by.headers,
        storage_class=described_by.storage_class,
        part_sizes=[(size, len(list(run))) for size, run in groupby(part.size_bytes for part in parts)],
    )


async def _stored_parts(
    request: S3Request, upload_id: UploadId, numbers: Sequence[int]
) -> tuple[Upload, dict[int, UploadPart]]:
    """Those of `numbers`, which are ascending and not none: of the other rows no more than `_PAGES_AHEAD` pages are held."""
    turns = asyncio.Semaphore(_PAGES_AHEAD)

    async def between(first: int, last: int) -> tuple[Upload, list[UploadPart]]:
        parts: list[UploadPart] = []
        after = first - 1
        while True:
            async with turns:
                upload, answer = await request.services.multipart.page(
                    upload_id, after_part=after, limit=min(PARTS_LIMIT_MAX, last - after)
                )
            parts += [part for part in answer.parts if part.number in wanted]
            if not answer.has_more or answer.parts[-1].number >= last:
                return upload, parts
            after = answer.parts[-1].number

    wanted = set(numbers)
    runs = [numbers[at : at + PARTS_LIMIT_MAX] for at in range(0, len(numbers), PARTS_LIMIT_MAX)]
    pages = await asyncio.gather(*[between(run[0], run[-1]) for run in runs])
    return pages[0][0], {part.number: part for _, parts in pages for part in parts}


def _named(asked: _AskedPart, stored: Mapping[int, UploadPart]) -> UploadPart:
    """The part that is asked for, which is the one that the client means. Raises S3Error, InvalidPart."""
    part = stored.get(asked.number)
    if (
        part is None
        or asked.etag not in {part.etag, shown_part_etag(part.etag, part.s3_etag)}
        or any(part.checksums.get(name) != value for name, value in asked.checksums.items())
    ):
        raise S3Error(
            "InvalidPart",
            "One or more of the specified parts could not be found. The part may not have been uploaded, or the "
            "specified entity tag may not match the part's entity tag.",
            PartNumber=str(asked.number),
            ETag=asked.etag[:128],
        )
    return part


def _check_size(request: S3Request, size_bytes: int) -> None:
    announced = request.headers.get("x-amz-mp-object-size")
    if announced is not None and announced.strip() != str(size_bytes):
        raise S3Error("InvalidRequest", "The provided 'x-amz-mp-object-size' header does not match what was computed.")


def _checksums(parts: Sequence[UploadPart], upload: S3UploadAttributes) -> tuple[dict[Checksum, str], ChecksumType]:
    """Of the whole, made of those of the parts; none where a part has none, for none of its bytes is read again."""
    for name in (upload.checksum, DEFAULT):
        found = [(part.checksums[name], part.size_bytes) for part in parts if name in part.checksums]
        if name is None or len(found) < len(parts):
            continue
        if name == upload.checksum and upload.checksum_type == "COMPOSITE":
            return {name: composite(name, [value for value, _ in found])}, "COMPOSITE"
        return {name: combined(name, found)}, "FULL_OBJECT"
    return {}, "FULL_OBJECT"


def _check_checksums(request: S3Request, checksums: Mapping[Checksum, str], upload: S3UploadAttributes) -> None:
    """What the client says of the whole is so."""
    kind = request.headers.get("x-amz-checksum-type")
    if kind is not None and kind != upload.checksum_type:
        raise S3Error(
            "InvalidRequest",
            f"The upload was created using the {upload.checksum_type} checksum mode. The complete request must use the "
            "same checksum mode.",
        )
    for name in ALGORITHMS:
        if (value := request.headers.get(HEADER_PREFIX + name)) is None:
            continue
        if name not in checksums:
            raise S3Error(
                "InvalidRequest", f"The {name.upper()} of the object does not follow from those of its parts."
            )
        if value.strip().partition("-")[0] != checksums[name].partition("-")[0]:
            raise S3Error("BadDigest", f"The {name.upper()} you specified did not match the calculated checksum.")
