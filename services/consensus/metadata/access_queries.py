"""Answers about who may do what: to gateways that follow it, what changed after an index; to operators, what there is."""

from __future__ import annotations

from services.consensus.metadata.access_records import AccessRecords
from services.consensus.metadata.rows import State
from services.consensus.metadata.tables import Tables
from shared.contracts.access import (
    AccessChanges,
    GetIdentity,
    GetKey,
    IdentitiesPage,
    IdentityAnswer,
    KeyAnswer,
    ListAccessChanges,
    ListIdentities,
)

AccessQuery = ListAccessChanges | GetIdentity | GetKey | ListIdentities
AccessAnswer = AccessChanges | IdentityAnswer | KeyAnswer | IdentitiesPage


def answer_about_access(tables: Tables, state: State, query: AccessQuery) -> AccessAnswer:
    """The answer to one of these queries."""
    match query:
        case ListAccessChanges():
            return list_access_changes(tables, state, query)
        case GetIdentity():
            return _get_identity(tables, state, query)
        case GetKey():
            key = AccessRecords(tables).key(query.key)
            return KeyAnswer(key=None if key is None or key.is_deleted else key.to_wire())
        case ListIdentities():
            rows = AccessRecords(tables).identities(query.after or "", query.limit + 1)
            return IdentitiesPage(
                identities=[row.to_wire() for row in rows[: query.limit]], has_more=len(rows) > query.limit
            )


def _get_identity(tables: Tables, state: State, query: GetIdentity) -> IdentityAnswer:
    records = AccessRecords(tables)
    row = records.identity(query.identity)
    if row is None or row.is_deleted:
        return IdentityAnswer(identity=None, realm=state.realm)
    keys = [key.to_wire() for key in records.keys_of(row.identity)]
    return IdentityAnswer(identity=row.to_wire(), keys=keys, realm=state.realm)


def list_access_changes(tables: Tables, state: State, query: ListAccessChanges) -> AccessChanges:
    """One page: about `limit` rows, and the rest of the change that the last of them belongs to."""
    records = AccessRecords(tables)
    informed_index = query.after if query.walk is None else query.walk
    # A copy that claims to be newer than this state is one of another cluster's.
    is_lost = informed_index < records.horizon() or max(query.after, informed_index) > state.access_index
    is_full = is_lost or (query.walk is None and query.after == 0)
    after = 0 if is_full else query.after
    end = records.nth_change(after, query.limit - 1)
    up_to = state.last_applied if end is None else end
    identities, keys = records.changed_identities(after, up_to), records.changed_keys(after, up_to)
    deleted = [row.identity for row in identities if row.is_deleted] + [row.key for row in keys if row.is_deleted]
    has_more = end is not None and records.nth_change(end, 0) is not None
    return AccessChanges(
        realm=state.realm,
        is_full=is_full,
        identities=[row.to_wire() for row in identities if not row.is_deleted],
        keys=[row.to_wire() for row in keys if not row.is_deleted],
        deleted=deleted,
        next_after=end if has_more else None,
        walk=(state.access_index if is_full else informed_index) if has_more else None,
        access_index=state.access_index,
    )
