"""Hashes the bytes of an object while they are stored: the MD5 that is its ETag, and the checksums that clients send.

An MD5 takes five times as long as everything else that is computed of a body, and cannot be spread over cores. So a thread
computes it beside the event loop, which sends the same bytes to their replicas meanwhile, and only the last chunk is waited for.
Handing a small body to a thread would take longer than its hashes do.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from services.gateway.s3.checksums import DEFAULT, AnnouncedChecksum, announced, encoded, hasher
from services.gateway.s3.errors import S3Error
from services.gateway.s3.requests import S3Body
from services.gateway.semantics.body_digests import Hasher
from shared.contracts.s3 import Checksum, S3Attributes, StoredHeader
from shared.units import KIB

INLINE_BYTES: Final = 64 * KIB
"""Up to so much is hashed at once: 0.1 ms."""

_MD5_BYTES: Final = 16
_NO_HEADERS: Final[Mapping[StoredHeader, str]] = {}


class BodyHashes:
    """The hashes of one body; `semantics.body_digests.Digests`. What is announced is compared when all of it has come.

    Invariant: at most one thread hashes, and it has all that `update` was given before.
    """

    def __init__(
        self,
        body: S3Body,
        *,
        md5: bytes | None,
        checksum: AnnouncedChecksum | None,
        default: Checksum | None = DEFAULT,
    ) -> None:
        """`md5`, `checksum`: what is announced. `default`: which checksum is computed without one."""
        self.body = body
        self._announced_md5 = md5
        self._announced = checksum
        self._md5 = hashlib.md5(usedforsecurity=False)  # what ETags are, against accidents only
        self._name = default if checksum is None else checksum.name
        self._checksum = None if self._name is None else hasher(self._name)
        self._sha256: Hasher | None = None
        self._hashers: list[Hasher] = [self._md5]
        if self._checksum is not None:
            self._hashers.append(self._checksum)
        if body.sha256 is not None:
            if self._name == "sha256" and self._checksum is not None:
                self._sha256 = self._checksum
            else:
                self._sha256 = hashlib.sha256()
                self._hashers.append(self._sha256)
        self._running: asyncio.Future[None] | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str], body: S3Body, *, default: Checksum | None = DEFAULT) -> BodyHashes:
        """From Content-MD5 and the headers of checksums. Raises S3Error: one is malformed."""
        checksum = announced(headers, body.announced_trailer)
        return cls(body, md5=announced_md5(headers), checksum=checksum, default=default)

    @property
    def is_announced(self) -> bool:
        """The client says what the body is, beside what its signature says."""
        return self._announced_md5 is not None or self._announced is not None

    def update(self, data: bytes | bytearray) -> None:
        """Take in the next bytes. Where `is_behind`, `catch_up` comes before the next ones."""
        if len(data) <= INLINE_BYTES:
            _hash(self._hashers, data)
        else:
            self._running = asyncio.get_running_loop().run_in_executor(None, _hash, self._hashers, data)

    @property
    def is_behind(self) -> bool:
        """Bytes are being hashed."""
        return self._running is not None

    async def catch_up(self) -> None:
        """Wait until all bytes are hashed."""
        running, self._running = self._running, None
        if running is not None:
            await running

    def check(self) -> None:
        """The body is whole. Raises S3Error: it is not what was announced."""
        if self._sha256 is not None and self._sha256.digest() != self.body.sha256:
            raise S3Error(
                "XAmzContentSHA256Mismatch",
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
            )
        if self._announced_md5 is not None and self._md5.digest() != self._announced_md5:
            raise S3Error(
                "BadDigest",
                "The Content-MD5 you specified did not match what we received.",
                ExpectedDigest=encoded(self._announced_md5),
                CalculatedDigest=encoded(self._md5.digest()),
            )
        announced_checksum = self._announced
        if announced_checksum is not None and self._checksum is not None:
            expected = announced_checksum.after(self.body.trailers)
            if self._checksum.digest() != expected:
                raise announced_checksum.mismatch()

    def attributes(
        self, headers: Mapping[StoredHeader, str] = _NO_HEADERS, storage_class: str | None = None
    ) -> S3Attributes:
        """What the version or part is to have, when all bytes were hashed and checked."""
        checksums = (
            {} if self._checksum is None or self._name is None else {self._name: encoded(self._checksum.digest())}
        )
        # Of values made here: a validation would cost as much as the hashes of a small body.
        return S3Attributes.model_construct(
            etag=self._md5.hexdigest(),
            checksums=checksums,
            checksum_type="FULL_OBJECT",
            headers=dict(headers),
            storage_class=storage_class,
            part_sizes=[],
        )


def announced_md5(headers: Mapping[str, str]) -> bytes | None:
    """What Content-MD5 says. Raises S3Error, InvalidDigest: it is malformed."""
    value = headers.get("content-md5")
    if value is None:
        return None
    try:
        digest = base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _invalid_md5() from error
    if len(digest) != _MD5_BYTES:
        raise _invalid_md5()
    return digest


def _invalid_md5() -> S3Error:
    return S3Error("InvalidDigest", "The Content-MD5 you specified was invalid.")


def _hash(hashers: Sequence[Hasher], data: bytes | bytearray) -> None:
    for each in hashers:
        each.update(data)
