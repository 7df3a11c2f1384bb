"""List cursors: opaque to clients, stateless for us, and ours beyond doubt (G-28).

A cursor carries where the next page starts, for files with the log index that all pages come from. It is encrypted under a key
that only gateways have, so that any of them takes it, nobody can make one up, and it tells no name that its list did not show.
It belongs to the principal whose list it is of, and it names its cluster: a restored one may have the same keys and gives its
indexes other meanings.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Final, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from shared.errors import CursorExpiredError, InvalidRequestError

CURSOR_KEY_BYTES: Final = 64
CURSOR_KEY_CONTEXT: Final = "trivet 2026 list cursors"
"""What the keys of cursors are derived for."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next page of one list. One of `after_key` and `after_prefix` is set."""

    bucket: str
    prefix: str
    delimiter: str | None
    after_key: str | None
    after_prefix: str | None
    at_index: int


@dataclass(frozen=True, slots=True)
class BucketCursor:
    """The next page of the list of buckets."""

    after: str


@dataclass(frozen=True, slots=True)
class VersionCursor:
    """The next page of one list of versions. Without `after_version` all of `after_key`, or of that prefix, is behind it."""

    bucket: str
    prefix: str
    delimiter: str | None
    key: str | None
    after_key: str
    after_version: int | None


@dataclass(frozen=True, slots=True)
class UploadCursor:
    """The next page of one list of uploads. Without `after_upload` all of `after_key`, or of that prefix, is behind it."""

    bucket: str
    prefix: str
    delimiter: str | None
    after_key: str
    after_upload: int | None


@dataclass(frozen=True, slots=True)
class IdentityCursor:
    """The next page of the list of identities."""

    after: str


AnyCursor = Cursor | BucketCursor | VersionCursor | UploadCursor | IdentityCursor

_FORMATS: Final[dict[type, int]] = {Cursor: 2, BucketCursor: 3, VersionCursor: 4, UploadCursor: 5, IdentityCursor: 6}
"""What a cursor begins with. 1 was that of files before cursors named their cluster."""

CursorT = TypeVar("CursorT", Cursor, BucketCursor, VersionCursor, UploadCursor, IdentityCursor)


class CursorSealer:
    """Seals with the first key and opens with any, so that cursors survive a rotation of the secret."""

    def __init__(self, keys: Sequence[bytes], cluster_id: str) -> None:
        """`keys`: of `CURSOR_KEY_BYTES` each."""
        self.cluster_id = cluster_id
        # Deterministic (RFC 5297): the nonces of a cipher with some would repeat after some billions of pages.
        self._ciphers = [AESSIV(key) for key in keys]

    def seal(self, cursor: AnyCursor, principal: str) -> str:
        """Text for a query parameter, which only `principal` can use."""
        fields = [_FORMATS[type(cursor)], self.cluster_id, *astuple(cursor)]
        payload = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
        return self.seal_bytes(payload, principal.encode())

    def open(self, text: str, kind: type[CursorT], principal: str) -> CursorT:
        """The cursor behind `text`.

        Raises:
            InvalidRequestError: this cluster did not make it, or for another list or principal; definite.
            CursorExpiredError: it is from another cluster with the same secret, as before a restore; definite.
        """
        version, *fields = json.loads(self.open_bytes(text, principal.encode()))
        if version != _FORMATS[kind]:
            raise _malformed()
        cluster_id, *place = fields
        if cluster_id != self.cluster_id:
            raise CursorExpiredError("The cursor is of the cluster that this one was restored from; list again.")
        return kind(*place)

    def seal_bytes(self, payload: bytes, belongs_to: bytes) -> str:
        """Text that opens only with the same `belongs_to`: the id of a principal, or what cannot be one."""
        sealed = self._ciphers[0].encrypt(payload, [belongs_to])
        return base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def open_bytes(self, text: str, belongs_to: bytes) -> bytes:
        """What `seal_bytes` was given. Raises InvalidRequestError: it gave no such text; definite."""
        try:
            sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise _malformed() from error
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(sealed, [belongs_to])
            except (InvalidTag, ValueError):
                continue
        raise _malformed()


def _malformed() -> InvalidRequestError:
    return InvalidRequestError("The cursor is not one that this cluster gave you; list again from the start.")
