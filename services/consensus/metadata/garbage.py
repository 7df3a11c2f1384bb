"""The rows of garbage: what keeps chunk references for a while, which chunks were condemned, and what is forgotten of that.

A version that no list shows any more is `released`: its references are kept for readers in mid-stream and for backups, then
dropped (`retention`). A chunk that loses its last reference is condemned by that same entry; one that never had a reference
is condemned when a storage node reports it (docs/promises.md, "The life of a chunk"; C-117).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from services.consensus.metadata.database import checked, checked_all
from services.consensus.metadata.rows import BackupRow, PastRow
from services.consensus.metadata.tables import Tables, distinct_chunks
from shared.contracts.metadata import PublishFile
from shared.contracts.uploads import PutPart
from shared.errors import ChunkCondemnedError

_CONDEMNED_HORIZON: Final = "condemned"
_UNHELD: Final = (
    "WITH asked(version) AS (VALUES {values}) SELECT version FROM asked WHERE EXISTS (SELECT 1 FROM versions WHERE "
    "versions.version=asked.version) AND NOT EXISTS (SELECT 1 FROM released WHERE released.version=asked.version) "
    "AND NOT EXISTS (SELECT 1 FROM doomed WHERE doomed.version=asked.version) "
    "AND NOT EXISTS (SELECT 1 FROM kept WHERE kept.version=asked.version)"
)
_IS_OLDER: Final = "SELECT 1 FROM older_versions WHERE incarnation=? AND key=? AND version=?"
_CONDEMNED: Final = "SELECT digest, log_index, checksum FROM condemned WHERE digest IN (VALUES {values})"


class Garbage:
    """On the same connection as `tables`.

    Invariant: `_newest` is what the tables say, or None. So one of these lasts for one transaction, and what it knew at the
    end of that is given to the next one.
    """

    def __init__(self, tables: Tables, newest: int | None = None) -> None:
        self._database = tables.database
        self._execute = tables.database.execute
        self._one = tables.database.one
        self._newest = newest

    # --- condemned chunks -----------------------------------------------------------------------------------------

    def newest(self) -> int:
        """The highest index that condemned a chunk, as far as is known; 0 for none. Most uploads begin after it."""
        if self._newest is None:
            row = self._one("SELECT max(log_index) FROM condemned")
            self._newest = max(self.horizon(), 0 if row is None or row[0] is None else int(row[0]))
        return self._newest

    def condemned(self, digests: Iterable[bytes]) -> dict[bytes, int]:
        """Those of the chunks that were condemned, with the index that did it last."""
        return dict(checked_all("condemned", self._database.matching(_CONDEMNED, digests)))

    def condemn(self, digests: AbstractSet[bytes], log_index: int) -> None:
        """Nothing refers to these chunks, from this entry on."""
        if not digests:
            return
        if before := self.condemned(digests):
            self._database.remove_many("condemned", list(before.items()))
        self._database.insert_many("condemned", ((digest, log_index) for digest in sorted(digests)))
        self._newest = log_index

    def end_of_window(self, after_index: int, last_applied: int, limit: int) -> int:
        """The index up to which about `limit` chunks were condemned after `after_index`; those of one entry stay together."""
        row = self._one(
            "SELECT log_index FROM condemned WHERE log_index>? ORDER BY log_index LIMIT 1 OFFSET ?",
            (after_index, limit),
        )
        if row is None:
            return last_applied
        first = self._one("SELECT min(log_index) FROM condemned WHERE log_index>?", (after_index,))
        is_one_entry = first is not None and first[0] == row[0]
        return int(row[0]) if is_one_entry else int(row[0]) - 1

    def condemned_between(self, after_index: int, up_to_index: int) -> list[tuple[bytes, int]]:
        """(digest, index) of those condemned after the one and up to the other index, in the order of the log."""
        rows = self._execute(
            "SELECT digest, log_index, checksum FROM condemned WHERE log_index>? AND log_index<=? "
            "ORDER BY log_index, digest",
            (after_index, up_to_index),
        )
        return [(digest, log_index) for digest, log_index in checked_all("condemned", rows.fetchall())]

    def forget_condemned(self, up_to_index: int, limit: int) -> int:
        """Forget the oldest, none after `up_to_index`, and say so; how many there were."""
        rows = self._execute(
            "SELECT digest, log_index, checksum FROM condemned WHERE log_index<=? ORDER BY log_index, digest LIMIT ?",
            (up_to_index, limit),
        ).fetchall()
        self._database.remove_many("condemned", list(checked_all("condemned", rows)))
        if rows:
            self._newest = None
            self._raise_horizon(rows[-1][1])
        return len(rows)

    def horizon(self) -> int:
        """The highest index whose condemned chunks are forgotten, some of them at least; 0 before the first."""
        row = self._one("SELECT name, log_index, checksum FROM horizons WHERE name=?", (_CONDEMNED_HORIZON,))
        return 0 if row is None else int(checked("horizons", row)[1])

    def _raise_horizon(self, log_index: int) -> None:
        before = self.horizon()
        if before > 0:
            self._database.remove("horizons", _CONDEMNED_HORIZON, before)
        self._database.insert("horizons", _CONDEMNED_HORIZON, max(before, log_index))

    # --- references that are kept ---------------------------------------------------------------------------------

    def release(self, version: int, log_index: int) -> None:
        """No list shows the version any more, which `log_index` superseded or deleted."""
        self._database.insert("released", version, log_index)

    def release_each(self, past: Iterable[PastRow]) -> None:
        """`release` of many."""
        self._database.insert_many("released", [(row.version, row.deleted_index) for row in past])

    def unheld(self, past: Sequence[PastRow]) -> list[PastRow]:
        """Those of the versions, which no pinned list shows any more, whose references nobody else sees to.

        The others are kept as older versions, or were removed from there for good: then they are released since, or further on
        their way.
        """
        found = {version for (version,) in self._database.matching(_UNHELD, [row.version for row in past])}
        return [
            row
            for row in past
            if row.version in found and self._one(_IS_OLDER, (row.incarnation, row.key, row.version)) is None
        ]

    def doom_released(self, up_to_index: int, limit: int) -> int:
        """Have the oldest released versions give up their references, none after `up_to_index`; how many there were."""
        rows = self._execute(
            "SELECT version, log_index, checksum FROM released WHERE log_index<=? ORDER BY log_index LIMIT ?",
            (up_to_index, limit),
        )
        found = list(checked_all("released", rows.fetchall()))
        self._database.remove_many("released", found)
        self._database.insert_many("doomed", [(version, 0) for version, _ in found])
        return len(found)

    # --- backups --------------------------------------------------------------------------------------------------

    def backups(self) -> list[BackupRow]:
        """All, by id, those whose lease ran out included until they are forgotten."""
        rows = self._execute("SELECT backup_id, log_index, owner, expires_ms, checksum FROM backups ORDER BY backup_id")
        return [BackupRow(*checked("backups", row)) for row in rows.fetchall()]

    def backup(self, backup_id: str) -> BackupRow | None:
        """One of them."""
        row = self._one(
            "SELECT backup_id, log_index, owner, expires_ms, checksum FROM backups WHERE backup_id=?", (backup_id,)
        )
        return None if row is None else BackupRow(*checked("backups", row))

    def insert_backup(self, row: BackupRow) -> None:
        """One that is not there."""
        self._database.insert("backups", *row)

    def remove_backup(self, row: BackupRow) -> None:
        """It pins nothing any more."""
        self._database.remove("backups", *row)


def check_not_condemned(command: PublishFile | PutPart, garbage: Garbage) -> None:
    """No chunk of the upload was condemned after it began: nodes that recorded no later start index delete such a chunk.

    Raises:
        ChunkCondemnedError: one was, or it is not known any more whether one was; definite.
    """
    start_index = command.start_index
    if start_index > garbage.newest():
        return
    horizon = garbage.horizon()
    if 0 < horizon >= start_index:
        raise ChunkCondemnedError(
            "The upload began so long ago that its chunks may have been condemned since; start it again.",
            start_index=start_index,
            horizon=horizon,
        )
    digests = (digest for digest, _ in distinct_chunks(command.content))
    for digest, log_index in garbage.condemned(digests).items():
        if log_index >= start_index:
            raise ChunkCondemnedError(
                "A chunk of this upload was condemned after the upload began; start it again.",
                digest=digest.hex(),
                start_index=start_index,
                condemned_index=log_index,
            )
