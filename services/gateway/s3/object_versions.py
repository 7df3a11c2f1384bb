"""Which version of an object a request means, and what is answered where there is none."""

from __future__ import annotations

from typing import Final, NoReturn

from services.gateway.s3.decisions import require
from services.gateway.s3.errors import S3Error
from services.gateway.s3.requests import S3Request
from services.gateway.s3.version_ids import NULL, version_ids
from services.gateway.s3.xml_errors import s3_error_of
from services.gateway.semantics.raw_names import FileName
from shared.contracts.access import Action
from shared.contracts.files import FileVersion
from shared.contracts.objects import NULL_VERSION
from shared.errors import (
    FileNotFoundInBucketError,
    MethodNotAllowedError,
    SourceIsMarkerError,
    TrivetError,
    VersionNotFoundError,
)

DELETE_MARKER: Final = "x-amz-delete-marker"


def name_of(request: S3Request) -> FileName:
    """The object that the request names."""
    return FileName(request.bucket, request.key)


def asked_id(request: S3Request) -> str | None:
    """The version id that the query names; None where the current version is meant."""
    return request.target.value("versionId") if request.target.query else None


def asked_version(request: S3Request) -> int | None:
    """The number of that version, as it is asked for in the log. Raises as `number_of`."""
    text = asked_id(request)
    return None if text is None else number_of(request, text)


def number_of(request: S3Request, text: str) -> int:
    """The number of the version that `text` names. Raises S3Error: InvalidArgument, NoSuchVersion."""
    number = version_ids(request.services).open(text)
    return NULL_VERSION if number == NULL else number


def shown_id(request: S3Request, version: FileVersion, *, keeps_versions: bool = False) -> str | None:
    """The id of a version in an answer.

    A null version has one where it is asked for by that name, and in answers that read it from a bucket which keeps versions, or
    did. What writes a null version does not say so, as S3 does not.
    """
    if not version.is_null:
        return version_ids(request.services).of(version)
    return NULL if keeps_versions or asked_id(request) == NULL else None


async def refuse(request: S3Request, error: TrivetError) -> NoReturn:
    """Raise what S3 answers where an object could not be read or changed.

    That an object is absent is told to those alone who might have listed it.
    """
    if isinstance(error, FileNotFoundInBucketError):
        await require(request, Action.LIST, name_of(request))
        raise _no_such_key(request, error) from error
    if isinstance(error, VersionNotFoundError):
        await require(request, Action.LIST, name_of(request))
        raise S3Error(
            "NoSuchVersion",
            "The specified version does not exist.",
            Key=request.key,
            VersionId=(asked_id(request) or "")[:256],
        ) from error
    if isinstance(error, SourceIsMarkerError) or (
        isinstance(error, MethodNotAllowedError) and "is_marker" in error.facts
    ):
        raise S3Error(
            "MethodNotAllowed",
            "The specified method is not allowed against this resource.",
            headers={DELETE_MARKER: "true", "allow": "DELETE", "x-amz-version-id": asked_id(request) or NULL},
            Method=request.scope["method"],
            ResourceType="DeleteMarker",
        ) from error
    raise s3_error_of(error, request.target) from error


def _no_such_key(request: S3Request, error: FileNotFoundInBucketError) -> S3Error:
    headers: dict[str, str] = {}
    if error.facts.get("is_marker"):
        # A leader of an earlier version says neither.
        number, is_null = error.facts.get("marker_id", error.facts["version"]), error.facts.get("is_null", False)
        marker = version_ids(request.services).seal(int(number), is_null=bool(is_null))
        headers = {DELETE_MARKER: "true", "x-amz-version-id": marker}
    return S3Error("NoSuchKey", "The specified key does not exist.", headers=headers, Key=request.key)
