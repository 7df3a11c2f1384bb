"""Short ways to say identities, keys, and whom a change is made for."""

from typing import Any

from shared.contracts.access import (
    AccessChanges,
    CreateIdentity,
    CreateKey,
    InitAccess,
    ListAccessChanges,
    Requester,
    SealedRow,
    SealedSecret,
)
from tests.unit.consensus.metadata.builders import Log, stamp

REALM = "5e" * 16
ROOT = "a" * 64


def identity_id(n: int) -> str:
    return f"{n:064x}"


def key_id(n: int) -> str:
    return f"TV{n:018d}"


def secret(fill: int = 1, *, sealing_key: str = "00000001") -> SealedSecret:
    return SealedSecret(sealing_key=sealing_key, sealed=bytes((fill,)) * 68, bearer_mac=bytes((fill,)) * 32)


def sealed(fill: int = 1, *, sealing_key: str = "00000001") -> SealedRow:
    """`secret` as answers show it."""
    return SealedRow(**secret(fill, sealing_key=sealing_key).model_dump())


def create_identity(identity: str, **changes: Any) -> CreateIdentity:
    return CreateIdentity(**{"identity": identity, "name": "somebody", "stamp": stamp()} | changes)


def create_key(key: str, identity: str, **changes: Any) -> CreateKey:
    return CreateKey(**{"key": key, "identity": identity, "slot": 0, "secret": secret(), "stamp": stamp()} | changes)


def init(log: Log) -> None:
    """The realm, and a root identity with key 0."""
    log.apply(InitAccess(realm=REALM, stamp=stamp()))
    log.apply(create_identity(ROOT, name="root", is_root=True))
    log.apply(create_key(key_id(0), ROOT))


def access_index(log: Log) -> int:
    return log.store.answer([], term=1).access_index


def by(log: Log, principal: str, key: str | None = None, *, at: int | None = None) -> Requester:
    """A requester whose gateway knows everything up to now, or up to `at`."""
    return Requester(principal=principal, key=key, access_index=access_index(log) if at is None else at)


def changes(log: Log, **fields: Any) -> AccessChanges:
    answer = log.ask(ListAccessChanges(**fields))
    assert isinstance(answer, AccessChanges)
    return answer
