"""The cluster secret as keys: one that signs, one or two that are accepted, so that the secret can be rotated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

MIN_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One secret and its public id, by which a receiver finds it."""

    id: str
    secret: bytes = field(repr=False)

    @classmethod
    def from_secret(cls, secret: str) -> SigningKey:
        """Raises ValueError when the secret is shorter than `MIN_SECRET_BYTES`."""
        raw = secret.encode()
        if len(raw) < MIN_SECRET_BYTES:
            raise ValueError(f"the cluster secret has {len(raw)} bytes; it needs at least {MIN_SECRET_BYTES}")
        return cls(blake3(raw, derive_key_context="trivet 2026 key id").hexdigest()[:8], raw)


@dataclass(frozen=True, slots=True)
class ClusterKeys:
    """The keys in force: the first signs, every one verifies."""

    keys: tuple[SigningKey, ...]

    @classmethod
    def parse(cls, text: str) -> ClusterKeys:
        """One or two secrets, one per line. Raises ValueError."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not 1 <= len(lines) <= 2:
            raise ValueError("the cluster secret has one line, or two while it is rotated")
        return cls(tuple(SigningKey.from_secret(line) for line in lines))

    @property
    def signing(self) -> SigningKey:
        """The key that signs."""
        return self.keys[0]

    def find(self, key_id: str) -> SigningKey | None:
        """The accepted key of that id."""
        return next((key for key in self.keys if key.id == key_id), None)
