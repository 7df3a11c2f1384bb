"""What commands change of who may do what, and the check that whoever a change is made for may still do it.

Every check comes before the first write.
"""

from __future__ import annotations

from dataclasses import replace

from services.consensus.metadata.access_records import ACTIVE, AccessRecords, IdentityRow, KeyRow, encode_grants
from services.consensus.metadata.apply_context import ApplyContext
from shared.contracts.access import (
    KEYS_PER_IDENTITY_MAX,
    AccessChanged,
    AccessRealm,
    CreateIdentity,
    CreateKey,
    DeleteIdentity,
    DeleteKey,
    InitAccess,
    RecordKeyUse,
    UpdateIdentity,
    UpdateKey,
)
from shared.contracts.calls import NoResult
from shared.errors import (
    AccessNotInitialisedError,
    IdentityExistsError,
    IdentityNotFoundError,
    KeyExistsError,
    KeyNotFoundError,
    KeySlotTakenError,
    LastRootKeyError,
    TooManyKeysError,
)


def init_access(context: ApplyContext, command: InitAccess) -> AccessRealm:
    """The first realm counts."""
    if context.state.realm is None:
        context.state = replace(context.state, realm=command.realm)
        context.raise_access_index()
    return AccessRealm(realm=context.state.realm or command.realm)


def create_identity(context: ApplyContext, command: CreateIdentity) -> AccessChanged:
    """A new one; the id of one that was deleted is taken until that is forgotten. Raises the rejections of `CreateIdentity`."""
    if context.state.realm is None:
        raise AccessNotInitialisedError("Nothing says yet what secrets are sealed for; start a gateway first.")
    records = AccessRecords(context.tables)
    if records.identity(command.identity) is not None:
        raise IdentityExistsError("There is an identity of this id, or there was.", identity=command.identity)
    body = encode_grants(command.scopes, command.limits)
    created_ns = context.stamp.approximate_ns
    records.put_identity(
        IdentityRow(command.identity, command.name, int(command.is_root), ACTIVE, created_ns, body, context.index)
    )
    return _changed(context)


def update_identity(context: ApplyContext, command: UpdateIdentity) -> AccessChanged:
    """Name, state, scopes and limits. Raises IdentityNotFoundError, LastRootKeyError."""
    records = AccessRecords(context.tables)
    before = _existing_identity(records, command.identity)
    scopes, limits = before.grants()
    row = before._replace(
        name=before.name if command.name is None else command.name,
        state=command.state or before.state,
        body=encode_grants(
            scopes if command.scopes is None else command.scopes, limits if command.limits is None else command.limits
        ),
        changed_index=context.index,
    )
    if row.state != ACTIVE:
        _check_root_key_is_left(context, records, without_identity=row.identity)
    records.put_identity(row)
    return _changed(context)


def delete_identity(context: ApplyContext, command: DeleteIdentity) -> AccessChanged:
    """With its keys. Raises IdentityNotFoundError, LastRootKeyError."""
    records = AccessRecords(context.tables)
    row = _existing_identity(records, command.identity)
    _check_root_key_is_left(context, records, without_identity=row.identity)
    for key in records.keys_of(row.identity):
        records.put_key(key.deleted(context.index))
    records.put_identity(row.deleted(context.index))
    return _changed(context)


def create_key(context: ApplyContext, command: CreateKey) -> AccessChanged:
    """A new one; the id of one that was deleted is taken until that is forgotten. Raises the rejections of `CreateKey`."""
    records = AccessRecords(context.tables)
    identity = _existing_identity(records, command.identity)
    if records.key(command.key) is not None:
        raise KeyExistsError("There is a key of this id, or there was.", key=command.key)
    others = records.keys_of(identity.identity)
    if len(others) >= KEYS_PER_IDENTITY_MAX:
        raise TooManyKeysError(
            "The identity has as many keys as it may have; delete one first.", limit=KEYS_PER_IDENTITY_MAX
        )
    if any(other.slot == command.slot for other in others):
        raise KeySlotTakenError("Another key of the identity has this slot.", slot=command.slot)
    records.put_key(
        KeyRow(
            key=command.key,
            identity=identity.identity,
            slot=command.slot,
            state=ACTIVE,
            created_ns=context.stamp.approximate_ns,
            expires_ns=command.expires_ns,
            last_used_hour=None,
            sealing_key=command.secret.sealing_key,
            sealed=command.secret.sealed,
            bearer_mac=command.secret.bearer_mac,
            changed_index=context.index,
        )
    )
    return _changed(context)


def update_key(context: ApplyContext, command: UpdateKey) -> AccessChanged:
    """State, expiry, and by which key the secret is sealed. Raises KeyNotFoundError, LastRootKeyError."""
    records = AccessRecords(context.tables)
    before = _existing_key(records, command.key)
    row = before._replace(state=command.state or before.state, changed_index=context.index)
    if command.expires_ns is not None:
        row = row._replace(expires_ns=None if command.expires_ns == "never" else command.expires_ns)
    if command.secret is not None:
        row = row._replace(**command.secret.model_dump())
    if not row.is_usable(context.stamp.approximate_ns):
        _check_root_key_is_left(context, records, without_key=row.key)
    records.put_key(row)
    return _changed(context)


def delete_key(context: ApplyContext, command: DeleteKey) -> AccessChanged:
    """Raises KeyNotFoundError, LastRootKeyError."""
    records = AccessRecords(context.tables)
    row = _existing_key(records, command.key)
    _check_root_key_is_left(context, records, without_key=row.key)
    records.put_key(row.deleted(context.index))
    return _changed(context)


def record_key_use(context: ApplyContext, command: RecordKeyUse) -> NoResult:
    """No change of access, so the index of each row's last change stays."""
    records = AccessRecords(context.tables)
    for key in command.keys:
        row = records.key(key)
        if row is not None and not row.is_deleted and (row.last_used_hour is None or row.last_used_hour < command.hour):
            records.put_key(row._replace(last_used_hour=command.hour))
    return NoResult()


def _changed(context: ApplyContext) -> AccessChanged:
    context.raise_access_index()
    return AccessChanged(changed_index=context.index)


def _existing_identity(records: AccessRecords, identity: str) -> IdentityRow:
    row = records.identity(identity)
    if row is None or row.is_deleted:
        raise IdentityNotFoundError("There is no such identity.", identity=identity)
    return row


def _existing_key(records: AccessRecords, key: str) -> KeyRow:
    row = records.key(key)
    if row is None or row.is_deleted:
        raise KeyNotFoundError("There is no such key.", key=key)
    return row


def _check_root_key_is_left(
    context: ApplyContext, records: AccessRecords, *, without_identity: str = "", without_key: str = ""
) -> None:
    """A cluster that somebody may administer stays one; of a cluster where nobody may, anything can go."""
    now_ns = context.stamp.approximate_ns
    if records.has_usable_root_key(now_ns) and not records.has_usable_root_key(
        now_ns, but_identity=without_identity, but_key=without_key
    ):
        raise LastRootKeyError("This is the last key that may administer the cluster; make another first.")
