"""Remembers which bearers were right: looking one up costs a tenth of the MAC by which it is proved.

No secret is kept, but a hash of the header under a key that nobody else has and that dies with the process.
"""

from __future__ import annotations

import secrets
from typing import Final

from blake3 import blake3

PROOFS_MAX: Final = 4096


class Proofs:
    """Invariant: all of them were found with the rows of one edition of the table: another row may have another secret."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._edition = -1
        self._keys: dict[bytes, str] = {}

    def find(self, authorization: bytes, edition: int) -> str | None:
        """The id of the key whose secret the header shows, if that was found before."""
        if edition != self._edition:
            return None
        return self._keys.get(blake3(authorization, key=self._key).digest())

    def put(self, authorization: bytes, edition: int, key_id: str) -> None:
        """It shows the secret of that key."""
        if edition != self._edition or len(self._keys) >= PROOFS_MAX:
            self._edition = edition
            self._keys.clear()
        self._keys[blake3(authorization, key=self._key).digest()] = key_id
