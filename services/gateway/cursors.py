"""List cursors: opaque to clients, stateless for us, and ours beyond doubt.

A cursor carries where the next page starts, the log index that all pages come from, and the id of the cluster whose log that
is: a restored cluster has another one, under the same secret perhaps. It is sealed with a key derived from the cluster secret,
so that any gateway of the cluster takes it and nobody can make one up.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from dataclasses import astuple, dataclass
from typing import Final

from blake3 import blake3

from shared.cluster_keys import ClusterKeys
from shared.errors import CursorExpiredError, InvalidRequestError

_FORMAT: Final = 2
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


class CursorSealer:
    """Seals with the first key and opens with any, so that cursors survive a rotation of the secret."""

    def __init__(self, keys: ClusterKeys, cluster_id: str) -> None:
        self._cluster_id = cluster_id
        self._keys = [blake3(key.secret, derive_key_context=_KEY_CONTEXT).digest() for key in keys.keys]

    def seal(self, cursor: Cursor) -> str:
        """Text for a query parameter."""
        payload = json.dumps(
            [_FORMAT, self._cluster_id, *astuple(cursor)], ensure_ascii=False, separators=(",", ":")
        ).encode()
        return base64.urlsafe_b64encode(_seal(self._keys[0], payload) + payload).decode().rstrip("=")

    def open(self, text: str) -> Cursor:
        """The cursor behind `text`.

        Raises:
            InvalidRequestError: this cluster did not make it; definite.
            CursorExpiredError: the cluster that this one was restored from made it; definite.
        """
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise _malformed() from error
        seal, payload = raw[:_SEAL_BYTES], raw[_SEAL_BYTES:]
        if not any(hmac.compare_digest(seal, _seal(key, payload)) for key in self._keys):
            raise _malformed()
        version, *fields = json.loads(payload)
        if version != _FORMAT:
            raise _malformed()
        cluster_id, *position = fields
        if cluster_id != self._cluster_id:
            raise CursorExpiredError("The cursor is of the cluster that this one was restored from; list again.")
        return Cursor(*position)


def _seal(key: bytes, payload: bytes) -> bytes:
    return blake3(payload, key=key).digest(_SEAL_BYTES)


def _malformed() -> InvalidRequestError:
    return InvalidRequestError("The cursor is not one that this cluster gave out; list again from the start.")
