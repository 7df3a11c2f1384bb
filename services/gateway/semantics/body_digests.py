"""Digests that a client sends with its body, checked before anything is published (RFC 1864, RFC 9530)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from services.gateway.semantics.parameters import Header
from shared.errors import DigestMismatchError, InvalidRequestError

DIGESTS: Final = (
    Header(
        "Content-Digest",
        (
            "Checked before publishing: `sha-256=:<base64>:` or `sha-512=:<base64>:` or both. Other algorithms are left "
            "out; a list without one of these two is 400."
        ),
        "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:",
    ),
    Header("Content-MD5", "Checked before publishing: base64.", "XUFAKrxLKna5cZ2REBfFkg=="),
)
"""What `BodyDigests.announced` reads."""

_ALGORITHMS: Final = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}
_MAX_MEMBERS: Final = 8

# A dictionary of structured fields (RFC 8941 section 3.2): a key, an item or none, and parameters, which mean nothing here.
_KEY: Final = r"[a-z*][a-z0-9_.*-]*"
_ITEM: Final = (
    r""":[A-Za-z0-9+/=]*:|"(?:[ !#-\[\]-~]|\\["\\])*"|\?[01]|-?[0-9]{1,15}(?:\.[0-9]{1,3})?|[A-Za-z*][!-+./-:^-z|~-]*"""
)
_MEMBER: Final = re.compile(rf"({_KEY})(?:=({_ITEM}))?(?:; *{_KEY}(?:=(?:{_ITEM}))?)*")


class Hasher(Protocol):
    """The part of a hashlib object that is used here."""

    def update(self, data: bytes | bytearray, /) -> None:
        """Take in more of the body."""

    def digest(self) -> bytes:
        """The digest of all of it."""


@dataclass(frozen=True, slots=True)
class _Expected:
    header: str
    hasher: Hasher
    digest: bytes


class Digests(Protocol):
    """What is computed of a body while it is stored, and compared when all of it has come."""

    def update(self, data: bytes | bytearray) -> None:
        """Take in the next bytes of the body. Where `is_behind` then, `catch_up` comes before the next ones and `check`."""

    @property
    def is_behind(self) -> bool:
        """The bytes are still being hashed, in a thread."""

    async def catch_up(self) -> None:
        """Wait until they are."""

    def check(self) -> None:
        """The body is whole. Raises what says that it is not the one that was announced; definite."""


class BodyDigests:
    """What one body must hash to. Costs nothing when the client sent no digest."""

    is_behind = False

    def __init__(self, expected: list[_Expected]) -> None:
        self._expected = expected

    @classmethod
    def announced(cls, headers: Mapping[str, str]) -> BodyDigests:
        """From Content-MD5 and Content-Digest; algorithms that we do not know are left out, as RFC 9530 demands.

        Raises:
            InvalidRequestError: a header is malformed, or Content-Digest has no algorithm that we know; definite.
        """
        expected: list[_Expected] = []
        if (value := headers.get("content-md5")) is not None:
            # The client's choice of algorithm, against accidents only; our own digests are BLAKE3.
            digest = _decoded("Content-MD5", value.strip(), 16)
            expected.append(_Expected("Content-MD5", hashlib.md5(usedforsecurity=False), digest))
        if (value := headers.get("content-digest")) is not None:
            expected += _members(value)
        return cls(expected)

    def update(self, data: bytes | bytearray) -> None:
        """Take in the next bytes of the body."""
        for expected in self._expected:
            expected.hasher.update(data)

    async def catch_up(self) -> None:
        """See `Digests`: never behind."""

    def check(self) -> None:
        """The body is whole.

        Raises:
            DigestMismatchError: it is not the one that was announced; definite.
        """
        for expected in self._expected:
            if expected.hasher.digest() != expected.digest:
                raise DigestMismatchError(
                    f"The body does not have the digest of its {expected.header} header; nothing was stored.",
                    header=expected.header,
                )


def _members(value: str) -> list[_Expected]:
    found: list[_Expected] = []
    # Of two members with one key the later one counts (RFC 8941 section 3.2).
    for key, item in dict(_dictionary(value)).items():
        if (make := _ALGORITHMS.get(key)) is None:
            continue
        if not item.startswith(":"):
            raise _malformed()
        hasher = make()
        # Padding may be missing (section 4.2.7).
        text = item.strip(":").rstrip("=")
        digest = _decoded("Content-Digest", text + "=" * (-len(text) % 4), hasher.digest_size)
        found.append(_Expected("Content-Digest", hasher, digest))
    if not found:
        raise InvalidRequestError(
            "Content-Digest has none of the algorithms that are checked here.",
            header="Content-Digest",
            known=sorted(_ALGORITHMS),
        )
    return found


def _dictionary(value: str) -> list[tuple[str, str]]:
    """Keys and items of a structured dictionary, in order; the edge has bounded its length."""
    members: list[tuple[str, str]] = []
    at = 0
    value = value.strip(" ")
    while True:
        match = _MEMBER.match(value, at)
        if match is None or len(members) == _MAX_MEMBERS:
            raise _malformed()
        members.append((match[1], match[2] or "?1"))
        rest = value[match.end() :].lstrip(" \t")
        if not rest:
            return members
        if not rest.startswith(","):
            raise _malformed()
        at = len(value) - len(rest[1:].lstrip(" \t"))


def _malformed() -> InvalidRequestError:
    return InvalidRequestError(
        f"Content-Digest is a list of at most {_MAX_MEMBERS}, such as 'sha-256=:<base64>:'.", header="Content-Digest"
    )


def _decoded(header: str, text: str, size_bytes: int) -> bytes:
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(f"{header} is not valid base64.", header=header) from error
    if len(digest) != size_bytes:
        raise InvalidRequestError(
            f"A digest of {header} has {len(digest)} bytes; its algorithm has {size_bytes}.", header=header
        )
    return digest
