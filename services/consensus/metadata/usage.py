"""How much there is in a bucket and of an identity: sums that follow from other rows, and which quotas are held against.

What counts is what a client can list, because that is what it can delete: every version that has bytes, current, older or null,
with all of its bytes, whoever shares its chunks; and the bytes of the parts of uploads under way. A version is a file; a delete
marker and an upload are none. What was replaced or removed for good stops counting with the entry that did it, even though its
chunks are kept for some time for readers and lists that began before (`retention`).

A version belongs to the identity that wrote it, whoever deletes it later, and parts to the identity that began their upload, as
does the version that they become. What nobody signed for counts in its bucket alone.

The counters of a writer stay in memory, and are written at the end of a batch: so they cost a file one row of its bucket and
one of its owner per batch. They are not part of the state's sum, and `recount` finds them again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from services.consensus.metadata.database import Database, RowDamagedError, checked, row_checksum
from services.consensus.metadata.rows import OWNED_HEAD_BYTES, decode_owner
from services.consensus.metadata.schema import BUCKET_USAGE, USAGE, USAGE_COLUMNS

IDENTITY_USAGE: Final = "identity"
UPLOAD_USAGE: Final = "upload"
_KNOWN_MAX: Final = 20_000
"""Counters that stay in memory between two batches."""

_COLUMNS: Final = ", ".join(USAGE_COLUMNS)
_SELECT: Final = f"SELECT {_COLUMNS}, checksum FROM {USAGE}"  # noqa: S608 (our own constants)
_PUT: Final = f"INSERT OR REPLACE INTO {USAGE} VALUES (?, ?, ?, ?, ?)"  # noqa: S608
_REMOVE: Final = f"DELETE FROM {USAGE} WHERE kind=? AND holder=?"  # noqa: S608


class Usage(NamedTuple):
    """Bytes and files."""

    size_bytes: int
    files: int


class Holder(NamedTuple):
    """Whose usage it is: the incarnation of a bucket, the 32 bytes of an identity's id, or the number of an upload."""

    kind: str
    holder: int | bytes


class UsageChange(NamedTuple):
    """What one entry changed."""

    holder: Holder
    before: Usage
    after: Usage


NOTHING: Final = Usage(0, 0)


class UsageCounters:
    """On one connection. Only a writer counts, and by itself: whoever changes the rows that are counted calls these.

    Invariant: `_known` is what the tables have together with the rows that the batch has changed; `_before` what it was of
    those that the entry has changed, `_unwritten` those that the batch has.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[Holder, Usage] = {}
        self._before: dict[Holder, Usage] = {}
        self._unwritten: set[Holder] = set()

    # --- what is counted ------------------------------------------------------------------------------------------

    def add_version(self, incarnation: int, owner: bytes | None, size_bytes: int) -> None:
        """A version is current, or kept as an older one."""
        self._change(incarnation, owner, size_bytes, 1)

    def remove_version(self, incarnation: int, owner: bytes | None, size_bytes: int) -> None:
        """It is not any more."""
        self._change(incarnation, owner, -size_bytes, -1)

    def add_versions(self, incarnation: int, owned: Iterable[tuple[bytes | None, int]]) -> None:
        """`add_version` of many, by owner and size in bytes."""
        for owner, (size_bytes, files) in _sums(owned).items():
            self._change(incarnation, owner, size_bytes, files)

    def remove_versions(self, incarnation: int, owned: Iterable[tuple[bytes | None, int]]) -> None:
        """`remove_version` of many, by owner and size in bytes."""
        for owner, (size_bytes, files) in _sums(owned).items():
            self._change(incarnation, owner, -size_bytes, -files)

    def change_parts(self, upload: int, incarnation: int, owner: bytes | None, size_bytes: int) -> None:
        """The parts of an upload under way have so many bytes more; fewer if it is negative."""
        self._add(Holder(UPLOAD_USAGE, upload), size_bytes, 0)
        self._change(incarnation, owner, size_bytes, 0)

    def close_upload(self, upload: int, incarnation: int, owner: bytes | None) -> None:
        """It is completed or aborted: its parts do not count any more."""
        self.change_parts(upload, incarnation, owner, -self.of(Holder(UPLOAD_USAGE, upload)).size_bytes)

    def _change(self, incarnation: int, owner: bytes | None, size_bytes: int, files: int) -> None:
        self._add(Holder(BUCKET_USAGE, incarnation), size_bytes, files)
        if owner is not None:
            self._add(Holder(IDENTITY_USAGE, owner), size_bytes, files)

    def _add(self, holder: Holder, size_bytes: int, files: int) -> None:
        before = self.of(holder)
        self._before.setdefault(holder, before)
        self._known[holder] = Usage(before.size_bytes + size_bytes, before.files + files)

    def of(self, holder: Holder) -> Usage:
        """As of now."""
        found = self._known.get(holder)
        if found is None:
            found = self._known[holder] = read_usage(self._database, holder)
        return found

    # --- entries and batches --------------------------------------------------------------------------------------

    def changes(self) -> Iterator[UsageChange]:
        """Of the entry that is applied."""
        return (UsageChange(holder, before, self._known[holder]) for holder, before in self._before.items())

    def end_entry(self) -> None:
        """What it changed stays."""
        self._unwritten |= self._before.keys()
        self._before.clear()

    def undo_entry(self) -> None:
        """What it changed is as it was before."""
        self._known |= self._before
        self._before.clear()

    def write(self) -> None:
        """All that the batch changed."""
        execute = self._database.execute
        for holder in self._unwritten:
            usage = self._known[holder]
            if usage == NOTHING:
                execute(_REMOVE, holder)
                del self._known[holder]
            else:
                columns = (*holder, str(usage.size_bytes), usage.files)
                execute(_PUT, (*columns, row_checksum(USAGE, columns)))
        self._unwritten.clear()
        if len(self._known) > _KNOWN_MAX:
            self._known.clear()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Around the transaction of a batch: of one that came to nothing nothing is known afterwards."""
        try:
            yield
        except BaseException:
            self._known.clear()
            self._before.clear()
            self._unwritten.clear()
            raise


def _sums(owned: Iterable[tuple[bytes | None, int]]) -> dict[bytes | None, Usage]:
    """How much there is of each owner."""
    sizes: dict[bytes | None, list[int]] = {}
    for owner, size_bytes in owned:
        sizes.setdefault(owner, []).append(size_bytes)
    return {owner: Usage(sum(found), len(found)) for owner, found in sizes.items()}


def read_usage(database: Database, holder: Holder) -> Usage:
    """As the table has it. Raises RowDamagedError."""
    row = database.one(f"{_SELECT} WHERE kind=? AND holder=?", holder)
    if row is None:
        return NOTHING
    _, _, size_bytes, files = checked(USAGE, row)
    return Usage(int(size_bytes), files)


# --- counting again -----------------------------------------------------------------------------------------------

_VERSIONS: Final = (
    f"SELECT incarnation, substr(body, 1, {OWNED_HEAD_BYTES}), size_bytes FROM files JOIN versions USING (version)"  # noqa: S608
)
_OLDER: Final = "SELECT incarnation, owner, size_bytes FROM older_versions WHERE is_marker=0"
_PARTS: Final = (
    "SELECT upload, incarnation, owner, size_bytes FROM uploads JOIN parts USING (upload) WHERE state='open'"
)


def recount(database: Database) -> dict[Holder, Usage]:
    """What the counters must be, from the rows that are counted; a scan of all of them."""
    found: dict[Holder, Usage] = {}

    def add(holder: Holder, size_bytes: int, files: int) -> None:
        before = found.get(holder, NOTHING)
        found[holder] = Usage(before.size_bytes + size_bytes, before.files + files)

    def add_both(incarnation: int, owner: bytes | None, size_bytes: int, files: int) -> None:
        add(Holder(BUCKET_USAGE, incarnation), size_bytes, files)
        if owner is not None:
            add(Holder(IDENTITY_USAGE, owner), size_bytes, files)

    for incarnation, head, size_bytes in database.execute(_VERSIONS):
        add_both(incarnation, decode_owner(head), size_bytes, 1)
    for incarnation, owner, size_bytes in database.execute(_OLDER):
        add_both(incarnation, owner, size_bytes, 1)
    for upload, incarnation, owner, size_bytes in database.execute(_PARTS):
        add(Holder(UPLOAD_USAGE, upload), size_bytes, 0)
        add_both(incarnation, owner, size_bytes, 0)
    return {holder: usage for holder, usage in found.items() if usage != NOTHING}


def check_usage(database: Database) -> None:
    """The table has what counting again finds. Raises RowDamagedError."""
    stored = {
        Holder(kind, holder): Usage(int(size_bytes), files)
        for kind, holder, size_bytes, files in (checked(USAGE, row) for row in database.execute(_SELECT))
    }
    counted = recount(database)
    if stored != counted:
        different = sorted({kind for (kind, _), _ in stored.items() ^ counted.items()})
        raise RowDamagedError(f"the table `{USAGE}` is not what the rows add up to, of: {', '.join(different)}")
