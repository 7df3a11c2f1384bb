"""Identities and their access keys, as operators make, list, change and delete them.

Each call is one entry in the log, or linearizable reads: not the copy by which this gateway decides. The secret of a key leaves
with the answer to its creation, and by no other way.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from services.gateway.access.sealing import Sealer, check_secret
from services.gateway.ports import Metadata
from shared.access_keys import draw_key_id, draw_secret
from shared.contracts.access import (
    KEYS_PER_IDENTITY_MAX,
    AccessKey,
    CreateIdentity,
    CreateKey,
    DeleteIdentity,
    DeleteKey,
    GetIdentity,
    GetKey,
    Identity,
    IdentityId,
    IdentityLimits,
    KeyId,
    Never,
    Scope,
    UpdateIdentity,
    UpdateKey,
)
from shared.contracts.time import TimeSource
from shared.contracts.usage import GetUsage, UsageOf
from shared.errors import (
    ForbiddenError,
    IdentityNotFoundError,
    KeyNotFoundError,
    KeySlotTakenError,
    TooManyKeysError,
)

_SLOT_ATTEMPTS: Final = 5
_IDENTITY: Final[TypeAdapter[str]] = TypeAdapter(IdentityId)
_KEY: Final[TypeAdapter[str]] = TypeAdapter(KeyId)

State = Literal["active", "disabled"]


@dataclass(frozen=True, slots=True)
class IdentityWithKeys:
    """An identity and its keys by id, as they were at one log index. `realm`: what secrets are sealed for."""

    identity: Identity
    keys: list[AccessKey]
    realm: str


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A key, and its secret in plain, which is shown once."""

    key: AccessKey
    secret: str = field(repr=False)


class Identities:
    """Of the cluster. Without a sealing key nothing can be made: nobody could be known by it."""

    def __init__(self, metadata: Metadata, clock: TimeSource, sealer: Sealer | None) -> None:
        self._metadata = metadata
        self._clock = clock
        self._sealer = sealer

    async def create(self, name: str, *, is_root: bool, scopes: list[Scope], limits: IdentityLimits) -> Identity:
        """A new identity, without a key.

        Raises:
            TrivetError: as `Metadata.propose`.
        """
        self._sealing()
        identity = secrets.token_hex(32)
        stamp = self._clock.stamp()
        command = CreateIdentity(
            identity=identity, name=name, is_root=is_root, scopes=scopes, limits=limits, stamp=stamp
        )
        await self._metadata.propose(command)
        return (await self.get(identity)).identity

    async def get(self, identity: str) -> IdentityWithKeys:
        """One of them, with its keys by id.

        Raises:
            IdentityNotFoundError: there is none of that id; definite.
        """
        if not _is(_IDENTITY, identity):
            raise _no_identity(identity)
        answer, _ = await self._metadata.read(GetIdentity(identity=identity))
        if answer.identity is None or answer.realm is None:
            raise _no_identity(identity)
        return IdentityWithKeys(answer.identity, answer.keys, answer.realm)

    async def usage(self, identity: str) -> UsageOf:
        """How much there is of one that exists, or existed."""
        answer, _ = await self._metadata.read(GetUsage(identities=[identity]))
        return answer.identities[identity]

    async def update(
        self,
        identity: str,
        *,
        name: str | None,
        state: State | None,
        scopes: list[Scope] | None,
        limits: IdentityLimits | None,
    ) -> IdentityWithKeys:
        """Replace what is not None.

        Raises:
            IdentityNotFoundError: there is none of that id; definite.
            LastRootKeyError: nobody could administer the cluster any more; definite.
        """
        if not _is(_IDENTITY, identity):
            raise _no_identity(identity)
        command = UpdateIdentity(
            identity=identity, name=name, state=state, scopes=scopes, limits=limits, stamp=self._clock.stamp()
        )
        await self._metadata.propose(command)
        return await self.get(identity)

    async def delete(self, identity: str) -> None:
        """With its keys. Raises as `update`."""
        if not _is(_IDENTITY, identity):
            raise _no_identity(identity)
        await self._metadata.propose(DeleteIdentity(identity=identity, stamp=self._clock.stamp()))

    # --- keys -----------------------------------------------------------------------------------------------------

    async def create_key(
        self, identity: str, *, expires_ns: int | None, imported: tuple[str, str] | None = None
    ) -> CreatedKey:
        """A new key, or one with the id and the secret that another store gave out.

        Raises:
            IdentityNotFoundError, TooManyKeysError, KeyExistsError: definite.
            InvalidRequestError: the secret may not be imported; definite.
        """
        sealer = self._sealing()
        key_id, secret = (draw_key_id(), draw_secret()) if imported is None else imported
        check_secret(secret)
        for attempt in range(1, _SLOT_ATTEMPTS + 1):
            owner = await self.get(identity)
            slot = _free_slot(owner)
            command = CreateKey(
                key=key_id,
                identity=identity,
                slot=slot,
                secret=sealer.seal(owner.realm, key_id, slot, secret),
                expires_ns=expires_ns,
                stamp=self._clock.stamp(),
            )
            try:
                await self._metadata.propose(command)
                break
            except KeySlotTakenError:
                if attempt == _SLOT_ATTEMPTS:
                    raise
        return CreatedKey(await self.get_key(key_id), secret)

    async def get_key(self, key: str) -> AccessKey:
        """One of them.

        Raises:
            KeyNotFoundError: there is none of that id; definite.
        """
        if not _is(_KEY, key):
            raise _no_key(key)
        answer, _ = await self._metadata.read(GetKey(key=key))
        if answer.key is None:
            raise _no_key(key)
        return answer.key

    async def update_key(self, key: str, *, state: State | None, expires_ns: int | Never | None) -> AccessKey:
        """Replace what is not None; an end by `never` with none.

        Raises:
            KeyNotFoundError: there is none of that id; definite.
            LastRootKeyError: nobody could administer the cluster any more; definite.
        """
        if not _is(_KEY, key):
            raise _no_key(key)
        await self._metadata.propose(UpdateKey(key=key, state=state, expires_ns=expires_ns, stamp=self._clock.stamp()))
        return await self.get_key(key)

    async def delete_key(self, key: str) -> None:
        """It opens nothing any more. Raises as `update_key`."""
        if not _is(_KEY, key):
            raise _no_key(key)
        await self._metadata.propose(DeleteKey(key=key, stamp=self._clock.stamp()))

    def _sealing(self) -> Sealer:
        if self._sealer is None:
            raise ForbiddenError("Identities are switched off: this gateway has no sealing key.")
        return self._sealer


def _free_slot(owner: IdentityWithKeys) -> int:
    taken = {key.slot for key in owner.keys}
    for slot in range(KEYS_PER_IDENTITY_MAX):
        if slot not in taken:
            return slot
    raise TooManyKeysError(
        "The identity has as many keys as it may have; delete one first.", limit=KEYS_PER_IDENTITY_MAX
    )


def _is(kind: TypeAdapter[str], text: str) -> bool:
    # What the log would not take as an id was never given out as one.
    try:
        kind.validate_python(text)
    except ValidationError:
        return False
    return True


def _no_identity(identity: str) -> IdentityNotFoundError:
    return IdentityNotFoundError("There is no such identity.", identity=identity[:64])


def _no_key(key: str) -> KeyNotFoundError:
    return KeyNotFoundError("There is no such access key.", key=key[:64])
