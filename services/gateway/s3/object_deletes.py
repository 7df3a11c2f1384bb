"""DeleteObject and DeleteObjects: an object, or one version of it for good. What is absent already is deleted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

from services.gateway.access.context import AccessContext, as_system, current_access
from services.gateway.s3.answers import send_empty, send_xml
from services.gateway.s3.body_hashing import BodyHashes
from services.gateway.s3.conditions import write_conditions
from services.gateway.s3.decisions import count_refusal, require_sight, see, tells_of
from services.gateway.s3.errors import S3Error
from services.gateway.s3.object_versions import DELETE_MARKER, asked_id, name_of, number_of
from services.gateway.s3.request_documents import read_body, room_for_body
from services.gateway.s3.requests import S3Request
from services.gateway.s3.retries import propose_once, retry_key
from services.gateway.s3.version_ids import version_ids
from services.gateway.s3.xml_documents import Element, document, element, group, malformed, parse, text_of, texts_of
from services.gateway.s3.xml_errors import s3_error_of
from services.gateway.semantics.conditions import UNCONDITIONAL
from services.gateway.semantics.http_dates import unix_seconds
from services.gateway.semantics.raw_names import FileName
from shared.contracts.access import Action
from shared.contracts.files import Preconditions
from shared.contracts.metadata import DeleteFile, GetFile
from shared.contracts.names import check_object_key
from shared.contracts.objects import DeletedFile, FileToDelete, GetBucketSettings
from shared.errors import (
    AccessDeniedError,
    FileNotFoundInBucketError,
    InvalidNameError,
    TrivetError,
    UnauthenticatedError,
    VersionNotFoundError,
    error_from_problem,
)
from shared.units import MIB

KEYS_MAX: Final = 1000
DOCUMENT_BYTES_MAX: Final = 2 * MIB

_SIZE: Final = re.compile(r"[0-9]{1,18}")
_ETAG: Final = "if-match"
_TIME: Final = "x-amz-if-match-last-modified-time"
_LENGTH: Final = "x-amz-if-match-size"
_OF_ELEMENTS: Final[Mapping[str, str]] = {"ETag": _ETAG, "LastModifiedTime": _TIME, "Size": _LENGTH}


def delete_conditions(headers: Mapping[str, str]) -> Preconditions:
    """What a deletion is to find. Raises S3Error, InvalidArgument."""
    etag, moment, size = headers.get(_ETAG), headers.get(_TIME), headers.get(_LENGTH)
    if etag is None and moment is None and size is None:
        return UNCONDITIONAL
    return Preconditions(
        if_match=None if etag is None else write_conditions({_ETAG: etag}).if_match,
        stored_s=None if moment is None else _moment_s(moment),
        size_bytes=None if size is None else _size(size),
    )


def _size(text: str) -> int:
    if not _SIZE.fullmatch(text):
        raise _invalid(_LENGTH, text)
    return int(text)


def _moment_s(text: str) -> int:
    """Unix second of a date of HTTP, or of ISO 8601."""
    if (unix_s := unix_seconds(text)) is not None:
        return unix_s
    try:
        moment = datetime.fromisoformat(text.strip())
        return int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError) as error:
        raise _invalid(_TIME, text) from error


def _invalid(name: str, text: str) -> S3Error:
    return S3Error("InvalidArgument", f"{name} is malformed.", ArgumentName=name, ArgumentValue=text[:64])


# --- one ----------------------------------------------------------------------------------------------------------


async def delete_object(request: S3Request) -> None:
    """DeleteObject."""
    text = asked_id(request)
    number = None if text is None else _number(request, text)
    conditions = delete_conditions(request.headers)
    await require_sight(request, name_of(request), conditions)
    deletion = DeleteFile(
        bucket=request.bucket,
        key=request.key,
        version=number,
        preconditions=conditions,
        stamp=request.services.clock.stamp(),
    )
    key = retry_key(request, number, preconditions=conditions)
    deleted: DeletedFile | None = None
    # Gone is what was asked for, whatever it was to look like.
    with suppress(FileNotFoundInBucketError, VersionNotFoundError):
        deleted = await propose_once(request, deletion, key)
    headers = {} if text is None else {"x-amz-version-id": text}
    if deleted is not None and deleted.is_marker:
        headers[DELETE_MARKER] = "true"
        if text is None:
            headers["x-amz-version-id"] = (await _marker_ids(request, {request.key: deleted.version}))[request.key]
    await send_empty(request, 204, headers)


def _number(request: S3Request, text: str) -> int:
    """As `number_of`, but what can be no version of this cluster is one that is absent."""
    try:
        return number_of(request, text)
    except S3Error as error:
        if error.code != "NoSuchVersion":
            raise
        return _ABSENT


_ABSENT: Final = 2**63 - 1
"""No log becomes as long."""


async def _marker_ids(request: S3Request, markers: Mapping[str, int]) -> dict[str, str]:
    """The ids of delete markers that were just written, by key; `markers`: their numbers. A null marker is called so.

    What was written does not say which of them are: settings that are older than all of them do. Where others were put meanwhile,
    each marker is asked for.
    """
    ids, metadata = version_ids(request.services), request.services.metadata
    with as_system():
        answer, _ = await metadata.read(GetBucketSettings(bucket=request.bucket))
        if answer.settings is not None and answer.log_index < min(markers.values()):
            is_suspended = answer.settings.versioning == "suspended"
            # All markers of an entry have its number.
            sealed = {number: ids.seal(number, is_null=is_suspended) for number in set(markers.values())}
            return {key: sealed[number] for key, number in markers.items()}
        shown: dict[str, str] = {}
        for key, number in markers.items():
            found, _ = await metadata.read(GetFile(bucket=request.bucket, key=key, version=number, pages=True))
            shown[key] = ids.seal(number, is_null=found.is_null)
    return shown


# --- many ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _AskedDeletion:
    """An object of the list. `version` is its id as S3 shows it; `error` says why it cannot be deleted."""

    key: str
    version: str | None
    file: FileToDelete | None
    error: S3Error | None = None


_Outcome = DeletedFile | S3Error
_Files = Mapping[int, FileToDelete]
"""By their places in the list."""


async def delete_objects(request: S3Request) -> None:
    """DeleteObjects: each is deleted, or says why not, in the order of the list."""
    body = request.body
    assert body is not None
    if not BodyHashes.of(request.headers, body, default=None).is_announced:
        raise S3Error("InvalidRequest", "Missing required header for this request: Content-MD5 OR x-amz-checksum-*")
    async with room_for_body(request, DOCUMENT_BYTES_MAX) as transfer:
        data = await read_body(request, DOCUMENT_BYTES_MAX, transfer)
        root = parse(data, "Delete", limit_bytes=DOCUMENT_BYTES_MAX)
        asked = _asked(request, root)
        is_quiet = (text_of(root, "Quiet") or "").strip().lower() == "true"
    outcomes = await _delete_all(request, asked)
    markers = {} if is_quiet else _markers_of(asked, outcomes)
    marker_ids = await _marker_ids(request, markers) if markers else {}
    children = (
        _shown(each, outcome, marker_ids, is_quiet=is_quiet) for each, outcome in zip(asked, outcomes, strict=True)
    )
    await send_xml(request, document("DeleteResult", children))


def _asked(request: S3Request, root: Element) -> list[_AskedDeletion]:
    objects = root.findall("Object")
    if not 1 <= len(objects) <= KEYS_MAX:
        raise malformed()
    return [_asked_object(request, each) for each in objects]


def _asked_object(request: S3Request, each: Element) -> _AskedDeletion:
    values = texts_of(each)
    key, version = values.get("Key"), values.get("VersionId") or None
    if not key:
        raise malformed()
    conditions = {header: text for name, header in _OF_ELEMENTS.items() if (text := values.get(name))}
    try:
        file = FileToDelete(
            key=check_object_key(key),
            version=None if version is None else _number(request, version),
            preconditions=delete_conditions(conditions) if conditions else None,
        )
    except InvalidNameError:
        return _AskedDeletion(key, version, None, S3Error("KeyTooLongError", "Your key is too long"))
    except S3Error as error:
        return _AskedDeletion(key, version, None, error)
    return _AskedDeletion(key, version, file)


async def _delete_all(request: S3Request, asked: Sequence[_AskedDeletion]) -> list[_Outcome]:
    outcomes: dict[int, _Outcome] = {place: each.error for place, each in enumerate(asked) if each.error is not None}
    files = {place: each.file for place, each in enumerate(asked) if each.file is not None}
    outcomes |= await _refused(request, files)
    left = {place: file for place, file in files.items() if place not in outcomes}
    if left:
        outcomes |= await _delete_batch(request, left)
    return [outcomes[place] for place in range(len(asked))]


async def _refused(request: S3Request, files: _Files) -> dict[int, S3Error]:
    """Those that the principal may not delete: the log is never asked for them, and would refuse an entry as a whole."""
    context = current_access()
    refused = _not_allowed(request, context, files)
    if refused:
        # What the rows here refuse is refused only by rows that are read now.
        with suppress(AccessDeniedError, UnauthenticatedError):
            decision = partial(_require, bucket=request.bucket, file=files[next(iter(refused))])
            await request.services.access.decide(context, decision)
        refused = _not_allowed(request, context, files)
    if refused:
        # Once for all of them: a thousand lines would leave no room for those of others.
        name = FileName(request.bucket, files[next(iter(refused))].key)
        count_refusal(request, context.refusal(Action.DELETE, request.bucket), name)
    return refused


def _not_allowed(request: S3Request, context: AccessContext, files: _Files) -> dict[int, S3Error]:
    refused: dict[int, S3Error] = {}
    for place, file in files.items():
        try:
            _require(context, bucket=request.bucket, file=file)
        except (AccessDeniedError, UnauthenticatedError) as error:
            refused[place] = s3_error_of(error, request.target)
    return refused


def _require(context: AccessContext, *, bucket: str, file: FileToDelete) -> None:
    context.require(Action.DELETE, bucket, file.key, file.version)
    if tells_of(file.preconditions):
        see(context, FileName(bucket, file.key))


async def _delete_batch(request: S3Request, files: _Files) -> dict[int, _Outcome]:
    key = retry_key(request, [file.model_dump() for file in files.values()])
    deleted = await request.services.batch_deletes.delete(request.bucket, list(files.values()), key)
    outcomes: dict[int, _Outcome] = {}
    for place, (_, outcome) in zip(files, deleted.files, strict=True):
        problem = outcome.problem
        outcomes[place] = outcome if problem is None else _error_of(request, error_from_problem(problem))
    return outcomes


def _error_of(request: S3Request, error: TrivetError) -> S3Error:
    return s3_error_of(error, request.target)


def _markers_of(asked: Sequence[_AskedDeletion], outcomes: Sequence[_Outcome]) -> dict[str, int]:
    """The numbers of the markers that were written, by key: each has one at most."""
    return {
        each.key: outcome.version
        for each, outcome in zip(asked, outcomes, strict=True)
        if isinstance(outcome, DeletedFile) and outcome.is_marker and each.version is None
    }


def _shown(asked: _AskedDeletion, outcome: _Outcome, marker_ids: Mapping[str, str], *, is_quiet: bool) -> str:
    """The element of one object; empty where none is asked for."""
    children = [element("Key", asked.key)]
    if asked.version is not None:
        children.append(element("VersionId", asked.version))
    if isinstance(outcome, S3Error):
        children += [element("Code", outcome.code), element("Message", outcome.message)]
        return group("Error", children)
    if is_quiet:
        return ""
    if outcome.is_marker:
        children.append(element("DeleteMarker", value=True))
        children.append(element("DeleteMarkerVersionId", asked.version or marker_ids[asked.key]))
    return group("Deleted", children)
