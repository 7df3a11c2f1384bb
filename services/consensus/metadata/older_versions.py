"""The rows of versions that a bucket keeps beside the current ones, its delete markers, and tags, which change by themselves.

A row of `older_versions` is a version that was superseded, or a marker. At most one marker of a key is current: the one without
`superseded_index`, and then the key is absent. What is kept here keeps its references; what leaves is released by whoever
removes it (`versions`). Tags change beside their version (C-143).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Final, NamedTuple

import msgpack

from services.consensus.metadata.database import checked
from services.consensus.metadata.rows import FileRow
from services.consensus.metadata.tables import Tables

_COLUMNS: Final = (
    "incarnation, key, version, version_id, size_bytes, etag, content_type, modified_ns, stored_ns, s3_etag, "
    "storage_class, is_marker, is_null, superseded_index, superseded_ms, owner, checksum"
)
_SELECT: Final = f"SELECT {_COLUMNS} FROM older_versions WHERE incarnation=? AND "  # noqa: S608 (our own constants)
# Named, because the planner would rather walk over all versions of the key.
_BY_ID: Final = _SELECT.replace("WHERE", "INDEXED BY older_by_id WHERE") + "key=? AND version_id=?"
_PROMOTED: Final = (
    _SELECT.replace("WHERE", "INDEXED BY older_by_id WHERE") + "key=? AND version_id<? ORDER BY version_id DESC LIMIT ?"
)
_NULL: Final = _SELECT.replace("WHERE", "INDEXED BY older_nulls WHERE") + "key=? AND is_null=1"


class OlderRow(NamedTuple):
    """A superseded version or a marker; `superseded_index` is None for a marker that is current, `owner` for one of nobody."""

    incarnation: int
    key: bytes
    version: int
    version_id: int | None
    size_bytes: int
    etag: str
    content_type: str
    modified_ns: int
    stored_ns: int | None
    s3_etag: str | None
    storage_class: str | None
    is_marker: int
    is_null: int
    superseded_index: int | None
    superseded_ms: int | None
    owner: bytes | None

    @property
    def known_as(self) -> int:
        """The version id."""
        return self.version if self.version_id is None else self.version_id

    @property
    def file(self) -> FileRow:
        """What preconditions are held against."""
        return FileRow(
            self.key,
            self.version,
            self.size_bytes,
            self.etag,
            self.content_type,
            self.modified_ns,
            self.stored_ns,
            self.s3_etag,
            self.storage_class,
        )


class PatchRow(NamedTuple):
    """What changed about a version that stays the same. `body`: what `encode_tags` made."""

    version: int
    patch_index: int
    body: bytes

    @property
    def tags(self) -> dict[str, str]:
        """By name."""
        tags: dict[str, str] = msgpack.unpackb(self.body)[0]
        return tags


def encode_tags(tags: dict[str, str]) -> bytes:
    """The body of a patch: a list, so that more can stand behind the tags one day."""
    packed: bytes = msgpack.packb([dict(sorted(tags.items()))])
    return packed


class OlderVersions:
    """On the same connection as `tables`."""

    def __init__(self, tables: Tables) -> None:
        self._database = tables.database
        self._usage = tables.usage
        self._execute = tables.database.execute
        self._one = tables.database.one

    def insert(self, row: OlderRow) -> None:
        """A row that is not there."""
        self._database.insert("older_versions", *row)
        if not row.is_marker:
            self._usage.add_version(row.incarnation, row.owner, row.size_bytes)

    def insert_each(self, incarnation: int, rows: Sequence[OlderRow]) -> None:
        """Many of one bucket."""
        self._database.insert_many("older_versions", rows)
        self._usage.add_versions(incarnation, ((row.owner, row.size_bytes) for row in rows if not row.is_marker))

    def remove(self, row: OlderRow) -> None:
        """It is not kept any more."""
        self._database.remove("older_versions", *row)
        if not row.is_marker:
            self._usage.remove_version(row.incarnation, row.owner, row.size_bytes)

    def marker(self, incarnation: int, key: bytes) -> OlderRow | None:
        """The marker that is current."""
        latest = self.latest(incarnation, key)
        return latest if latest is not None and latest.superseded_index is None else None

    def latest(self, incarnation: int, key: bytes) -> OlderRow | None:
        """The one that became a version or a marker last."""
        return self._row(f"{_SELECT} key=? ORDER BY version DESC LIMIT 1", incarnation, key)

    def find(self, incarnation: int, key: bytes, number: int) -> OlderRow | None:
        """The version or marker that has that number, or is known by it."""
        found = self._row(f"{_SELECT} key=? AND version=?", incarnation, key, number)
        return found or self._row(_BY_ID, incarnation, key, number)

    def null(self, incarnation: int, key: bytes) -> OlderRow | None:
        """The null version or null marker among them."""
        return self._row(_NULL, incarnation, key)

    def has_any(self, incarnation: int) -> bool:
        """Whether the bucket keeps anything here."""
        return self._one("SELECT 1 FROM older_versions WHERE incarnation=? LIMIT 1", (incarnation,)) is not None

    def known_below(self, incarnation: int, key: bytes, below: int, limit: int) -> list[OlderRow]:
        """Those of a key that are known by an id below `below`, the latest first.

        That is the order of their ids, too: what is promoted is the latest of those that are left. So those that got a number
        from `below` on are the first of all that were promoted.
        """
        rows = self._execute(_PROMOTED, (incarnation, key, below, limit))
        try:
            known = (OlderRow(*checked("older_versions", row)) for row in rows)
            promoted = list(takewhile(lambda row: row.version >= below, known))
        finally:
            rows.close()
        return promoted + self.of_key(incarnation, key, below, limit - len(promoted))

    def of_key(self, incarnation: int, key: bytes, below: int, limit: int) -> list[OlderRow]:
        """Those of a key with numbers below `below`, the latest first."""
        rows = self._execute(
            f"{_SELECT} key=? AND version<? ORDER BY version DESC LIMIT ?", (incarnation, key, below, limit)
        )
        return [OlderRow(*checked("older_versions", row)) for row in rows.fetchall()]

    def next_key(self, incarnation: int, lower: bytes, upper: bytes) -> bytes | None:
        """The first key with lower <= key < upper that has a row."""
        row = self._one(
            "SELECT key FROM older_versions WHERE incarnation=? AND key>=? AND key<? ORDER BY key LIMIT 1",
            (incarnation, lower, upper),
        )
        return None if row is None else row[0]

    def superseded_before(self, incarnation: int, lived_ms: int, limit: int) -> list[OlderRow]:
        """The first that were superseded, none after that age of the log's clock."""
        rows = self._execute(
            f"{_SELECT} superseded_ms IS NOT NULL AND superseded_ms<=? ORDER BY superseded_ms, key, version LIMIT ?",
            (incarnation, lived_ms, limit),
        )
        return [OlderRow(*checked("older_versions", row)) for row in rows.fetchall()]

    def _row(self, select: str, *parameters: object) -> OlderRow | None:
        row = self._one(select, parameters)
        return None if row is None else OlderRow(*checked("older_versions", row))

    # --- tags -----------------------------------------------------------------------------------------------------

    def patch(self, version: int) -> PatchRow | None:
        """What was changed about a version."""
        row = self._one("SELECT version, patch_index, body, checksum FROM patches WHERE version=?", (version,))
        return None if row is None else PatchRow(*checked("patches", row))

    def set_patch(self, row: PatchRow) -> None:
        """From now on."""
        if (before := self.patch(row.version)) is not None:
            self._database.remove("patches", *before)
        self._database.insert("patches", *row)
