"""Answers about chunk references: pages of all, what changed after a log index, and whether some chunks are referenced (C-119).

Storage nodes list all references once and then follow the log. A page is bounded in what it walks over and not only in what it
shows: readers of files take turns with it.
"""

from __future__ import annotations

from contextlib import closing
from heapq import merge
from operator import itemgetter
from typing import Final

from services.consensus.metadata.garbage import Garbage
from services.consensus.metadata.history import History
from services.consensus.metadata.manifests import Manifests
from services.consensus.metadata.rows import State
from services.consensus.metadata.tables import Tables, distinct_chunks, split_digests
from shared.contracts.backups import Backup, BackupsAnswer, ListBackups
from shared.contracts.references import (
    CheckedReferences,
    CheckReferences,
    ListReferenceChanges,
    ListReferences,
    ReferenceChanges,
    ReferencePage,
)

VERSIONS_PER_PAGE_MAX: Final = 1000
"""Versions and manifests that one page of changes walks over; files of a chunk each, or of none, are many."""

_REFERENCE_BYTES: Final = 56
_CHECKED_BYTES: Final = 16


def answer_about_references(
    tables: Tables, state: State, query: ListReferences | ListReferenceChanges | CheckReferences | ListBackups
) -> ReferencePage | ReferenceChanges | CheckedReferences | BackupsAnswer:
    """The answer. Raises InvalidRequestError: what was sent are no digests."""
    match query:
        case ListReferences():
            return list_references(tables, query)
        case ListReferenceChanges():
            return reference_changes(tables, state, query)
        case CheckReferences():
            return check_references(tables, state, query)
        case ListBackups():
            return list_backups(tables, state)


def size_bytes(answer: ReferencePage | ReferenceChanges | CheckedReferences) -> int:
    """About as many bytes as it has in JSON."""
    match answer:
        case ReferencePage():
            return len(answer.sizes) * _REFERENCE_BYTES
        case ReferenceChanges():
            return (len(answer.added_sizes) + len(answer.condemned_indexes)) * _REFERENCE_BYTES
        case CheckedReferences():
            return len(answer.is_referenced) * _CHECKED_BYTES


def list_references(tables: Tables, query: ListReferences) -> ReferencePage:
    """The chunks after `query.after`, in the order of their digests."""
    found = tables.referenced_chunks(query.after, query.limit + 1)
    page = found[: query.limit]
    return ReferencePage(
        digests=b"".join(digest for digest, _ in page),
        sizes=[size_bytes for _, size_bytes in page],
        has_more=len(found) > query.limit,
    )


def check_references(tables: Tables, state: State, query: CheckReferences) -> CheckedReferences:
    """Which of the chunks are referenced, what condemned them, and the index that is `age_s` old."""
    digests = split_digests(query.digests)
    referenced, condemned = tables.referenced(digests), Garbage(tables).condemned(digests)
    return CheckedReferences(
        is_referenced=[digest in referenced for digest in digests],
        condemned_indexes=[condemned.get(digest, 0) for digest in digests],
        aged_index=History(tables).index_at(max(state.lived_ms - query.age_s * 1000, 0)),
    )


def list_backups(tables: Tables, state: State) -> BackupsAnswer:
    """Those whose lease goes on."""
    return BackupsAnswer(
        backups=[
            Backup(
                backup_id=row.backup_id,
                owner=row.owner,
                log_index=row.log_index,
                expires_in_s=(row.expires_ms - state.lived_ms) // 1000,
            )
            for row in Garbage(tables).backups()
            if row.is_living(state.lived_ms)
        ]
    )


def reference_changes(tables: Tables, state: State, query: ListReferenceChanges) -> ReferenceChanges:
    """What entries after `query.after_index` added and condemned, up to where a limit or the applied index ends the page."""
    garbage = Garbage(tables)
    horizon = garbage.horizon()
    if query.after_index < horizon:
        return ReferenceChanges(
            added=b"",
            added_sizes=[],
            condemned=b"",
            condemned_indexes=[],
            is_referenced=[],
            next_index=query.after_index,
            next_chunk=0,
            has_more=True,
            horizon=horizon,
            must_restart=True,
        )
    end = garbage.end_of_window(query.after_index, state.last_applied, query.limit)
    added, next_index, next_chunk = _added(tables, query, end)
    condemned = garbage.condemned_between(query.after_index, next_index)
    referenced = tables.referenced(digest for digest, _ in condemned)
    return ReferenceChanges(
        added=b"".join(digest for digest, _ in added),
        added_sizes=[size_bytes for _, size_bytes in added],
        condemned=b"".join(digest for digest, _ in condemned),
        condemned_indexes=[log_index for _, log_index in condemned],
        is_referenced=[digest in referenced for digest, _ in condemned],
        next_index=next_index,
        next_chunk=next_chunk,
        has_more=next_index < state.last_applied,
        horizon=horizon,
        must_restart=False,
    )


def _added(tables: Tables, query: ListReferenceChanges, end: int) -> tuple[list[tuple[bytes, int]], int, int]:
    """(digest, size) of references made by entries up to and with `end`, and where to go on."""
    added: list[tuple[bytes, int]] = []
    with (
        closing(tables.versions_between(query.after_index, end)) as versions,
        closing(Manifests(tables).between(query.after_index, end)) as manifests,
    ):
        # One entry logs one list: no two have the same index.
        for walked, (version, content, dropped) in enumerate(merge(versions, manifests, key=itemgetter(0))):
            if walked == VERSIONS_PER_PAGE_MAX:
                return added, version - 1, 0
            if content is None:
                continue
            # Counted from the first chunk of the version, so that what is dropped between two pages moves nothing.
            listed = query.after_chunk if version == query.after_index + 1 else 0
            refs, room = distinct_chunks(content), query.limit - len(added)
            added += refs[max(listed, dropped) : listed + room]
            if len(refs) > listed + room:
                return added, version - 1, listed + room
    return added, end, 0
