"""The rows of identities and their keys, in order of change: gateways keep copies and ask for what changed since.

A deleted row stays as a tombstone, without its name, scopes and secret, so that a gateway learns that it is gone. When tombstones
are forgotten, the horizon says so: a gateway whose copy is older starts anew (C-175).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
from pydantic import Field

from services.consensus.metadata.database import checked, checked_all
from services.consensus.metadata.tables import Tables
from shared.contracts.access import AccessKey, Identity, IdentityLimits, Scope, SealedRow
from shared.contracts.base import WireModel

ACTIVE: Final = "active"
DELETED: Final = "deleted"

_HORIZON: Final = "access"
_IDENTITIES: Final = "SELECT identity, name, is_root, state, created_ns, body, changed_index, checksum FROM identities"
_KEYS: Final = (
    "SELECT key, identity, slot, state, created_ns, expires_ns, last_used_hour, sealing_key, sealed, bearer_mac, "
    "changed_index, checksum FROM access_keys"
)
_USABLE_ROOT_KEY: Final = (
    "SELECT 1 FROM identities JOIN access_keys USING (identity) WHERE is_root=1 AND identities.state='active' "
    "AND identity<>?1 AND access_keys.state<>'deleted' AND access_keys.state='active' AND key<>?2 "
    "AND (expires_ns IS NULL OR expires_ns>?3) LIMIT 1"
)
# Rows of one change come in the order of their ids, as the index has them.
_CHANGED: Final = "WHERE changed_index>? AND changed_index<=? ORDER BY changed_index"
# Both halves come from an index in this order already: SQLite merges them, and stops at the row that is asked for.
_NTH_CHANGE: Final = (
    "SELECT changed_index FROM identities WHERE changed_index>?1 UNION ALL "
    "SELECT changed_index FROM access_keys WHERE changed_index>?1 ORDER BY changed_index LIMIT 1 OFFSET ?2"
)


class _Grants(WireModel):
    """The body of an identity's row. Defaults are left out, so that fields to come change no row that lacks them."""

    scopes: list[Scope] = Field(default_factory=list)
    limits: IdentityLimits = IdentityLimits()


def encode_grants(scopes: list[Scope], limits: IdentityLimits) -> bytes:
    """The body of an identity's row."""
    return _Grants(scopes=scopes, limits=limits).model_dump_json(exclude_defaults=True).encode()


class IdentityRow(NamedTuple):
    """An identity, or the tombstone of one. `body`: its scopes and limits."""

    identity: str
    name: str
    is_root: int
    state: str
    created_ns: int
    body: bytes
    changed_index: int

    @property
    def is_deleted(self) -> bool:
        """Whether it is a tombstone."""
        return self.state == DELETED

    def deleted(self, index: int) -> IdentityRow:
        """Its tombstone."""
        return IdentityRow(self.identity, "", self.is_root, DELETED, self.created_ns, b"", index)

    def grants(self) -> tuple[list[Scope], IdentityLimits]:
        """The inverse of `encode_grants`."""
        grants = _Grants.model_validate_json(self.body)
        return grants.scopes, grants.limits

    def to_wire(self) -> Identity:
        """As answers show it; not of a tombstone."""
        return Identity.model_validate(
            {
                "id": self.identity,
                "name": self.name,
                "is_root": bool(self.is_root),
                "state": self.state,
                "created_ns": self.created_ns,
                "changed_index": self.changed_index,
                **msgspec.json.decode(self.body),
            }
        )


class KeyRow(NamedTuple):
    """A key, or the tombstone of one."""

    key: str
    identity: str
    slot: int
    state: str
    created_ns: int
    expires_ns: int | None
    last_used_hour: int | None
    sealing_key: str
    sealed: bytes
    bearer_mac: bytes
    changed_index: int

    @property
    def is_deleted(self) -> bool:
        """Whether it is a tombstone."""
        return self.state == DELETED

    def is_usable(self, now_ns: int) -> bool:
        """Whether it opens something, as far as it depends on the key."""
        return self.state == ACTIVE and (self.expires_ns is None or self.expires_ns > now_ns)

    def deleted(self, index: int) -> KeyRow:
        """Its tombstone: the secret is gone."""
        return KeyRow(self.key, self.identity, self.slot, DELETED, self.created_ns, None, None, "", b"", b"", index)

    def to_wire(self) -> AccessKey:
        """As answers show it; not of a tombstone."""
        return AccessKey(
            id=self.key,
            identity=self.identity,
            slot=self.slot,
            secret=SealedRow(self.sealing_key, self.sealed, self.bearer_mac),
            state="active" if self.state == ACTIVE else "disabled",
            created_ns=self.created_ns,
            expires_ns=self.expires_ns,
            last_used_hour=self.last_used_hour,
            changed_index=self.changed_index,
        )


class AccessRecords:
    """On the same connection as `tables`."""

    def __init__(self, tables: Tables) -> None:
        self._database = tables.database
        self._execute = tables.database.execute
        self._one = tables.database.one

    def identity(self, identity: str) -> IdentityRow | None:
        """The tombstone of a deleted one, until it is forgotten."""
        row = self._one(f"{_IDENTITIES} WHERE identity=?", (identity,))
        return None if row is None else IdentityRow(*checked("identities", row))

    def put_identity(self, row: IdentityRow) -> None:
        """From now on."""
        if (before := self.identity(row.identity)) is not None:
            self._database.remove("identities", *before)
        self._database.insert("identities", *row)

    def identities(self, after: str, limit: int) -> list[IdentityRow]:
        """Those that are not deleted and whose ids come after one, by id."""
        rows = self._execute(
            f"{_IDENTITIES} WHERE identity>? AND state<>'deleted' ORDER BY identity LIMIT ?", (after, limit)
        )
        return [IdentityRow(*checked("identities", row)) for row in rows.fetchall()]

    def key(self, key: str) -> KeyRow | None:
        """The tombstone of a deleted one, until it is forgotten."""
        row = self._one(f"{_KEYS} WHERE key=?", (key,))
        return None if row is None else KeyRow(*checked("access_keys", row))

    def keys_of(self, identity: str) -> list[KeyRow]:
        """Those of one identity that are not deleted, by id."""
        rows = self._execute(f"{_KEYS} WHERE identity=? AND state<>'deleted' ORDER BY key", (identity,))
        return [KeyRow(*checked("access_keys", row)) for row in rows.fetchall()]

    def put_key(self, row: KeyRow) -> None:
        """From now on."""
        if (before := self.key(row.key)) is not None:
            self._database.remove("access_keys", *before)
        self._database.insert("access_keys", *row)

    def has_usable_root_key(self, now_ns: int, *, but_identity: str = "", but_key: str = "") -> bool:
        """Whether anybody may administer the cluster: the identity and the key are active, and the key has not expired."""
        return self._one(_USABLE_ROOT_KEY, (but_identity, but_key, now_ns)) is not None

    # --- changes --------------------------------------------------------------------------------------------------

    def nth_change(self, after: int, nth: int) -> int | None:
        """`changed_index` of the `nth` row that changed after an index, from 0; None when there are not so many."""
        row = self._one(_NTH_CHANGE, (after, nth))
        return None if row is None else int(row[0])

    def changed_identities(self, after: int, up_to: int) -> list[IdentityRow]:
        """Rows that changed after the one and up to the other index, tombstones included, in that order."""
        rows = self._execute(f"{_IDENTITIES} {_CHANGED}", (after, up_to))
        return [IdentityRow._make(row) for row in checked_all("identities", rows.fetchall())]

    def changed_keys(self, after: int, up_to: int) -> list[KeyRow]:
        """Rows that changed after the one and up to the other index, tombstones included, in that order."""
        rows = self._execute(f"{_KEYS} {_CHANGED}", (after, up_to))
        return [KeyRow._make(row) for row in checked_all("access_keys", rows.fetchall())]

    # --- forgetting -----------------------------------------------------------------------------------------------

    def horizon(self) -> int:
        """The highest index of a deletion that is forgotten; 0 for none."""
        row = self._one("SELECT name, log_index, checksum FROM horizons WHERE name=?", (_HORIZON,))
        return 0 if row is None else int(checked("horizons", row)[1])

    def forget(self, up_to_index: int, limit: int) -> int:
        """Forget at most so many tombstones, none of a deletion after `up_to_index`; how many it were."""
        oldest = "WHERE state='deleted' AND changed_index<=? ORDER BY changed_index LIMIT ?"
        keys = self._execute(f"{_KEYS} {oldest}", (up_to_index, limit)).fetchall()
        identities = self._execute(f"{_IDENTITIES} {oldest}", (up_to_index, max(limit - len(keys), 0))).fetchall()
        forgotten = [("access_keys", row) for row in keys] + [("identities", row) for row in identities]
        for table, row in forgotten:
            self._database.remove(table, *checked(table, row))
        if forgotten:
            self._raise_horizon(max(row[-2] for _, row in forgotten))
        return len(forgotten)

    def _raise_horizon(self, index: int) -> None:
        if (before := self.horizon()) >= index:
            return
        if before:
            self._database.remove("horizons", _HORIZON, before)
        self._database.insert("horizons", _HORIZON, index)
