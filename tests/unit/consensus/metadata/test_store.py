"""The store as a whole: one transaction per batch, equal on every member, whole after every crash."""

import os
import random
import sqlite3
import threading
from pathlib import Path

import pytest

from services.consensus.metadata import store as store_module
from services.consensus.metadata.database import ConstraintViolatedError, RowDamagedError, UnknownTablesError
from services.consensus.metadata.entries import CommittedEntry, UnknownEntryError
from services.consensus.metadata.store import MetadataStore
from services.consensus.metadata.verification import verify
from shared.contracts.metadata import (
    AdmitNode,
    GetCluster,
    GetFile,
    ListBuckets,
    ListFiles,
)
from shared.contracts.objects import GetBucketDocument, ListVersions, PutBucketDocument
from tests.unit.consensus.metadata.builders import Log, content, entry, publish, stamp
from tests.unit.consensus.metadata.histories import history


def apply_split(path: Path, entries: list[CommittedEntry], chance: random.Random, *, reopen: bool):
    """Apply in batches of random size; the results, the hash, and the node map at the end."""
    store, results, at = MetadataStore.open(path), [], 0
    while at < len(entries):
        size = chance.randrange(1, 30)
        results += store.apply_batch(entries[at : at + size])
        at += size
        if reopen:
            store.close()
            store = MetadataStore.open(path)
    outcome = results, store.state_hash(), store.node_map(), store.highest_hlc()
    store.close()
    assert verify(path).digest() == outcome[1]
    return outcome


@pytest.mark.parametrize("seed", range(5))
def test_batches_and_restarts_make_no_difference(tmp_path, seed):
    """The same entries give the same results, tables and hash, however they are cut and however often it restarts."""
    entries, chance = history(300, seed), random.Random(seed)
    whole = MetadataStore.open(tmp_path / "whole")
    results = whole.apply_batch(entries)
    expected = results, whole.state_hash(), whole.node_map(), whole.highest_hlc()
    whole.close()
    assert {result.problem["code"] for result in results if result and result.problem} >= {"bucket_not_found"}
    assert apply_split(tmp_path / "split", entries, chance, reopen=False) == expected
    assert apply_split(tmp_path / "restarted", entries, chance, reopen=True) == expected


def test_the_hash_sees_every_difference(tmp_path):
    """A state that differs in one byte of one row, or in last_applied alone, has another hash."""
    entries = history(60, 1)
    hashes = set()
    for name, variant in (
        ("same", entries),
        ("longer", [*entries, CommittedEntry(61, 1, None)]),
        ("term", [*entries, CommittedEntry(61, 2, None)]),
        ("other", [*entries, entry(61, publish("k", etag="etag-2"))]),
        ("other metadata", [*entries, entry(61, publish("k", user_metadata={"colour": "blux"}))]),
    ):
        store = MetadataStore.open(tmp_path / name)
        store.apply_batch(variant)
        hashes.add(store.state_hash())
        store.close()
    assert len(hashes) == 5


def test_a_restart_goes_on_after_what_was_applied(tmp_path):
    """Everything is there again, and the next entry is the one after last_applied."""
    log = Log(tmp_path / "m")
    log.apply(publish("a"))
    before = log.ask(GetFile(bucket="default", key="a")), log.ask(GetCluster()), log.store.state_hash()
    log.store.close()
    again = Log(tmp_path / "m", is_initialised=False)
    assert again.store.last_applied == 2
    assert again.store.cluster_id == "trivet-test"
    assert again.store.node_map() == before[1].node_map
    assert (again.ask(GetFile(bucket="default", key="a")), again.ask(GetCluster()), again.store.state_hash()) == before
    again.apply(publish("b"))
    again.store.close()


@pytest.mark.parametrize("index", [1, 2, 4])
def test_an_entry_is_applied_once_and_in_order(log, index):
    """What was applied, and what would leave a gap, is our own mistake and is refused."""
    log.apply(publish("a"))
    assert log.store.last_applied == 2
    with pytest.raises(AssertionError):
        log.store.apply_batch([CommittedEntry(index, 1, None)])
    assert log.store.last_applied == 2
    assert log.store.apply_batch([CommittedEntry(3, 1, None)]) == [None]
    assert log.store.last_applied == 3


def test_a_batch_with_an_unknown_entry_leaves_nothing(log):
    """The entries before it are not applied either: the member stops with a state that it can name."""
    before = log.store.state_hash(), log.store.node_map(), log.store.highest_hlc()
    batch = [
        entry(2, publish("a", stamp=stamp(99))),
        entry(3, AdmitNode(node_id="storage-9", stamp=stamp())),
        CommittedEntry(4, 1, b"\xff"),
    ]
    with pytest.raises(UnknownEntryError):
        log.store.apply_batch(batch)
    assert (log.store.state_hash(), log.store.node_map(), log.store.highest_hlc()) == before
    assert log.store.last_applied == 1
    log.store.apply_batch(batch[:2])
    assert log.ask(GetFile(bucket="default", key="a")).version == 2


def test_a_full_disk_leaves_the_state_before_the_batch(log):
    """The batch fails as a whole, answers go on, and the same batch applies once there is room."""
    batch = [entry(n, publish(f"{n}", content=content(100_000, fill=n % 9))) for n in range(2, 60)]
    connection = log.store._writer.database.connection
    [[pages]] = connection.execute("PRAGMA page_count")
    connection.execute(f"PRAGMA max_page_count={pages + 5}")
    before = log.store.state_hash()
    with pytest.raises(sqlite3.OperationalError, match="full"):
        log.store.apply_batch(batch)
    assert (log.store.last_applied, log.store.state_hash()) == (1, before)
    assert log.ask(GetFile(bucket="default", key="2")).file is None
    connection.execute("PRAGMA max_page_count=1073741823")
    log.store.apply_batch(batch)
    assert log.store.last_applied == 59


def test_members_record_the_hash_at_the_same_indexes_however_they_were_batched(tmp_path, monkeypatch):
    """So that members can be compared while entries keep coming; the last few marks are kept."""
    monkeypatch.setattr(store_module, "MARK_EVERY_ENTRIES", 4)
    monkeypatch.setattr(store_module, "MARKS_KEPT", 2)
    entries = history(17, 5)
    marks = []
    for batch in (1, 5, 17):
        store = MetadataStore.open(tmp_path / f"{batch}.sqlite")
        for start in range(0, len(entries), batch):
            store.apply_batch(entries[start : start + batch])
        marks.append(store.marks())
        store.close()
    assert [mark.index for mark in marks[0]] == [12, 16]
    assert marks[0] == marks[1] == marks[2]


def test_a_checkpoint_syncs_what_was_applied(log, monkeypatch):
    """The log is cut below it afterwards: a sync that is left out loses files in a power cut and nowhere else."""
    log.apply(publish("k"))
    synced = []
    right = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_ino) or right(fd))
    write_ahead = log.store.path.with_name(log.store.path.name + "-wal")
    assert log.store.checkpoint() == log.store.last_applied
    assert write_ahead.stat().st_ino in synced


def test_a_checkpoint_claims_no_more_than_was_applied_when_its_sync_began(log, monkeypatch):
    """What is applied during the sync may not be on the disk."""
    right = store_module.sync_write_ahead

    def sync_while_others_apply(path):
        right(path)
        log.apply(publish("late"))

    monkeypatch.setattr(store_module, "sync_write_ahead", sync_while_others_apply)
    before = log.store.last_applied
    assert log.store.checkpoint() == before


def test_an_empty_batch_is_nothing(log):
    """Neither a transaction nor an error."""
    assert log.store.apply_batch([]) == []


def test_one_answer_comes_from_one_index(log):
    """All queries of a batch see one state, and it is named."""
    log.apply(publish("a"))
    results = log.store.answer([GetFile(bucket="default", key="a"), ListFiles(bucket="nowhere")], term=5)
    assert (results.log_index, results.term, results.epoch) == (2, 5, 3)
    assert results.results[0].answer.version == 2
    assert results.results[1].answer.has_bucket is False


def test_every_answer_names_its_cluster(log):
    """So that nothing that was learnt from one cluster is held against another one at the same addresses."""
    assert log.store.answer([], term=1).cluster_id == log.store.cluster_id is not None


def test_answers_in_another_thread_see_whole_batches(tmp_path):
    """While batches are applied, a reader never sees a part of one: each batch publishes two files at once."""
    log = Log(tmp_path / "m")
    done, torn = threading.Event(), []

    def read() -> None:
        last = 0
        while not done.is_set():
            results = log.store.answer([ListFiles(bucket="default")], term=1)
            count = len(results.results[0].answer.files)
            if count % 2 or results.log_index != 1 + count or count < last:
                torn.append((results.log_index, count))
            last = count

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for n in range(0, 300, 2):
            at = log.next_index
            log.store.apply_batch([entry(at, publish(f"{n:04}")), entry(at + 1, publish(f"{n:04}+"))])
    finally:
        done.set()
        reader.join(timeout=30)
    assert torn == []
    assert not reader.is_alive()
    log.store.close()


def test_a_damaged_row_stops_the_answer(log):
    """A body that no longer fits its checksum is never served."""
    log.apply(publish("a"))
    connection = sqlite3.connect(log.path, isolation_level=None)
    [[body]] = connection.execute("SELECT body FROM versions")
    connection.execute("UPDATE versions SET body = ?", (body.replace(b"etag-1", b"etag-2"),))
    connection.close()
    with pytest.raises(RowDamagedError):
        log.ask(GetFile(bucket="default", key="a"))


def test_an_entry_that_the_tables_refuse_is_named(log):
    """And nothing of its batch is applied: whether the tables or this version are wrong is for the next start to find out."""
    log.apply(publish("a"))
    at = log.next_index
    log.store._writer._insert("versions", at, b"in the way")
    log.store._writer.database.connection.commit()
    with pytest.raises(ConstraintViolatedError, match=f"the entry {at} cannot be applied: UNIQUE"):
        log.apply(publish("b"))
    assert log.store.last_applied == at - 1


def test_tables_of_another_version_are_refused(tmp_path):
    """A member does not guess what a later version meant."""
    Log(tmp_path / "m").store.close()
    connection = sqlite3.connect(tmp_path / "m")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(UnknownTablesError):
        MetadataStore.open(tmp_path / "m")


def test_a_file_that_is_no_database_is_refused(tmp_path):
    """And left as it is."""
    (tmp_path / "m").write_bytes(b"not a database" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        MetadataStore.open(tmp_path / "m")
    assert (tmp_path / "m").read_bytes().startswith(b"not a database")


@pytest.mark.parametrize(
    "query",
    [
        ListBuckets(),
        ListFiles(bucket="default"),
        GetFile(bucket="default", key="a"),
        ListVersions(bucket="default"),
        GetBucketDocument(bucket="default", kind_name="policy"),
    ],
    ids=lambda query: query.kind,
)
def test_a_batch_of_answers_is_bounded(log, query):
    """What does not fit after the first answer gets a problem that says to ask again, whatever was asked for."""
    log.apply(publish("a", content=content(3000)))
    log.apply(PutBucketDocument(bucket="default", kind_name="policy", body=b"x" * 100, stamp=stamp()))
    first, *others = log.store.answer([query, query, query], term=1, max_bytes=50).results
    assert first.answer is not None
    assert [other.problem["code"] for other in others] == ["overloaded", "overloaded"]
