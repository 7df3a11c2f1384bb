"""Secrets of access keys: sealed under a key that only gateways have, so that consensus, logs and backups never hold a plain one.

A signed link, and S3's signatures, need the secret itself, so it is sealed (AES-256-GCM) and not hashed. A bearer shows it;
then a MAC of it is compared, and nothing is unsealed. Seal and MAC both name the key they belong to: a row of the table with
the secret of another key opens nothing.

Two sealing keys may be in force: the first seals, both unseal, so that all secrets can be sealed anew under a new one.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.access_keys import SECRET_MAX, SECRET_MIN
from shared.contracts.access import SealedSecret
from shared.errors import InvalidRequestError

_NONCE_BYTES: Final = 12
_SECRET: Final = re.compile(rf"[\x21-\x7e]{{{SECRET_MIN},{SECRET_MAX}}}")


class Sealed(Protocol):
    """`SealedSecret`, or what a gateway keeps of one."""

    @property
    def sealing_key(self) -> str:
        """Id of the key that sealed it."""

    @property
    def sealed(self) -> bytes:
        """Nonce and ciphertext."""

    @property
    def bearer_mac(self) -> bytes:
        """By which whoever shows the secret is known."""


class SealedKey(Protocol):
    """`AccessKey`, or what a gateway keeps of one."""

    @property
    def id(self) -> str:
        """Of the access key."""

    @property
    def slot(self) -> int:
        """Among those of its identity."""

    @property
    def secret(self) -> Sealed:
        """Of the access key."""


class UnsealError(ValueError):
    """No sealing key in force opens the secret: it was sealed under another one, or is not that key's."""


@dataclass(frozen=True, slots=True)
class _SealingKey:
    """What is derived from one line of the file. `text`: the line itself."""

    id: str
    cipher: AESGCM = field(repr=False)
    mac_key: bytes = field(repr=False)
    text: str = field(repr=False)

    @classmethod
    def of(cls, text: str) -> Self:
        raw = text.encode()
        return cls(
            id=blake3(raw, derive_key_context="trivet 2026 sealing key id").hexdigest()[:8],
            cipher=AESGCM(blake3(raw, derive_key_context="trivet 2026 secrets of access keys").digest()),
            mac_key=blake3(raw, derive_key_context="trivet 2026 bearer mac").digest(),
            text=text,
        )


class Sealer:
    """Seals under the first key and unseals under any."""

    def __init__(self, lines: Sequence[str]) -> None:
        """`lines`: one or two random texts, as `GatewaySettings.read_sealing_keys` gives them."""
        self._keys = [_SealingKey.of(line) for line in lines]
        self._dummy_mac = secrets.token_bytes(32)

    @property
    def sealing_key(self) -> str:
        """Id of the key that seals."""
        return self._keys[0].id

    def seal(self, realm: str, key_id: str, slot: int, secret: str) -> SealedSecret:
        """Seal the secret of one access key."""
        key, nonce = self._keys[0], secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + key.cipher.encrypt(nonce, secret.encode(), _associated(realm, key_id, slot, key.id))
        return SealedSecret(sealing_key=key.id, sealed=sealed, bearer_mac=_mac(key, key_id, slot, secret))

    def unseal(self, realm: str, key: SealedKey) -> str:
        """The plain secret of `key`.

        Raises:
            UnsealError: it cannot be read here.
        """
        found = self._find(key.secret.sealing_key)
        if found is None:
            raise UnsealError(f"no sealing key in force has the id {key.secret.sealing_key}")
        nonce, sealed = key.secret.sealed[:_NONCE_BYTES], key.secret.sealed[_NONCE_BYTES:]
        try:
            return found.cipher.decrypt(nonce, sealed, _associated(realm, key.id, key.slot, found.id)).decode()
        except InvalidTag as error:
            raise UnsealError(f"the secret of {key.id} was not sealed for this key of this realm") from error

    def is_secret_of(self, key: SealedKey | None, secret: str) -> bool:
        """Whether `secret` is that of `key`; compared in constant time, and in the same time when there is no such key."""
        sealing_key = None if key is None else self._find(key.secret.sealing_key)
        if key is None or sealing_key is None:
            hmac.compare_digest(_mac(self._keys[0], _DUMMY_KEY, 0, secret), self._dummy_mac)
            return False
        return hmac.compare_digest(_mac(sealing_key, key.id, key.slot, secret), key.secret.bearer_mac)

    def is_current(self, key: SealedKey) -> bool:
        """Whether the secret of `key` is sealed under the first sealing key; else it is to be sealed anew."""
        return key.secret.sealing_key == self.sealing_key

    def derived(self, context: str, length_bytes: int) -> list[bytes]:
        """Keys for another purpose, one of each sealing key in force, that of the one that seals first."""
        return [blake3(key.text.encode(), derive_key_context=context).digest(length_bytes) for key in self._keys]

    def _find(self, sealing_key: str) -> _SealingKey | None:
        return next((key for key in self._keys if key.id == sealing_key), None)


def check_secret(secret: str) -> str:
    """`secret` itself, when it may be imported: long enough that nobody guesses it, of characters that a header may carry.

    Raises:
        InvalidRequestError: it may not; definite.
    """
    if not _SECRET.fullmatch(secret):
        raise InvalidRequestError(f"A secret has {SECRET_MIN}-{SECRET_MAX} visible ASCII characters.")
    return secret


_DUMMY_KEY: Final = "TV" + "0" * 18


def _mac(key: _SealingKey, key_id: str, slot: int, secret: str) -> bytes:
    # A secret may come from a header, and that may hold anything.
    message = f"{key_id}\n{slot}\n{secret}".encode("utf-8", "surrogatepass")
    return hmac.digest(key.mac_key, message, "sha256")


def _associated(realm: str, key_id: str, slot: int, sealing_key: str) -> bytes:
    return f"trivet secret 1\n{realm}\n{key_id}\n{slot}\n{sealing_key}".encode()
