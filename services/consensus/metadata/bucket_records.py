"""The rows about a bucket beside its name: settings, and documents that the log keeps for others."""

from __future__ import annotations

from typing import Final, NamedTuple

from services.consensus.metadata.database import checked
from services.consensus.metadata.tables import Tables
from shared.contracts.objects import BucketSettings

DEFAULT_SETTINGS: Final = BucketSettings()


class SettingsRow(NamedTuple):
    """The settings of a bucket; `body` is their JSON."""

    incarnation: int
    log_index: int
    body: bytes

    @property
    def settings(self) -> BucketSettings:
        """Fields of later versions come with entries that this member must know."""
        return BucketSettings.model_validate_json(self.body)


class DocumentRow(NamedTuple):
    """A document about a bucket."""

    incarnation: int
    kind: str
    log_index: int
    body: bytes


class BucketRecords:
    """On the same connection as `tables`."""

    def __init__(self, tables: Tables) -> None:
        self._database = tables.database
        self._execute = tables.database.execute
        self._one = tables.database.one

    def settings(self, incarnation: int) -> SettingsRow | None:
        """None for the defaults."""
        row = self._one(
            "SELECT incarnation, log_index, body, checksum FROM bucket_settings WHERE incarnation=?", (incarnation,)
        )
        return None if row is None else SettingsRow(*checked("bucket_settings", row))

    def all_settings(self) -> list[SettingsRow]:
        """Of every bucket that has some, deleted ones that are not forgotten included."""
        rows = self._execute("SELECT incarnation, log_index, body, checksum FROM bucket_settings ORDER BY incarnation")
        return [SettingsRow(*checked("bucket_settings", row)) for row in rows.fetchall()]

    def put_settings(self, row: SettingsRow) -> None:
        """From now on."""
        if (before := self.settings(row.incarnation)) is not None:
            self._database.remove("bucket_settings", *before)
        self._database.insert("bucket_settings", *row)

    def document(self, incarnation: int, kind: str) -> DocumentRow | None:
        """None where there is none of that kind."""
        row = self._one(
            "SELECT incarnation, kind, log_index, body, checksum FROM bucket_documents WHERE incarnation=? AND kind=?",
            (incarnation, kind),
        )
        return None if row is None else DocumentRow(*checked("bucket_documents", row))

    def document_count(self, incarnation: int) -> int:
        """How many there are of one bucket."""
        row = self._one("SELECT COUNT(*) FROM bucket_documents WHERE incarnation=?", (incarnation,))
        return 0 if row is None else int(row[0])

    def put_document(self, row: DocumentRow) -> None:
        """From now on."""
        self.remove_document(row.incarnation, row.kind)
        self._database.insert("bucket_documents", *row)

    def remove_document(self, incarnation: int, kind: str) -> bool:
        """Whether there was one."""
        before = self.document(incarnation, kind)
        if before is not None:
            self._database.remove("bucket_documents", *before)
        return before is not None

    def access_index(self, incarnation: int) -> int:
        """The index of the last change of the documents by which the bucket says who may do what; 0 for none."""
        row = self._one(
            "SELECT incarnation, changed_index, checksum FROM bucket_access WHERE incarnation=?", (incarnation,)
        )
        return 0 if row is None else int(checked("bucket_access", row)[1])

    def raise_access_index(self, incarnation: int, index: int) -> None:
        """Such a document changed."""
        if before := self.access_index(incarnation):
            self._database.remove("bucket_access", incarnation, before)
        self._database.insert("bucket_access", incarnation, index)

    def forget(self, incarnation: int) -> None:
        """The bucket is deleted, and no list shows it any more."""
        if (row := self.settings(incarnation)) is not None:
            self._database.remove("bucket_settings", *row)
        rows = self._execute("SELECT kind FROM bucket_documents WHERE incarnation=? ORDER BY kind", (incarnation,))
        for (kind,) in rows.fetchall():
            self.remove_document(incarnation, kind)
        if index := self.access_index(incarnation):
            self._database.remove("bucket_access", incarnation, index)
