"""Signed links as a gateway sees them: taken out of the query, and refused unless every part is as it was signed.

The lesson of three stores in one year: an upload link with a header that nobody had signed read any file (CVE-2026-54330 and
kin). So whatever the API reads of a request's head is signed: method, names, every parameter of the query, and every header
that changes what is stored or read. `HARMLESS` are the headers that it reads and that change neither.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from services.gateway.ports import Clock
from services.gateway.semantics.raw_names import FileName
from shared.contracts.access import KeyId
from shared.errors import CredentialInvalidError, HeaderNotSignedError, InvalidRequestError, LinkExpiredError
from shared.links import EXPIRES, HEADERS, HEADERS_MAX, KEY, LIFETIME_MAX_S, PREFIX, SIGNATURE, sign, text_to_sign
from shared.units import NANOSECONDS_PER_SECOND

HARMLESS: Final = frozenset({
    "content-length",  # how the body is framed
    "transfer-encoding",
    "expect",
    "content-md5",  # these only refuse a body that is another one
    "content-digest",
    "if-match",  # and these a file that is another one
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "range",  # a part of what may be read whole
    "if-range",
    "host",  # by which way the request came
    "origin",
    "sec-fetch-site",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-request-id",
})  # fmt: skip
"""Headers that the API reads and that a link need not name."""

_MEANINGFUL: Final = ("content-", "x-trivet-", "x-amz-", "idempotency-key")
"""What the names of all others begin with. A header that begins with none of them is not read."""

_PREFIX: Final = PREFIX.encode()
_PARAMETERS_MAX: Final = 16
_EXPIRES: Final = re.compile(r"[0-9]{1,11}")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{64}")
_KEY: Final = re.compile(r"TV[A-Z0-9]{18}")
_HEADERS: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+(?:;[a-z0-9!#$%&'*+.^_`|~-]+)*")
_MALFORMED_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class SignedLink:
    """What a query says of a link, proved by nothing yet.

    Attributes:
        headers: names of those that are signed, ascending.
        signed_query: every parameter but the signature, decoded.
        rest: the query without the link, as it came: what the request asks beside.
    """

    key: KeyId
    expires_s: int
    headers: tuple[str, ...]
    signature: str
    signed_query: list[tuple[bytes, bytes]]
    rest: bytes


@dataclass(frozen=True, slots=True)
class Now:
    """True time lies between the two, in nanoseconds since the Unix epoch."""

    earliest_ns: int
    latest_ns: int

    @classmethod
    def of(cls, clock: Clock) -> Now:
        """By Trivet's interval; without one by the host's clock, and never behind the highest stamp given or seen."""
        stamp = clock.stamp()
        if stamp.earliest_ns is None or stamp.latest_ns is None:
            return cls(stamp.approximate_ns, stamp.approximate_ns)
        return cls(stamp.earliest_ns, stamp.latest_ns)


def link_in(query_string: bytes) -> SignedLink | None:
    """The link that a query holds, or None without any parameter of one.

    Raises:
        InvalidRequestError: a parameter of it is missing, repeated or malformed; definite.
    """
    if _PREFIX not in query_string and b"%" not in query_string:
        return None
    found: dict[str, str] = {}
    signed: list[tuple[bytes, bytes]] = []
    rest: list[bytes] = []
    pieces = query_string.split(b"&")
    for piece in pieces:
        raw_name, _, raw_value = piece.partition(b"=")
        name, value = _decoded(raw_name), _decoded(raw_value)
        if not name.startswith(_PREFIX):
            rest.append(piece)
        elif (text := name.decode("latin-1")) in found:
            raise _malformed("A parameter of the link is given twice.", text)
        else:
            found[text] = value.decode("latin-1")
        if name != _SIGNATURE_NAME:
            signed.append((name, value))
    if not found:
        return None
    if len(pieces) > _PARAMETERS_MAX or _MALFORMED_ESCAPE.search(query_string):
        raise InvalidRequestError("The query of the link is malformed.")
    return _checked(found, signed, b"&".join(rest))


def check_link(
    link: SignedLink,
    secret: str | None,
    *,
    method: str,
    name: FileName,
    raw_headers: Iterable[tuple[bytes, bytes]],
    now: Now,
) -> None:
    """Return when the request is the one that the link was made for, before the link expires.

    Args:
        secret: of the key that the link names; None when there is none that can be used, which takes as long.
        name: the file, decoded as it will be used.

    Raises:
        CredentialInvalidError: it was not made for this request, or by nobody known; definite.
        LinkExpiredError: it may have expired; definite.
        HeaderNotSignedError: a header that it should name is not named; definite.
        InvalidRequestError: a header that it names is given twice, or it would be good for too long; definite.
    """
    headers = _single(raw_headers, link)
    signed = [(header, headers[header]) for header in link.headers if header in headers]
    text = text_to_sign(
        "GET" if method == "HEAD" else method, name.bucket.encode(), name.key.encode(), link.signed_query, signed
    )
    is_signed = hmac.compare_digest(sign(_NO_SECRET if secret is None else secret, text), link.signature)
    if secret is None or not is_signed or len(signed) < len(link.headers):
        raise invalid_credential()
    _check_lifetime(link, now)
    _check_headers(link, headers)


def is_to_be_named(header: str) -> bool:
    """Whether a link must name `header`, in lower case, for a request that carries it."""
    return header.startswith(_MEANINGFUL) and header not in HARMLESS


def invalid_credential() -> CredentialInvalidError:
    """One text for every reason, so that it tells nobody which ids there are."""
    return CredentialInvalidError("The credential is not known, not valid, or not valid any more.")


def _check_lifetime(link: SignedLink, now: Now) -> None:
    expires_ns = link.expires_s * NANOSECONDS_PER_SECOND
    if now.latest_ns >= expires_ns:
        raise LinkExpiredError("The link has expired.")
    if expires_ns - now.earliest_ns > LIFETIME_MAX_S * NANOSECONDS_PER_SECOND:
        raise InvalidRequestError("A link is good for at most seven days from now.", parameter=EXPIRES)


def _check_headers(link: SignedLink, headers: Mapping[str, str]) -> None:
    for header in headers:
        if is_to_be_named(header) and header not in link.headers:
            raise HeaderNotSignedError("The link does not name a header that changes what it does.", header=header[:64])


def _single(raw_headers: Iterable[tuple[bytes, bytes]], link: SignedLink) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw_headers:
        header = raw_name.decode("latin-1").lower()
        if header in headers and (header in link.headers or is_to_be_named(header)):
            raise InvalidRequestError(
                "A header that the link names, or should name, is given twice.", header=header[:64]
            )
        headers[header] = raw_value.decode("latin-1").strip(" \t")  # no more than HTTP does
    return headers


def _checked(found: dict[str, str], signed: list[tuple[bytes, bytes]], rest: bytes) -> SignedLink:
    for name, pattern in _PATTERNS.items():
        if name in found and not pattern.fullmatch(found[name]):
            raise _malformed("A parameter of the link is malformed.", name)
        if name not in found and name != HEADERS:
            raise _malformed("A parameter of the link is missing.", name)
    if unknown := found.keys() - _PATTERNS.keys():
        raise _malformed("The link has a parameter that is not known.", min(unknown)[:64])
    headers = tuple(found[HEADERS].split(";")) if HEADERS in found else ()
    if len(headers) > HEADERS_MAX or list(headers) != sorted(set(headers)):
        raise _malformed("The headers of a link are named in ascending order, each once.", HEADERS)
    return SignedLink(found[KEY], int(found[EXPIRES]), headers, found[SIGNATURE], signed, rest)


def _decoded(raw: bytes) -> bytes:
    """As `query_values` reads it."""
    return unquote_to_bytes(raw.replace(b"+", b" ")) if b"%" in raw or b"+" in raw else raw


def _malformed(message: str, parameter: str) -> InvalidRequestError:
    return InvalidRequestError(message, parameter=parameter)


_SIGNATURE_NAME: Final = SIGNATURE.encode()
_PATTERNS: Final = {KEY: _KEY, EXPIRES: _EXPIRES, HEADERS: _HEADERS, SIGNATURE: _SIGNATURE}
_NO_SECRET: Final = "-" * 40
"""Signs for a key that is not there."""
