"""Digests that a client sends with its body, checked before anything is published (RFC 1864, RFC 9530)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from shared.errors import DigestMismatchError, InvalidRequestError

_ALGORITHMS: Final = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}
_MEMBER: Final = re.compile(r"([a-z*][a-z0-9_.*-]{0,31})=:([A-Za-z0-9+/=]{0,128}):")
_MAX_MEMBERS: Final = 8


class Hasher(Protocol):
    """The part of a hashlib object that is used here."""

    def update(self, data: bytes, /) -> None:
        """Take in more of the body."""

    def digest(self) -> bytes:
        """The digest of all of it."""


@dataclass(frozen=True, slots=True)
class _Expected:
    header: str
    hasher: Hasher
    digest: bytes


class BodyDigests:
    """What one body must hash to. Costs nothing when the client sent no digest."""

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
            expected.append(_Expected("Content-MD5", hashlib.md5(usedforsecurity=False), _decoded(value.strip(), 16)))
        if (value := headers.get("content-digest")) is not None:
            expected += _members(value)
        return cls(expected)

    def update(self, data: bytes) -> None:
        """Take in the next bytes of the body."""
        for expected in self._expected:
            expected.hasher.update(data)

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
    members = [member.strip(" \t") for member in value.split(",", _MAX_MEMBERS)]
    found: list[_Expected] = []
    for member in members:
        match = _MEMBER.fullmatch(member)
        if match is None or len(members) > _MAX_MEMBERS:
            raise InvalidRequestError("Content-Digest is a list such as 'sha-256=:<base64>:'.", header="Content-Digest")
        if (make := _ALGORITHMS.get(match[1])) is not None:
            hasher = make()
            found.append(_Expected("Content-Digest", hasher, _decoded(match[2], hasher.digest_size)))
    if not found:
        raise InvalidRequestError(
            "Content-Digest has none of the algorithms that are checked here.",
            header="Content-Digest",
            known=sorted(_ALGORITHMS),
        )
    return found


def _decoded(text: str, size_bytes: int) -> bytes:
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError("A digest header is not valid base64.") from error
    if len(digest) != size_bytes:
        raise InvalidRequestError(f"A digest header has {len(digest)} bytes; its algorithm has {size_bytes}.")
    return digest
