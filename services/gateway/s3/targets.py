"""Which bucket and key the raw first line and the Host of a request name: decoded once, and used everywhere from then on.

No dot segments are removed and no slashes are joined: a key is opaque. What is signed, authorized and touched is what this
module says, so nothing else looks at the path.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from services.gateway.s3.errors import S3Error
from services.gateway.s3.requests import RequestTarget
from shared.contracts.names import MAX_KEY_BYTES, check_bucket_name
from shared.errors import InvalidNameError

_MALFORMED_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NO_QUERY: Final[tuple[tuple[str, str], ...]] = ()


def target_of(raw_path: bytes, query_string: bytes, host: str, domains: tuple[str, ...]) -> RequestTarget:
    """What a request names.

    Args:
        host: the header, with its port; empty without one.
        domains: see `S3Rules`.

    Raises:
        S3Error: InvalidURI, InvalidBucketName, KeyTooLongError or InvalidObjectName.
    """
    path = _decoded(raw_path, is_plus_space=False)
    if path[:1] != "/":
        raise S3Error("InvalidURI", "The path does not begin with a slash.")
    query = _query(query_string) if query_string else _NO_QUERY
    bucket = _bucket_of(host, domains) if domains else ""
    if bucket:
        key = path[1:]
    elif path == "/":
        return RequestTarget("", "", query)
    else:
        bucket, _, key = path[1:].partition("/")
    return RequestTarget(_checked_bucket(bucket), _checked_key(key) if key else "", query)


def _bucket_of(host: str, domains: tuple[str, ...]) -> str:
    name = host.partition(":")[0].lower()
    for domain in domains:
        if name.endswith(domain) and name[: -len(domain)].endswith("."):
            return name[: -len(domain) - 1]
    return ""


def _checked_bucket(name: str) -> str:
    try:
        return check_bucket_name(name)
    except InvalidNameError as error:
        raise S3Error("InvalidBucketName", "The specified bucket is not valid.", BucketName=name[:100]) from error


def _checked_key(key: str) -> str:
    if len(key) * 4 > MAX_KEY_BYTES and (size_bytes := len(key.encode())) > MAX_KEY_BYTES:
        raise S3Error(
            "KeyTooLongError", "Your key is too long.", Size=str(size_bytes), MaxSizeAllowed=str(MAX_KEY_BYTES)
        )
    if "\0" in key:
        raise S3Error("InvalidObjectName", "A key has no NUL.")
    return key


def _query(query_string: bytes) -> tuple[tuple[str, str], ...]:
    pairs = []
    for pair in query_string.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            pairs.append((_decoded(name, is_plus_space=True), _decoded(value, is_plus_space=True)))
    return tuple(pairs)


def _decoded(raw: bytes, *, is_plus_space: bool) -> str:
    if is_plus_space:
        raw = raw.replace(b"+", b" ")
    if b"%" in raw:
        if _MALFORMED_ESCAPE.search(raw):
            raise S3Error("InvalidURI", "The URI has a '%' that is not followed by two hex digits.")
        raw = unquote_to_bytes(raw)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise S3Error("InvalidURI", "The URI is not valid UTF-8.") from error
