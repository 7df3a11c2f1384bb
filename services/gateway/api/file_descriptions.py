"""What OpenAPI says about files: parameters, bodies and headers. The routes themselves read the raw request."""

from __future__ import annotations

from typing import Any, Final

from services.gateway.api.problems import Responses, header
from services.gateway.api.requests import IDEMPOTENCY_KEY_DESCRIPTION
from services.gateway.semantics.byte_ranges import MAX_RANGES

_ETAG: Final = '"60c0e811737deb00f76b3479be928656"'
_DATE: Final = "Wed, 25 Nov 2026 16:35:12 GMT"
_BINARY: Final = {"type": "string", "format": "binary"}

_HEADERS: Final = {
    "X-Trivet-Write-Quorum": ("Replicas of every chunk that must be durable before the answer, 1 to N.", "2"),
    "X-Trivet-Read-Quorum": (
        "Replicas of every chunk that must be proved; fewer are answered 503. HEAD counts them only with this.",
        "2",
    ),
    "X-Trivet-Meta-Place": (
        (
            "Any header that begins with `X-Trivet-Meta-` is kept with the file and given back with it: names of 1-128 "
            "token characters, printable ASCII values of at most 2 KiB, 8 KiB in all."
        ),
        "Rome",
    ),
    "Content-Digest": (
        (
            "Checked before publishing: `sha-256=:<base64>:` or `sha-512=:<base64>:` or both. Other algorithms are left "
            "out; a list without one of these two is 400."
        ),
        "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:",
    ),
    "Content-MD5": ("Checked before publishing: base64.", "XUFAKrxLKna5cZ2REBfFkg=="),
    "Idempotency-Key": (IDEMPOTENCY_KEY_DESCRIPTION, "order-17"),
    "If-Match": ("Only if the current entity tag is one of these, or `*`: if there is a file.", _ETAG),
    "If-None-Match": ("Only if the current entity tag is none of these; `*`: only if there is no file.", _ETAG),
    "If-Modified-Since": ("Only if it was published later. Ignored beside If-None-Match.", _DATE),
    "If-Unmodified-Since": ("Only if it was not published later. Ignored beside If-Match.", _DATE),
    "Range": (
        f"Ranges of bytes, e.g. `bytes=0-99` or `bytes=0-0,-1`: at most {MAX_RANGES}, together not more than the file.",
        "bytes=0-99",
    ),
    "If-Range": ("The range only if this is the current entity tag, else the whole file.", _ETAG),
}

_WRITE_CONDITIONS: Final = ("If-Match", "If-None-Match", "If-Unmodified-Since", "Idempotency-Key")
WRITE_PARAMETERS: Final = (
    "X-Trivet-Write-Quorum",
    "X-Trivet-Meta-Place",
    *_WRITE_CONDITIONS,
    "Content-Digest",
    "Content-MD5",
)
CHANGE_PARAMETERS: Final = _WRITE_CONDITIONS
"""Of a change whose body is JSON."""

FORM_PARAMETERS: Final = ("X-Trivet-Write-Quorum", "X-Trivet-Meta-Place", *_WRITE_CONDITIONS)
READ_PARAMETERS: Final = (
    "X-Trivet-Read-Quorum",
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
)
DELETE_PARAMETERS: Final = _WRITE_CONDITIONS

DELETION_HEADERS: Final = {"X-Trivet-Version": header("Log index that last changed this key.", "17")}
VERSION_HEADERS: Final = {"ETag": header("Strong entity tag of this version.", _ETAG)} | DELETION_HEADERS
_NOT_MODIFIED_HEADERS: Final = VERSION_HEADERS | {
    "Last-Modified": header(
        (
            "When this version was published, in a later second than the version before. Left out while that second is "
            "still to come, as it is when a file is replaced several times in a second."
        ),
        _DATE,
    ),
}
FILE_HEADERS: Final = _NOT_MODIFIED_HEADERS | {
    "Accept-Ranges": header("Ranges of bytes may be asked for.", "bytes"),
    "X-Trivet-Digest": header(
        "BLAKE3-256 of the whole file, hex.", "53b63a6fc8605d0c0ce559317a00177d72adb24d669235e4c914f443a8831ca1"
    ),
    "X-Trivet-Modified": header("When this version was published, as lists show it.", "2026-11-25T16:35:12.106710Z"),
    "X-Trivet-Replicas-Confirmed": header(
        "Proved replicas of the weakest chunk looked at. Of HEAD: only where the request has X-Trivet-Read-Quorum.", "3"
    ),
    "X-Trivet-Meta-Place": header("And every other header of user metadata, as it was stored.", "Rome"),
}
_GET_HEADERS: Final = FILE_HEADERS | {
    "X-Trivet-Confirmation-Age": header(
        (
            "Of GET: the age in seconds, rounded up, of the oldest confirmation that counts in X-Trivet-Replicas-Confirmed; "
            "0 when every replica was asked for this answer, as with X-Trivet-Read-Quorum."
        ),
        "41",
    ),
}
_RANGE_HEADERS: Final = _GET_HEADERS | {
    "Content-Range": header("Of a single range: which bytes, of how many.", "bytes 0-99/1048576")
}

ANSWERS_OF_READ: Final[Responses] = {
    200: {
        "description": "The whole file.",
        "headers": _GET_HEADERS,
        "content": {"application/octet-stream": {"schema": _BINARY}},
    },
    206: {
        "description": "The ranges asked for.",
        "headers": _RANGE_HEADERS,
        "content": {"application/octet-stream": {"schema": _BINARY}, "multipart/byteranges": {"schema": _BINARY}},
    },
    304: {"description": "Not modified.", "headers": _NOT_MODIFIED_HEADERS},
}
ANSWERS_OF_HEAD: Final[Responses] = {
    200: {"description": "The headers of GET, without the bytes.", "headers": FILE_HEADERS},
    304: {"description": "Not modified.", "headers": _NOT_MODIFIED_HEADERS},
}

BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "description": "The bytes of the file, as they are; they are kept as they come, whatever Content-Encoding says.",
        "required": True,
        "content": {"application/octet-stream": {"schema": _BINARY}},
    }
}
FORM: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file"], "properties": {"file": _BINARY}},
            }
        },
    }
}
_BUCKET_PARAMETER: Final[dict[str, Any]] = {
    "name": "bucket",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "example": "default",
}
_KEY_PARAMETER: Final[dict[str, Any]] = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": (
        "1-1024 bytes of UTF-8 without control characters and without `.` or `..` between slashes. `/` may be written as "
        "it is or as `%2F`, `?` only as `%3F`."
    ),
    "schema": {"type": "string"},
    "example": "hello.txt",
}

NAME_PARAMETERS: Final = (_BUCKET_PARAMETER, _KEY_PARAMETER)
"""Bucket and key, in the path."""

VERSION_PARAMETER: Final[dict[str, Any]] = {
    "name": "version",
    "in": "query",
    "description": "Of the version that is meant; without it the current one.",
    "schema": {"type": "integer", "minimum": 1},
}


def file_parameters(*headers: str) -> dict[str, Any]:
    """Bucket, key and these headers."""
    return {"parameters": [*NAME_PARAMETERS, *header_parameters(headers)]}


def version_parameters(*headers: str) -> dict[str, Any]:
    """`file_parameters` and the query that names a version."""
    return {"parameters": [*NAME_PARAMETERS, VERSION_PARAMETER, *header_parameters(headers)]}


def form_parameters() -> dict[str, Any]:
    """Bucket and the headers of a form."""
    return {"parameters": [_BUCKET_PARAMETER, *header_parameters(FORM_PARAMETERS)]}


def header_parameters(headers: tuple[str, ...]) -> list[dict[str, Any]]:
    """These headers.

    The examples stand in the text: Swagger UI would fill them in, and every request would be a conditional one.
    """
    return [
        {
            "name": name,
            "in": "header",
            "description": f"{text} Example: `{example}`",
            "schema": {"type": "string"},
        }
        for name in headers
        for text, example in (_HEADERS[name],)
    ]
