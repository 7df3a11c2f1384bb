"""Bucket and key from the raw path of a request, decoded once and strictly (G-27).

The server's own decoded path cannot be used: it replaces invalid UTF-8 by one and the same character, so that different
requests would name the same file. Here a malformed escape or invalid UTF-8 is a refusal, `%2F` equals `/`, and what comes
out is opaque from then on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from services.gateway.semantics.parameters import MALFORMED_ESCAPE, Parameter
from shared.contracts.names import check_bucket_name, check_key
from shared.errors import InvalidNameError

FILES_PREFIX: Final = b"/v1/files/"
BUCKETS_PREFIX: Final = b"/v1/buckets/"
VERSIONS_PREFIX: Final = b"/v1/versions/"
TAGS_PREFIX: Final = b"/v1/tags/"
NAMED_BELOW: Final = (FILES_PREFIX, BUCKETS_PREFIX, VERSIONS_PREFIX, TAGS_PREFIX)
"""Paths that go on with names."""

_SETTINGS: Final = b"/settings"

BUCKET: Final = Parameter(
    "bucket",
    "3-63 characters of a-z, 0-9, `-` and `.`.",
    {"type": "string", "minLength": 3, "maxLength": 63},
    check_bucket_name,
    default=None,
    place="path",
    example="default",
)
KEY: Final = Parameter(
    "key",
    (
        "1-1024 bytes of UTF-8 without control characters and without `.` or `..` between slashes. `/` may be written as "
        "it is or as `%2F`, `?` only as `%3F`."
    ),
    {"type": "string"},
    check_key,
    default=None,
    place="path",
    example="hello.txt",
)


@dataclass(frozen=True, slots=True)
class FileName:
    """A bucket and a key, both checked."""

    bucket: str
    key: str


@lru_cache(maxsize=64)  # of requests under way: the door asks, and then the route
def file_name(raw_path: bytes, prefix: bytes = FILES_PREFIX) -> FileName:
    """The file that `{prefix}{bucket}/{key}` names.

    Raises:
        InvalidNameError: the path is malformed or breaks a rule for names; definite.
    """
    bucket, slash, key = _decode(raw_path, prefix).partition("/")
    BUCKET.read(bucket)
    if not slash:
        raise InvalidNameError("The path names no key.")
    return FileName(bucket, KEY.read(key))


def bucket_name(raw_path: bytes, prefix: bytes) -> str:
    """The bucket that `{prefix}{bucket}` names.

    Raises:
        InvalidNameError: as `file_name`.
    """
    return BUCKET.read(_decode(raw_path, prefix))


def settings_bucket_name(raw_path: bytes) -> str:
    """The bucket that `/v1/buckets/{bucket}/settings` names.

    Raises:
        InvalidNameError: as `file_name`.
    """
    # The slash before it may be an escaped one, to which only the decoded path gives a meaning.
    if not raw_path.endswith(_SETTINGS):
        raise InvalidNameError("The path is malformed: only a name may be percent-encoded.")
    return bucket_name(raw_path.removesuffix(_SETTINGS), BUCKETS_PREFIX)


def _decode(raw_path: bytes, prefix: bytes) -> str:
    # The router has matched the decoded path; `/v1/files%2Fdefault/key` must not pass for the route itself.
    if not raw_path.startswith(prefix):
        raise InvalidNameError("The path is malformed: only a name may be percent-encoded.")
    name = raw_path.removeprefix(prefix)
    if MALFORMED_ESCAPE.search(name):
        raise InvalidNameError("The path has a '%' that is not followed by two hex digits.")
    try:
        return unquote_to_bytes(name).decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidNameError("The path is not valid UTF-8.") from error
