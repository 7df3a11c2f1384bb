"""List cursors: opaque to clients, stateless for us, and ours beyond doubt (G-28).

A cursor carries where the next page starts, for files with the log index that all pages come from. It is sealed with a key
that gateways alone have, so that any gateway of the cluster takes it and nobody can make one up, and it names its cluster: a
restored one may have the same keys and gives its indexes other meanings.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from dataclasses import astuple, dataclass
from typing import Final, TypeVar

from blake3 import blake3

from shared.cluster_keys import KeyRing
from shared.errors import CursorExpiredError, InvalidRequestError

_SEAL_BYTES: Final = 16
_KEY_CONTEXT: Final = "trivet 2026 list cursor"


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


_FORMATS: Final[dict[type, int]] = {Cursor: 2, BucketCursor: 3, VersionCursor: 4, UploadCursor: 5}
"""What a cursor begins with. 1 was that of files before cursors named their cluster."""

CursorT = TypeVar("CursorT", Cursor, BucketCursor, VersionCursor, UploadCursor)


class CursorSealer:
    """Seals with the first key and opens with any, so that cursors survive a rotation of the keys."""

    def __init__(self, keys: KeyRing, cluster_id: str) -> None:
        self._cluster_id = cluster_id
        self._keys = [blake3(key.secret, derive_key_context=_KEY_CONTEXT).digest() for key in keys.keys]

    def seal(self, cursor: Cursor | BucketCursor | VersionCursor | UploadCursor) -> str:
        """Text for a query parameter."""
        fields = [_FORMATS[type(cursor)], self._cluster_id, *astuple(cursor)]
        payload = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(_seal(self._keys[0], payload) + payload).decode().rstrip("=")

    def open(self, text: str, kind: type[CursorT]) -> CursorT:
        """The cursor behind `text`.

        Raises:
            InvalidRequestError: this cluster did not make it, or for another list; definite.
            CursorExpiredError: it is from another cluster with the same keys, as before a restore; definite.
        """
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise _malformed() from error
        seal, payload = raw[:_SEAL_BYTES], raw[_SEAL_BYTES:]
        if not any(hmac.compare_digest(seal, _seal(key, payload)) for key in self._keys):
            raise _malformed()
        version, *fields = json.loads(payload)
        if version != _FORMATS[kind]:
            raise _malformed()
        cluster_id, *place = fields
        if cluster_id != self._cluster_id:
            raise CursorExpiredError("The cursor is of the cluster that this one was restored from; list again.")
        return kind(*place)


def _seal(key: bytes, payload: bytes) -> bytes:
    return blake3(payload, key=key).digest(_SEAL_BYTES)


def _malformed() -> InvalidRequestError:
    return InvalidRequestError("The cursor is not one that this cluster gave out; list again from the start.")
