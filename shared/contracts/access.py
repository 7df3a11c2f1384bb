"""Who may do what: identities, their keys, and the principal of a change. Commands, queries and answers.

Part of the commands, queries and answers of `shared.contracts.metadata`, which says how they are sent. All of it came with
entries of version 4.

A *principal* is whoever a request is made by: an identity, `anonymous`, or the system itself. The *access index* is the log
index of the newest change of what decides who may do what. A gateway decides by a copy of these rows, and says with every
change by which access index it decided; `apply` refuses the change when something about its principal changed since.

A secret never crosses this border in plain: consensus has it sealed under a key that only gateways have.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from shared.contracts.base import WireModel, WireRow
from shared.contracts.calls import Command, NoResult, Query
from shared.contracts.time import Stamp

KEYS_PER_IDENTITY_MAX: Final = 5
SCOPES_MAX: Final = 64
ACCESS_PAGE_MAX: Final = 1000
KEY_USES_MAX: Final = 250

ANONYMOUS: Final = "anonymous"
"""The principal of a request that carries no credential. It has no rows: what it may do depends on buckets alone."""
SYSTEM: Final = "system"
"""The principal of what Trivet does by itself. It may do everything, so that no change of access concerns it."""

ACCESS_DOCUMENTS: Final = frozenset({"policy", "acl", "public-access-block"})
"""Kinds of bucket documents that say who may do what in the bucket: one that is put or deleted raises the access index."""

IdentityId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
KeyId = Annotated[str, Field(pattern=r"^TV[A-Z0-9]{18}$")]
PrincipalId = Annotated[str, Field(pattern=r"^([0-9a-f]{64}|anonymous|system)$")]
IdentityName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
Realm = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
LogIndex = Annotated[int, Field(ge=0, lt=2**63)]


class Action(StrEnum):
    """What a scope allows or denies. Reading a file is not listing its name, and writing one is not deleting it."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    LIST = "list"
    BUCKET_ADMIN = "bucket-admin"
    CLUSTER_ADMIN = "cluster-admin"


class Scope(WireModel):
    """Actions on the files of a bucket below a prefix.

    Attributes:
        bucket: its name, or `*` for every bucket. `cluster-admin` is allowed with `*` and no prefix alone.
        prefix: empty for the whole bucket, else it ends with `/`, so that `photos/` never means `photos-of-others`.
    """

    effect: Literal["allow", "deny"] = "allow"
    actions: list[Action] = Field(min_length=1, max_length=len(Action))
    bucket: str = Field(min_length=1, max_length=63)
    prefix: str = Field(default="", max_length=1024, pattern=r"^$|/$")


class IdentityLimits(WireModel):
    """None for no limit. Bytes are logical: of all versions and parts that the identity wrote, copies counted each.

    Attributes:
        requests_per_s, bytes_per_s: at each gateway.
    """

    quota_bytes: int | None = Field(default=None, ge=0, lt=2**63)
    quota_files: int | None = Field(default=None, ge=0, lt=2**63)
    requests_per_s: int | None = Field(default=None, ge=1, le=10**6)
    bytes_per_s: int | None = Field(default=None, ge=1024, lt=2**53)


class Identity(WireModel):
    """A person or program. `is_root`: may do everything, whatever its scopes say. `changed_index`: of its last change."""

    id: IdentityId
    name: IdentityName
    is_root: bool = False
    state: Literal["active", "disabled"] = "active"
    scopes: list[Scope] = Field(default_factory=list, max_length=SCOPES_MAX)
    limits: IdentityLimits = IdentityLimits()
    created_ns: int
    changed_index: LogIndex


class SealedSecret(WireModel):
    """A secret that only gateways can read.

    Attributes:
        sealing_key: id of the key that sealed it.
        sealed: nonce and AES-256-GCM ciphertext; realm, id of the key, slot and `sealing_key` are authenticated with it.
        bearer_mac: HMAC-SHA-256 of id of the key, slot and secret, under a key that is derived from the sealing key: whoever
            shows the secret is known by it, without unsealing.
    """

    sealing_key: str = Field(pattern=r"^[0-9a-f]{8}$")
    sealed: bytes = Field(min_length=28, max_length=512)
    bearer_mac: bytes = Field(min_length=32, max_length=32)


class SealedRow(WireRow, frozen=True, gc=False):
    """`SealedSecret` in an answer."""

    sealing_key: str
    sealed: bytes
    bearer_mac: bytes


class AccessKey(WireRow, frozen=True, gc=False, kw_only=True):
    """An id and a secret by which an identity proves itself. `last_used_hour`: hours since 1970, None before the first use."""

    id: str
    identity: str
    slot: int
    secret: SealedRow
    state: Literal["active", "disabled"] = "active"
    created_ns: int
    expires_ns: int | None = None
    last_used_hour: int | None = None
    changed_index: int


class Requester(WireModel):
    """Whom a change is made for.

    Attributes:
        principal: of the request.
        key: by which it proved itself; None for anonymous and system.
        access_index: of the rows by which the change was allowed.
        request: the id by which the request is found in logs.
        address: of the client, as the gateway sees it.
    """

    principal: PrincipalId
    key: KeyId | None = None
    access_index: LogIndex = 0
    request: str = Field(default="", max_length=128)
    address: str = Field(default="", max_length=64)


BY_SYSTEM: Final = Requester(principal=SYSTEM)
"""Of what a gateway does by itself."""


# --- commands -----------------------------------------------------------------------------------------------------


class AccessRealm(WireModel):
    """The realm in force."""

    realm: Realm


class InitAccess(Command[AccessRealm]):
    """Name the realm that secrets are sealed for. The first one counts for ever; backup, restore and rescue keep it."""

    kind: Literal["init_access"] = "init_access"
    realm: Realm
    stamp: Stamp


class AccessChanged(WireModel):
    """`changed_index`: of the change, which is the access index from here on."""

    changed_index: LogIndex


class CreateIdentity(Command[AccessChanged]):
    """Rejected: identity_exists, access_not_initialised."""

    kind: Literal["create_identity"] = "create_identity"
    identity: IdentityId
    name: IdentityName
    is_root: bool = False
    scopes: list[Scope] = Field(default_factory=list, max_length=SCOPES_MAX)
    limits: IdentityLimits = IdentityLimits()
    stamp: Stamp


class UpdateIdentity(Command[AccessChanged]):
    """What is not None is replaced. Rejected: identity_not_found, last_root_key."""

    kind: Literal["update_identity"] = "update_identity"
    identity: IdentityId
    name: IdentityName | None = None
    state: Literal["active", "disabled"] | None = None
    scopes: list[Scope] | None = Field(default=None, max_length=SCOPES_MAX)
    limits: IdentityLimits | None = None
    stamp: Stamp


class DeleteIdentity(Command[AccessChanged]):
    """It is gone, and its keys with it. Rejected: identity_not_found, last_root_key."""

    kind: Literal["delete_identity"] = "delete_identity"
    identity: IdentityId
    stamp: Stamp


class CreateKey(Command[AccessChanged]):
    """Rejected: identity_not_found, key_exists, too_many_keys, key_slot_taken."""

    kind: Literal["create_key"] = "create_key"
    key: KeyId
    identity: IdentityId
    slot: int = Field(ge=0, lt=KEYS_PER_IDENTITY_MAX)
    secret: SealedSecret
    expires_ns: int | None = Field(default=None, ge=0, lt=2**63)
    stamp: Stamp


Never = Literal["never"]


class UpdateKey(Command[AccessChanged]):
    """What is not None is replaced. Rejected: key_not_found, last_root_key.

    Attributes:
        expires_ns: `never` takes away the end that the key had.
        secret: the same one, sealed under another key.
    """

    kind: Literal["update_key"] = "update_key"
    key: KeyId
    state: Literal["active", "disabled"] | None = None
    expires_ns: Annotated[int, Field(ge=0, lt=2**63)] | Never | None = None
    secret: SealedSecret | None = None
    stamp: Stamp


class DeleteKey(Command[AccessChanged]):
    """It opens nothing any more. Rejected: key_not_found, last_root_key."""

    kind: Literal["delete_key"] = "delete_key"
    key: KeyId
    stamp: Stamp


class RecordKeyUse(Command[NoResult]):
    """Keys were used in an hour. No change of access: the access index stays. Keys that are gone are passed over."""

    kind: Literal["record_key_use"] = "record_key_use"
    keys: list[KeyId] = Field(min_length=1, max_length=KEY_USES_MAX)
    hour: int = Field(ge=0, lt=2**31)
    stamp: Stamp


# --- queries ------------------------------------------------------------------------------------------------------


class AccessChanges(WireModel):
    """Rows that changed after an index, by `changed_index`, ascending; all rows of one change are on one page.

    Attributes:
        realm: None before InitAccess.
        is_full: everything is sent from the start, because what was deleted since is not known any more: the asker forgets
            what it has.
        identities, keys: as they are now.
        deleted: ids of identities and keys that are gone.
        next_after: ask again after this index, and with `walk`; both are None on the last page.
        walk: up to which index the asker knows what was deleted. If more than that was forgotten before it has the last page,
            the walk begins anew with a page that `is_full`.
        access_index: that of the state that answered; the asker has it once it has the last page.
    """

    kind: Literal["access_changes"] = "access_changes"
    realm: Realm | None
    is_full: bool
    identities: list[Identity] = Field(default_factory=list)
    keys: list[AccessKey] = Field(default_factory=list)
    deleted: list[str] = Field(default_factory=list)
    next_after: LogIndex | None = None
    walk: LogIndex | None = None
    access_index: LogIndex


class ListAccessChanges(Query[AccessChanges]):
    """What changed after `after`; 0 for everything. `walk`: that of the page before; None for the first page of a walk."""

    kind: Literal["list_access_changes"] = "list_access_changes"
    after: LogIndex = 0
    walk: LogIndex | None = None
    limit: int = Field(default=ACCESS_PAGE_MAX, ge=1, le=ACCESS_PAGE_MAX)


class IdentityAnswer(WireModel):
    """`identity` is None when there is none of that id. `keys`: its own, by id. `realm`: None before InitAccess."""

    kind: Literal["identity"] = "identity"
    identity: Identity | None
    keys: list[AccessKey] = Field(default_factory=list)
    realm: Realm | None


class GetIdentity(Query[IdentityAnswer]):
    """One identity and its keys."""

    kind: Literal["get_identity"] = "get_identity"
    identity: IdentityId


class KeyAnswer(WireModel):
    """`key` is None when there is none of that id."""

    kind: Literal["access_key"] = "access_key"
    key: AccessKey | None


class GetKey(Query[KeyAnswer]):
    """One key."""

    kind: Literal["get_key"] = "get_key"
    key: KeyId


class IdentitiesPage(WireModel):
    """One page of identities, by id. The next page starts after the last id; `has_more` is false on the last page."""

    kind: Literal["identities"] = "identities"
    identities: list[Identity]
    has_more: bool = False


class ListIdentities(Query[IdentitiesPage]):
    """The first `limit` identities whose ids come after `after` (exclusive; None for all)."""

    kind: Literal["list_identities"] = "list_identities"
    after: IdentityId | None = None
    limit: int = Field(default=ACCESS_PAGE_MAX, ge=1, le=ACCESS_PAGE_MAX)
