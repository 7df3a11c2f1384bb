"""Signed links: whoever has one may do one thing with one file until it expires, and needs no credential.

A link is made from the id and the secret of an access key, without asking a server (docs/api.md); a gateway
makes the same signature and compares. It covers the method, bucket and key as bytes, every query parameter, and the headers
that it names. Pure.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from typing import Final, Literal
from urllib.parse import quote, quote_from_bytes

KEY: Final = "link-key"
EXPIRES: Final = "link-expires"
HEADERS: Final = "link-headers"
SIGNATURE: Final = "link-signature"
PREFIX: Final = "link-"
"""What the parameters of a link begin with, and no other parameter does."""

LIFETIME_MAX_S: Final = 7 * 24 * 3600
HEADERS_MAX: Final = 32
FORMAT: Final = "trivet-link-1"

LinkMethod = Literal["GET", "PUT", "DELETE"]
"""What a link is made for; one for GET is good for HEAD, too."""


def make_link(
    key_id: str,
    secret: str,
    *,
    method: LinkMethod,
    bucket: str,
    key: str,
    expires_s: int,
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> str:
    """The path and the query of a link, to be put behind the address of a gateway.

    Args:
        expires_s: seconds since the Unix epoch, at most `LIFETIME_MAX_S` ahead.
        query: what the request asks beside: `version`.
        headers: that the request must carry, with these values. Content-Type and X-Trivet-* are refused unless they are here.
    """
    named = {name.lower(): value.strip() for name, value in (headers or {}).items()}
    parameters = {**(query or {}), KEY: key_id, EXPIRES: str(expires_s)}
    if named:
        parameters[HEADERS] = ";".join(sorted(named))
    pairs = [(name.encode(), value.encode()) for name, value in parameters.items()]
    text = text_to_sign(method, bucket.encode(), key.encode(), pairs, sorted(named.items()))
    parameters[SIGNATURE] = sign(secret, text)
    written = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in parameters.items())
    return f"/v1/files/{quote(bucket, safe='')}/{quote(key)}?{written}"


def text_to_sign(
    method: str,
    bucket: bytes,
    key: bytes,
    query: Iterable[tuple[bytes, bytes]],
    headers: Iterable[tuple[str, str]],
) -> str:
    """What a link's signature is made of.

    Everything is percent-encoded but A-Z a-z 0-9 - . _ ~, so that no two requests have one text.

    Args:
        method: GET for HEAD.
        query: every parameter but the signature, decoded.
        headers: those that the link names, in the order of their names, which are in lower case.
    """
    encoded = sorted(f"{_encoded(name)}={_encoded(value)}" for name, value in query)
    lines = [FORMAT, method, _encoded(bucket), _encoded(key), "&".join(encoded)]
    lines += [f"{name}:{_encoded(value.encode('latin-1'))}" for name, value in headers]
    return "\n".join(lines)


def sign(secret: str, text: str) -> str:
    """The signature: HMAC-SHA-256 in hex."""
    return hmac.digest(secret.encode(), text.encode(), "sha256").hex()


def _encoded(value: bytes) -> str:
    return quote_from_bytes(value, safe="")
