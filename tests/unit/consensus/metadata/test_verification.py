"""Whatever a disk does to the tables is noticed: by the sum, by a row's checksum when it is read, by the scrub."""

import sqlite3
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from services.consensus.metadata import verification
from services.consensus.metadata.database import RowDamagedError, row_checksum
from services.consensus.metadata.entries import OBJECTS_VERSION
from services.consensus.metadata.schema import CHECKED_TABLES, USAGE, USAGE_COLUMNS
from services.consensus.metadata.store import MetadataStore
from services.consensus.metadata.tables import READER_CACHE_BYTES, Tables
from services.consensus.metadata.usage import recount
from services.consensus.metadata.verification import Scrub, verify
from shared.contracts.backups import BeginBackup
from shared.contracts.metadata import (
    AnnounceMember,
    CreateBucket,
    DeleteBucket,
    DeleteFile,
    DrainNode,
    GetBucket,
    GetFile,
    GetRequest,
    ListBuckets,
    ListFiles,
    PassTime,
    RecordRun,
)
from shared.contracts.references import CondemnChunks
from shared.contracts.s3 import S3Attributes
from tests.unit.consensus.metadata.builders import Log, content, publish, run, stamp

TABLES_WITH_CHECKSUMS = CHECKED_TABLES | {USAGE: USAGE_COLUMNS}
OBJECT_ROWS = {
    "older_versions": (1, b"a", 5, 4, 1, "etag", "text/plain", 1, 2, "md5", "COLD", 0, 1, 9, 1000, b"o" * 32),
    "bucket_settings": (1, 5, b"{}"),
    "bucket_documents": (1, "policy", 5, b"b"),
    "patches": (5, 6, b"b"),
    "manifests": (5, 1, 1, b"d"),
    "manifest_refs": (5, 6),
    "compositions": (5, b"b"),
    "composition_refs": (5, 6),
    "uploads": (5, 1, b"a", "n", "open", 0, 6, 0, 1000, 7, b"o" * 32, b"b"),
    "parts": (5, 1, 6, 1, "etag", b"b", b"s"),
    "identities": ("1" * 64, "name", 0, "active", 1, b"b", 5),
    "access_keys": ("TV1", "1" * 64, 0, "active", 1, 2, 3, "5ea1", b"s", b"m", 6),
    "bucket_access": (1, 5),
}


def fill(path: Path) -> None:
    """At least one row in every table."""
    log = Log(path)
    log.apply(publish("a", content=content(2500)))
    log.apply(publish("b", content=content(2500, fill=2)), request_id="b", retain_s=86_400)
    log.apply(publish("gone"))
    log.apply(DeleteFile(bucket="default", key="gone", stamp=stamp()))
    log.apply(publish("old"), request_id="old", retain_s=86_400)
    log.apply(publish("old", etag="etag-2"))
    log.apply(CreateBucket(bucket="photos", stamp=stamp()))
    log.apply(CreateBucket(bucket="music", stamp=stamp()))
    log.apply(AnnounceMember(member_id="consensus-1", entry_version=1, stamp=stamp()))
    log.apply(RecordRun(node_id="storage-1", run=run(redis_id="c" * 32), stamp=stamp()))
    log.apply(RecordRun(node_id="storage-1", run=run(boot_id="e" * 32, counter=2), stamp=stamp()))
    for elapsed_ms in (1, 900_000):
        log.apply(PassTime(elapsed_ms=elapsed_ms, cursor_retention_s=900, tombstone_retention_s=86_400, stamp=stamp()))
    log.apply(publish("a", etag="etag-3"))
    log.apply(DeleteBucket(bucket="music", stamp=stamp()))
    fill_garbage(log)
    log.store.close()
    # Rows that only live between two slices of a long expiry, and those of entries of version 4: any will do.
    tables = Tables.open(path, cache_bytes=READER_CACHE_BYTES)
    with tables.database.transaction(write=True):
        state = tables.read_state()
        tables.database.content_sum = state.content_sum
        tables.database.insert("doomed", 99, 1)
        for table, row in OBJECT_ROWS.items():
            tables.database.insert(table, *row)
        for holder, usage in recount(tables.database).items():
            columns = (*holder, str(usage.size_bytes), usage.files)
            row = (*columns, row_checksum(USAGE, columns))
            tables.database.execute(f"INSERT OR REPLACE INTO {USAGE} VALUES (?, ?, ?, ?, ?)", row)
        tables.write_state(replace(state, content_sum=tables.database.signed_sum()))
    tables.database.close()


def fill_garbage(log: Log) -> None:
    """The tables that came with entries of version 3; `past` and `buckets` keep a row that was deleted."""
    log.raise_entry_version(3)
    orphans = content(2500, fill=7).chunk_digests
    log.apply(CondemnChunks(digests=orphans, start_indexes=[1, 1, 1], stamp=stamp()))
    for elapsed_ms in (1, 3_600_000):
        pass_time(log, elapsed_ms)
    log.apply(CondemnChunks(digests=orphans, start_indexes=[100, 100, 100], stamp=stamp()))
    log.apply(publish("released", content=content(fill=8), start_index=log.store.last_applied), retain_s=0)
    log.apply(DeleteFile(bucket="default", key="released", stamp=stamp()))
    for elapsed_ms in (1, 900_000):
        pass_time(log, elapsed_ms)
    log.apply(publish("a", etag="etag-4", content=content(fill=9), start_index=log.store.last_applied))
    log.apply(CreateBucket(bucket="music", stamp=stamp()))
    log.apply(DeleteBucket(bucket="music", stamp=stamp()))
    log.apply(BeginBackup(backup_id="nightly", owner="ops", lease_s=60, stamp=stamp()))
    log.apply(DrainNode(node_id="storage-3", stamp=stamp()))


def pass_time(log: Log, elapsed_ms: int) -> None:
    retentions = {"cursor_retention_s": 900, "tombstone_retention_s": 86_400}
    retentions |= {"reference_retention_s": 7200, "condemned_retention_s": 3600}
    log.apply(PassTime(elapsed_ms=elapsed_ms, **retentions, stamp=stamp()))


@cache
def filled_file() -> bytes:
    """Made once: it takes forty commands."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        fill(path)
        verify(path)
        return path.read_bytes()


@pytest.fixture
def filled(tmp_path) -> Path:
    (tmp_path / "m").write_bytes(filled_file())
    return tmp_path / "m"


def change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        assert connection.execute(statement).rowcount == 1
    finally:
        connection.close()


def scrub(path: Path) -> int:
    tables = Tables.open(path, cache_bytes=READER_CACHE_BYTES)
    try:
        whole, pages = 0, Scrub(tables)
        while count := pages.next_page():
            whole += count
        return whole
    finally:
        tables.database.close()


@pytest.mark.parametrize("page_rows", [1, 2, 3])
def test_a_scrub_reads_every_row_once_on_whatever_page_it_stands(filled, page_rows, monkeypatch):
    """As many as one page for each table would hold."""
    row_count = scrub(filled)
    monkeypatch.setattr(verification, "_PAGE_ROWS", page_rows)
    assert scrub(filled) == row_count > 3 * len(CHECKED_TABLES) / 2


@pytest.mark.parametrize(("table", "column"), [(t, c) for t, columns in TABLES_WITH_CHECKSUMS.items() for c in columns])
def test_a_changed_column_is_found(filled, table, column):
    """Every column of every table, by the full check and by the scrub."""
    key = ", ".join(TABLES_WITH_CHECKSUMS[table][:3])
    row = f"({key}) = (SELECT {key} FROM {table} LIMIT 1)"
    blobs = ("key", "body", "outcome", "digest", "chunk_digests", "sealed", "bearer_mac", "s3")
    kinds = dict.fromkeys(blobs, "x'00'") | {"deleted_index": "424242"}
    texts = {"name", "etag", "content_type", "bucket", "request_id", "node_id", "url", "zone", "state", "member_id"}
    texts |= {"backup_id", "kind", "nonce", "identity", "sealing_key", "s3_etag", "storage_class"}
    texts |= {"owner"} if table == "backups" else set()
    value = kinds.get(column) or ("'other'" if column in texts else f"coalesce({column}, 0)+1000000")
    change(filled, f"UPDATE {table} SET {column} = {value} WHERE {row}")
    with pytest.raises(RowDamagedError):
        verify(filled)
    with pytest.raises(RowDamagedError):
        scrub(filled)


@pytest.mark.parametrize("table", ["files", "past"])
@pytest.mark.parametrize("kept", [None, "stored_ns", "s3_etag", "storage_class"])
def test_what_s3_shows_is_missed(tmp_path, table, kept):
    """A row that lost all of it, or all but one column, is not one that never had it."""
    log = Log(tmp_path / "m", entry_version=OBJECTS_VERSION)
    s3 = S3Attributes(etag="1" * 32, storage_class="COLD")
    for _ in range(3):
        log.apply(publish("a", s3=s3))
    log.store.close()
    verify(tmp_path / "m")
    lost = ", ".join(f"{name} = NULL" for name in ("stored_ns", "s3_etag", "storage_class") if name != kept)
    change(tmp_path / "m", f"UPDATE {table} SET {lost} WHERE version = (SELECT max(version) FROM {table})")
    with pytest.raises(RowDamagedError):
        verify(tmp_path / "m")
    with pytest.raises(RowDamagedError):
        scrub(tmp_path / "m")


@pytest.mark.parametrize("table", [*TABLES_WITH_CHECKSUMS, "chunk_refs"])
def test_a_row_that_is_missing_is_found(filled, table):
    """No checksum can tell, the sum does."""
    columns = {"chunk_refs": ("digest", "version")}.get(table) or TABLES_WITH_CHECKSUMS[table]
    key = ", ".join(columns[:3])
    change(filled, f"DELETE FROM {table} WHERE ({key}) = (SELECT {key} FROM {table} LIMIT 1)")
    with pytest.raises(RowDamagedError):
        verify(filled)


def test_a_row_too_many_or_changed_among_the_references_is_found(filled):
    """They have no checksum of their own."""
    for statement in (
        "INSERT INTO chunk_refs VALUES (x'aa', 1, 1)",
        "UPDATE chunk_refs SET digest = x'ab' WHERE digest = x'aa'",
        "UPDATE chunk_refs SET version = 2 WHERE digest = x'ab'",
        "UPDATE chunk_refs SET size_bytes = 2 WHERE digest = x'ab'",
    ):
        change(filled, statement)
        with pytest.raises(RowDamagedError):
            verify(filled)
    change(filled, "DELETE FROM chunk_refs WHERE digest = x'ab'")
    verify(filled)


@pytest.mark.parametrize("column", ["last_applied", "epoch", "horizon", "lived_ms", "content_sum", "checksum"])
def test_a_changed_state_is_found_when_the_file_is_opened(filled, column):
    """What was applied last is the worst thing to be wrong about."""
    change(filled, f"UPDATE state SET {column} = {column} + 1")
    with pytest.raises(RowDamagedError):
        MetadataStore.open(filled)


def test_the_scrub_sees_every_row(filled):
    """All tables with checksums, each row once."""
    connection = sqlite3.connect(filled)
    counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES_WITH_CHECKSUMS]
    connection.close()
    assert min(counts) > 0
    assert scrub(filled) == sum(counts)


@pytest.mark.parametrize(
    ("statement", "query"),
    [
        ("UPDATE files SET etag = 'x' WHERE key = x'62'", GetFile(bucket="default", key="b")),
        ("UPDATE files SET etag = 'x' WHERE key = x'62'", ListFiles(bucket="default")),
        ("UPDATE versions SET body = x'00' WHERE version = 3", GetFile(bucket="default", key="b")),
        ("DELETE FROM versions WHERE version = 3", GetFile(bucket="default", key="b")),
        (
            "UPDATE tombstones SET deleted_index = 3 WHERE bucket = 'default' AND key = x'676f6e65'",
            GetFile(bucket="default", key="gone"),
        ),
        ("UPDATE requests SET log_index = 99 WHERE request_id = 'b'", GetRequest(request_id="b")),
        ("UPDATE buckets SET created_ns = 5 WHERE name = 'photos'", GetBucket(bucket="photos")),
        ("UPDATE buckets SET created_ns = 5 WHERE name = 'photos'", ListBuckets()),
        ("UPDATE state SET horizon = 1", ListBuckets()),
    ],
)
def test_a_damaged_row_is_never_served(filled, statement, query):
    """Not to readers, whatever they ask."""
    store = MetadataStore.open(filled)
    change(filled, statement)
    with pytest.raises(RowDamagedError):
        store.answer([query], term=1)
    store.close()


def test_a_damaged_row_stops_the_entry_that_needs_it(filled):
    """A decision from a wrong row would make this member's state differ from the others' for ever."""
    log = Log(filled, is_initialised=False)
    change(filled, "UPDATE files SET version = version + 1 WHERE key = x'62'")
    before = log.store.last_applied
    with pytest.raises(RowDamagedError):
        log.apply(publish("b", if_match=["etag-1"], start_index=before))
    assert log.store.last_applied == before
    log.store.close()
