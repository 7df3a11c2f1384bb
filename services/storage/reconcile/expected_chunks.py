"""The set of chunks that this node should hold, on disk, with its sums by partition; and the lists of what differs.

The set is what a listing of all references gave, filtered by placement, and the changes of the log since. It carries the
position up to which it follows the log, so that a restart goes on from there.

Invariant: with position p, and unless a listing is under way, the set holds exactly the chunks that were referenced at p and
of which this node is an expected holder by the node map of `placement_key`; chunks that lost their last reference before
entries of version 3 are found out when nobody has them (`pulls`) and at the next listing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from services.storage.reconcile.database import CREATE_LISTING, ReconcileDatabase
from shared.partitions import DIGEST_BYTES, PartitionTable, SetSum, partition_of, sum_of

_MAX_VARIABLES: Final = 500

Sized = tuple[bytes, int]
"""Raw digest, length in bytes."""


@dataclass(frozen=True, slots=True)
class Position:
    """Everything up to `log_index` is followed, and so many chunks of the version that comes next."""

    log_index: int
    chunk: int = 0


@dataclass(frozen=True, slots=True)
class MissingChunk:
    """Expected and not held. `reference_index`: a log index at which a file referred to it."""

    digest: bytes
    size_bytes: int
    reference_index: int


@dataclass(frozen=True, slots=True)
class Total:
    """Of one list."""

    chunks: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ListedDifferences:
    """What one comparison found among the digests that begin with `prefix` (hex digits)."""

    prefix: str
    missing: Sequence[MissingChunk] = ()
    extra: Sequence[Sized] = ()


class ExpectedChunks:
    """The set, its position, and the lists. All methods but the properties cross to the thread of the database.

    Each raises UnavailableError and DatabaseDamagedError as `ReconcileDatabase.change` does.
    """

    def __init__(self, database: ReconcileDatabase, cluster_id: str) -> None:
        self._database = database
        self._cluster_id = cluster_id
        self._table = PartitionTable()
        self._listed = PartitionTable()
        self._position: Position | None = None
        self._placement_key: str | None = None
        self._totals: dict[str, Total] = {}

    @property
    def position(self) -> Position | None:
        """None until everything was listed once."""
        return self._position

    @property
    def placement_key(self) -> str | None:
        """By which node map the set was made."""
        return self._placement_key

    @property
    def total(self) -> SetSum:
        """Of the set."""
        return self._table.total

    def count(self, name: str) -> Total:
        """Of the list `missing`, `surplus`, `orphans` or `unchecked`."""
        return self._totals.get(name, Total())

    async def load(self) -> None:
        """Read what an earlier run left; the lists begin empty, because what is held may have changed since."""
        await self._database.change(self._load)

    async def forget(self) -> None:
        """After `ReconcileDatabase.remake`: nothing is known."""
        self._table, self._position, self._placement_key = PartitionTable(), None, None
        await self.load()

    async def begin_listing(self) -> None:
        """Begin another set beside this one."""
        self._listed = PartitionTable()
        await self._database.change(_make_listing)

    async def add_listed(self, chunks: Sequence[Sized]) -> None:
        """Chunks of the other set, each once, in order of digests."""
        await self._database.change(lambda sql: _insert(sql, "listing", chunks), lambda _: self._listed.fill(chunks))

    async def finish_listing(self, placement_key: str, position: Position) -> None:
        """The other set is the set now. The lists are empty: they were of the set before."""

        def work(sql: sqlite3.Connection) -> None:
            sql.execute("DROP TABLE expected")
            sql.execute("ALTER TABLE listing RENAME TO expected")
            sql.execute("DELETE FROM missing")
            sql.execute("DELETE FROM extra")
            _set_meta(sql, cluster_id=self._cluster_id, placement_key=placement_key, **_position_meta(position))
            self._read_totals(sql)

        def done(_: None) -> None:
            self._table, self._listed = self._listed, PartitionTable()
            self._placement_key, self._position = placement_key, position

        await self._database.change(work, done)

    def advance(self, position: Position) -> None:
        """The log went on, and nothing in it concerned chunks. Not written: the next change writes it."""
        self._position = position

    async def apply(
        self,
        *,
        added: Sequence[Sized] = (),
        removed: Sequence[bytes] = (),
        missing: Sequence[MissingChunk] = (),
        position: Position | None = None,
    ) -> None:
        """Change the set; chunks may be in it already, or not be in it. `missing`: those of `added` that are not held."""

        def work(sql: sqlite3.Connection) -> list[tuple[int, SetSum]]:
            changes = _add(sql, added) + _remove(sql, removed)
            _insert_missing(sql, missing)
            if position is not None:
                _set_meta(sql, **_position_meta(position))
            self._read_totals(sql)
            return changes

        def done(changes: list[tuple[int, SetSum]]) -> None:
            self._change_sums(changes)
            if position is not None:
                self._position = position

        await self._database.change(work, done)

    async def forget_unreferenced(self, digests: Sequence[bytes], log_index: int) -> None:
        """No file referred to these at `log_index`. Nothing happens if the set is beyond it: a file may refer to them now."""

        def work(sql: sqlite3.Connection) -> list[tuple[int, SetSum]]:
            position = self._position
            if position is None or position.log_index > log_index or position.chunk:
                return []
            changes = _remove(sql, digests)
            self._read_totals(sql)
            return changes

        await self._database.change(work, self._change_sums)

    def _change_sums(self, changes: list[tuple[int, SetSum]]) -> None:
        for partition, difference in changes:
            self._table.change(partition, difference)

    async def groups(self) -> list[SetSum]:
        """The sums of all groups."""
        return await self._database.read(lambda _: list(self._table.groups()))

    async def group(self, number: int) -> list[SetSum]:
        """The sums of the partitions of one group."""
        return await self._database.read(lambda _: self._table.group(number))

    async def list_prefix(self, prefix: str) -> list[Sized]:
        """The chunks whose digests begin with the hex digits `prefix`, in order."""
        return await self._database.read(
            lambda sql: sql.execute(
                "SELECT digest, size_bytes FROM expected WHERE digest BETWEEN ? AND ? ORDER BY digest",
                _range_of(prefix),
            ).fetchall()
        )

    async def select(self, chunks: Sequence[Sized], is_expected: Callable[[bytes], bool]) -> list[Sized]:
        """Those of `chunks` that are expected here; in the thread, because of many it takes long."""
        return await self._database.read(lambda _: [chunk for chunk in chunks if is_expected(chunk[0])])

    async def find(self, digests: Sequence[bytes]) -> set[bytes]:
        """Those of `digests` that are in the set."""
        return set(await self.sizes(digests))

    async def sizes(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """How long those of `digests` are that are in the set."""
        return await self._database.read(partial(_sizes, digests=digests))

    async def record(self, differences: ListedDifferences) -> None:
        """What a comparison found takes the place of what the lists said of that prefix."""

        def work(sql: sqlite3.Connection) -> None:
            low, high = _range_of(differences.prefix)
            known = dict(
                sql.execute("SELECT digest, is_referenced FROM extra WHERE digest BETWEEN ? AND ?", (low, high))
            )
            sql.execute("DELETE FROM missing WHERE digest BETWEEN ? AND ?", (low, high))
            sql.execute("DELETE FROM extra WHERE digest BETWEEN ? AND ?", (low, high))
            _insert_missing(sql, differences.missing)
            sql.executemany(
                "INSERT OR IGNORE INTO extra VALUES (?, ?, ?)",
                [(digest, size_bytes, known.get(digest)) for digest, size_bytes in differences.extra],
            )
            self._read_totals(sql)

        await self._database.change(work)

    async def missing_page(self, after: bytes, limit: int) -> list[MissingChunk]:
        """Up to `limit` missing chunks in order of digests, those after `after`."""
        return await self._database.read(
            lambda sql: [
                MissingChunk(*row)
                for row in sql.execute("SELECT * FROM missing WHERE digest > ? ORDER BY digest LIMIT ?", (after, limit))
            ]
        )

    async def drop_missing(self, digests: Iterable[bytes]) -> None:
        """These are not missing any more."""
        await self._database.change(self._counting(partial(_delete, table="missing", digests=digests)))

    async def extra_page(self, after: bytes, limit: int) -> list[bytes]:
        """Up to `limit` chunks that are held and not expected, in order of digests, those after `after`."""
        return await self._database.read(
            lambda sql: [
                row[0]
                for row in sql.execute(
                    "SELECT digest FROM extra WHERE digest > ? ORDER BY digest LIMIT ?", (after, limit)
                )
            ]
        )

    async def record_references(self, is_referenced: dict[bytes, bool]) -> None:
        """What the log said of extra chunks."""

        def work(sql: sqlite3.Connection) -> None:
            sql.executemany(
                "UPDATE extra SET is_referenced = ? WHERE digest = ?",
                [(int(found), digest) for digest, found in is_referenced.items()],
            )

        await self._database.change(self._counting(work))

    async def drop_extra(self, digests: Iterable[bytes]) -> None:
        """These are not held any more, or expected after all."""
        await self._database.change(self._counting(partial(_delete, table="extra", digests=digests)))

    async def get_note(self, name: str) -> str | None:
        """What was kept under `name`."""
        return await self._database.read(lambda sql: _meta(sql).get(name))

    async def set_note(self, name: str, value: str) -> None:
        """Keep `value` under `name`."""
        await self._database.change(lambda sql: _set_meta(sql, **{name: value}))

    def _load(self, sql: sqlite3.Connection) -> None:
        sql.execute("DELETE FROM missing")
        sql.execute("DELETE FROM extra")
        self._read_totals(sql)
        meta = _meta(sql)
        if meta.get("cluster_id") != self._cluster_id:
            sql.execute("DELETE FROM expected")
            sql.execute("DELETE FROM meta")
            return
        self._table = PartitionTable()
        self._table.fill(sql.execute("SELECT digest, size_bytes FROM expected"))
        self._placement_key = meta["placement_key"]
        self._position = Position(int(meta["position_index"]), int(meta["position_chunk"]))

    def _counting(self, work: Callable[[sqlite3.Connection], None]) -> Callable[[sqlite3.Connection], None]:
        def both(sql: sqlite3.Connection) -> None:
            work(sql)
            self._read_totals(sql)

        return both

    def _read_totals(self, sql: sqlite3.Connection) -> None:
        self._totals = {name: Total(chunks, size) for name, chunks, size in sql.execute("SELECT * FROM totals")}


def _make_listing(sql: sqlite3.Connection) -> None:
    sql.execute("DROP TABLE IF EXISTS listing")
    sql.execute(CREATE_LISTING)


def _add(sql: sqlite3.Connection, chunks: Sequence[Sized]) -> list[tuple[int, SetSum]]:
    """How that changes the sums."""
    known = _sizes(sql, [digest for digest, _ in chunks])
    new = {digest: size_bytes for digest, size_bytes in chunks if digest not in known}
    _insert(sql, "expected", list(new.items()))
    return [(partition_of(digest), sum_of(digest, size_bytes)) for digest, size_bytes in new.items()]


def _remove(sql: sqlite3.Connection, digests: Sequence[bytes]) -> list[tuple[int, SetSum]]:
    """How that changes the sums."""
    known = _sizes(sql, digests)
    for part, marks in _parts(digests):
        sql.execute(f"DELETE FROM expected WHERE digest IN ({marks})", part)  # noqa: S608 - marks
        sql.execute(f"DELETE FROM missing WHERE digest IN ({marks})", part)  # noqa: S608 - marks
    return [(partition_of(digest), -sum_of(digest, size_bytes)) for digest, size_bytes in known.items()]


def _insert(sql: sqlite3.Connection, table: str, chunks: Sequence[Sized]) -> None:
    sql.executemany(f"INSERT INTO {table} VALUES (?, ?)", chunks)  # noqa: S608 - a constant


def _insert_missing(sql: sqlite3.Connection, missing: Iterable[MissingChunk]) -> None:
    sql.executemany(
        "INSERT OR IGNORE INTO missing VALUES (?, ?, ?)",
        [(chunk.digest, chunk.size_bytes, chunk.reference_index) for chunk in missing],
    )


def _delete(sql: sqlite3.Connection, *, table: str, digests: Iterable[bytes]) -> None:
    sql.executemany(f"DELETE FROM {table} WHERE digest = ?", [(digest,) for digest in digests])  # noqa: S608 - a constant


def _sizes(sql: sqlite3.Connection, digests: Sequence[bytes]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for part, marks in _parts(digests):
        found.update(sql.execute(f"SELECT digest, size_bytes FROM expected WHERE digest IN ({marks})", part))  # noqa: S608 - marks
    return found


def _parts(digests: Sequence[bytes]) -> Iterator[tuple[Sequence[bytes], str]]:
    """In parts that fit into one statement, with the marks for each."""
    for start in range(0, len(digests), _MAX_VARIABLES):
        part = digests[start : start + _MAX_VARIABLES]
        yield part, ",".join("?" * len(part))


def _range_of(prefix: str) -> tuple[bytes, bytes]:
    """The lowest and the highest digest that begin with the hex digits `prefix`."""
    length = 2 * DIGEST_BYTES
    return bytes.fromhex(prefix.ljust(length, "0")), bytes.fromhex(prefix.ljust(length, "f"))


def _meta(sql: sqlite3.Connection) -> dict[str, str]:
    return dict(sql.execute("SELECT name, value FROM meta"))


def _set_meta(sql: sqlite3.Connection, **values: str) -> None:
    sql.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))


def _position_meta(position: Position) -> dict[str, str]:
    return {"position_index": str(position.log_index), "position_chunk": str(position.chunk)}
