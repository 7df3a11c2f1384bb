"""Keys by which the processes of a cluster prove to each other what they are: one for each ordered pair of roles (X-161).

Every key is derived from the cluster secret: `blake3(secret, derive_key_context="trivet 2026 peer key SENDER to RECEIVER")`.
Whoever starts the processes derives them and hands to each a file with the keys of its own pairs only, never the secret, so
that a storage node can prove nothing but that it is a storage node, and check nothing but what is sent to one.

    # comment
    role storage
    gateway storage 64 hex digits
    storage consensus 64 hex digits
    ...

A pair has one key, or two while the secret is rotated: the first signs, both are accepted. The file of a role has keys for all
of its pairs, and for no other.

A pair of a role with itself that makes no calls (`gateway gateway`, `operator operator`) seals what that role keeps for itself:
cursors of lists, and backups.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from blake3 import blake3

from shared.roles import Role

MIN_SECRET_BYTES: Final = 32
_MAX_GENERATIONS: Final = 2

Pair = tuple[Role, Role]
"""Sender and receiver."""

PAIRS: Final[tuple[Pair, ...]] = (
    (Role.GATEWAY, Role.GATEWAY),
    (Role.GATEWAY, Role.STORAGE),
    (Role.GATEWAY, Role.CONSENSUS),
    (Role.GATEWAY, Role.CLOCK),
    (Role.STORAGE, Role.STORAGE),
    (Role.STORAGE, Role.CONSENSUS),
    (Role.STORAGE, Role.CLOCK),
    (Role.CONSENSUS, Role.CONSENSUS),
    (Role.CONSENSUS, Role.CLOCK),
    (Role.OPERATOR, Role.OPERATOR),
    (Role.OPERATOR, Role.STORAGE),
    (Role.OPERATOR, Role.CONSENSUS),
    (Role.OPERATOR, Role.CLOCK),
)
"""Who calls whom. Gateways have no internal port, and a clock calls nobody."""

_KEY: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key and its public id, by which a receiver finds it.

    Attributes:
        sender: whom it proves.
    """

    id: str
    secret: bytes = field(repr=False)
    sender: Role

    @classmethod
    def of(cls, secret: bytes, sender: Role) -> Self:
        """The key with its id."""
        return cls(blake3(secret, derive_key_context="trivet 2026 key id").hexdigest()[:8], secret, sender)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Keys of one use: the first signs, every one verifies."""

    keys: tuple[SigningKey, ...]

    @property
    def signing(self) -> SigningKey:
        """The key that signs."""
        return self.keys[0]

    def find(self, key_id: str) -> SigningKey | None:
        """The accepted key of that id."""
        return next((key for key in self.keys if key.id == key_id), None)


@dataclass(frozen=True, slots=True)
class PeerKeys:
    """What one process proves itself with, and what it checks others by.

    Attributes:
        pairs: of every pair that has `role` in it.
    """

    role: Role
    pairs: Mapping[Pair, KeyRing]

    @classmethod
    def parse(cls, text: str) -> Self:
        """The text of a key file. Raises ValueError, which never says a key."""
        lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if not lines or len(lines[0]) != 2 or lines[0][0] != "role" or lines[0][1] not in list(Role):
            raise ValueError("the file of peer keys begins with a line such as `role storage`")
        role = Role(lines[0][1])
        found: dict[Pair, list[SigningKey]] = {pair: [] for pair in PAIRS if role in pair}
        for number, fields in enumerate(lines[1:], 2):
            pair, key = _parse_line(fields, number)
            if pair not in found:
                raise ValueError(f"the file of peer keys of a {role} has a key of {pair[0]} to {pair[1]}")
            found[pair].append(SigningKey.of(key, pair[0]))
        for (sender, receiver), keys in found.items():
            if not 1 <= len(keys) <= _MAX_GENERATIONS:
                raise ValueError(
                    f"the file of peer keys of a {role} has {len(keys)} keys of {sender} to {receiver}; "
                    "it needs one, or two while they are rotated"
                )
        return cls(role, {pair: KeyRing(tuple(keys)) for pair, keys in found.items()})

    def to(self, receiver: Role) -> KeyRing | None:
        """By which this process proves itself to `receiver`; None when it never calls one."""
        return self.pairs.get((self.role, receiver))

    def accepted(self) -> KeyRing:
        """By which others prove themselves to this process."""
        return KeyRing(
            tuple(key for (_, receiver), ring in self.pairs.items() if receiver is self.role for key in ring.keys)
        )

    def private(self) -> KeyRing:
        """For what processes of this role keep for themselves."""
        return self.pairs[self.role, self.role]


def key_file(cluster_secret: str, role: Role) -> str:
    """The text of the key file of a process, derived from the one or two lines of the cluster secret. Raises ValueError."""
    secrets = _secrets_in(cluster_secret)
    keys = [
        f"{sender} {receiver} {_derive(secret, sender, receiver).hex()}"
        for sender, receiver in PAIRS
        if role in (sender, receiver)
        for secret in secrets
    ]
    return "\n".join([f"# Trivet peer keys of a {role}, derived from the cluster secret.", f"role {role}", *keys, ""])


def derive_peer_keys(cluster_secret: str, role: Role) -> PeerKeys:
    """What a process of that role gets. Raises ValueError."""
    return PeerKeys.parse(key_file(cluster_secret, role))


def seals_of_0_2_0(cluster_secret: str) -> KeyRing:
    """By which version 0.2.0, which knew no pairs, sealed backups: the secret itself. Raises ValueError."""
    return KeyRing(tuple(SigningKey.of(secret, Role.OPERATOR) for secret in _secrets_in(cluster_secret)))


def _secrets_in(text: str) -> list[bytes]:
    lines = [line.strip().encode() for line in text.splitlines() if line.strip()]
    if not 1 <= len(lines) <= _MAX_GENERATIONS:
        raise ValueError("the cluster secret has one line, or two while it is rotated")
    for line in lines:
        if len(line) < MIN_SECRET_BYTES:
            raise ValueError(f"the cluster secret has {len(line)} bytes; it needs at least {MIN_SECRET_BYTES}")
    return lines


def _derive(secret: bytes, sender: Role, receiver: Role) -> bytes:
    return blake3(secret, derive_key_context=f"trivet 2026 peer key {sender} to {receiver}").digest()


def _parse_line(fields: list[str], number: int) -> tuple[Pair, bytes]:
    if len(fields) != 3 or _KEY.fullmatch(fields[2]) is None:
        raise ValueError(f"line {number} of the file of peer keys is not of the form `gateway storage 64-hex-digits`")
    pair = next((pair for pair in PAIRS if [*pair] == fields[:2]), None)
    if pair is None:
        raise ValueError(f"line {number} of the file of peer keys names a pair of roles that does not exist")
    return pair, bytes.fromhex(fields[2])
