"""Does a body have its digest? Pure."""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from services.storage.ports import Body

_NEARLY_BITS: Final = 64
"""Digests of different bytes differ in 128 bits, give or take 8: so close a digest is a damaged one."""


def digest_of(body: Body) -> str:
    """BLAKE3-256 in 64 hex digits. Releases the interpreter for large bodies."""
    return blake3(body).hexdigest()


def is_whole(body: Body, digest: str) -> bool:
    """Whether `body` hashes to `digest`."""
    return digest_of(body) == digest


def is_nearly(digest: str, other: str) -> bool:
    """Whether one may be the other with a few bytes damaged."""
    return (int(digest, 16) ^ int(other, 16)).bit_count() < _NEARLY_BITS
