"""Bucket and key from the raw path of a request, decoded once and strictly (G-27).

The server's own decoded path cannot be used: it replaces invalid UTF-8 by one and the same character, so that different
requests would name the same file. Here a malformed escape or invalid UTF-8 is a refusal, `%2F` equals `/`, and what comes
out is opaque from then on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, unquote_to_bytes

from shared.contracts.names import check_bucket_name, check_key
from shared.errors import InvalidNameError, InvalidRequestError

FILES_PREFIX: Final = b"/v1/files/"
BUCKETS_PREFIX: Final = b"/v1/buckets/"
VERSIONS_PREFIX: Final = b"/v1/versions/"
TAGS_PREFIX: Final = b"/v1/tags/"
NAMED_BELOW: Final = (FILES_PREFIX, BUCKETS_PREFIX, VERSIONS_PREFIX, TAGS_PREFIX)
"""Paths that go on with names."""

_SETTINGS: Final = b"/settings"

_MALFORMED_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


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
    check_bucket_name(bucket)
    if not slash:
        raise InvalidNameError("The path names no key.")
    return FileName(bucket, check_key(key))


def bucket_name(raw_path: bytes, prefix: bytes) -> str:
    """The bucket that `{prefix}{bucket}` names.

    Raises:
        InvalidNameError: as `file_name`.
    """
    return check_bucket_name(_decode(raw_path, prefix))


def settings_bucket_name(raw_path: bytes) -> str:
    """The bucket that `/v1/buckets/{bucket}/settings` names.

    Raises:
        InvalidNameError: as `file_name`.
    """
    # The slash before it may be an escaped one, to which only the decoded path gives a meaning.
    if not raw_path.endswith(_SETTINGS):
        raise InvalidNameError("The path is malformed: only a name may be percent-encoded.")
    return bucket_name(raw_path.removesuffix(_SETTINGS), BUCKETS_PREFIX)


def query_values(query_string: bytes, known: frozenset[str]) -> dict[str, str]:
    """The parameters of a query, each at most once, as strict UTF-8.

    Raises:
        InvalidRequestError: a parameter is unknown, repeated or not UTF-8; definite.
    """
    if _MALFORMED_ESCAPE.search(query_string):
        raise InvalidRequestError("The query has a '%' that is not followed by two hex digits.")
    try:
        pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError as error:
        raise InvalidRequestError("The query is not valid UTF-8, or has too many fields.") from error
    values: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise InvalidRequestError("The query has an unknown parameter.", parameter=name[:64], known=sorted(known))
        if name in values:
            raise InvalidRequestError("A query parameter is given twice.", parameter=name)
        values[name] = value
    return values


def _decode(raw_path: bytes, prefix: bytes) -> str:
    # The router has matched the decoded path; `/v1/files%2Fdefault/key` must not pass for the route itself.
    if not raw_path.startswith(prefix):
        raise InvalidNameError("The path is malformed: only a name may be percent-encoded.")
    name = raw_path.removeprefix(prefix)
    if _MALFORMED_ESCAPE.search(name):
        raise InvalidNameError("The path has a '%' that is not followed by two hex digits.")
    try:
        return unquote_to_bytes(name).decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidNameError("The path is not valid UTF-8.") from error
