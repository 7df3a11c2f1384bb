"""The audit trail: which change gets which row, equal chains on all members, and an end that can be cut and still be proved."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.consensus.metadata import audit
from services.consensus.metadata.audit_rows import SUBJECTS
from services.consensus.metadata.copy import write_copy
from services.consensus.metadata.database import RowDamagedError
from services.consensus.metadata.entries import CommittedEntry
from services.consensus.metadata.store import MARK_EVERY_ENTRIES, MetadataStore
from services.consensus.metadata.verification import verify
from shared.audit_chain import NO_LINK, ChainBrokenError, ChainPoint, follow
from shared.contracts.access import Requester
from shared.contracts.audit import AuditPage, AuditRow, ListAudit
from shared.contracts.metadata import AnyCommand, CreateBucket, DeleteBucket, DeleteFile, PassTime
from shared.contracts.objects import (
    BucketSettings,
    CopyFile,
    DeleteFiles,
    FileToDelete,
    PutBucketDocument,
    PutBucketSettings,
    SetTags,
)
from shared.contracts.uploads import AbortUpload, BeginUpload
from tests.unit.consensus.metadata.builders import Log, entry, publish, stamp
from tests.unit.consensus.metadata.test_verification import scrub

ANN = Requester(principal="a" * 64, key="TV" + "A" * 18, access_index=0, request="req-1", address="192.0.2.7")
COPY = {"bucket": "default", "source_bucket": "default", "stamp": stamp()}
MINUTE_MS = 60_000


@pytest.fixture
def audited(tmp_path) -> Log:
    """With entries of version 4 in force."""
    log = Log(tmp_path / "m", entry_version=4)
    yield log
    log.store.close()


def page_of(log: Log, after: int = 0, limit: int = 1000) -> AuditPage:
    page = log.ask(ListAudit(after=after, limit=limit))
    assert isinstance(page, AuditPage)
    return page


def rows_of(log: Log) -> list[dict[str, Any]]:
    """All rows; the chain is checked on the way."""
    page = page_of(log)
    lines = page.lines.encode().splitlines(keepends=True)
    end = follow(point_of(page), lines)
    assert (end.index, end.link.hex()) == (page.head.index, page.head.link)
    return [json.loads(line)["row"] for line in lines]


def point_of(page: AuditPage) -> ChainPoint:
    return ChainPoint(page.begin.index, bytes.fromhex(page.begin.link))


def pass_time(log: Log, elapsed_ms: int, *, retention_s: int = 3600, limit_bytes: int = 1 << 30) -> dict[str, Any]:
    return log.apply(time_entry(elapsed_ms, retention_s, limit_bytes), retain_s=0)


def time_entry(elapsed_ms: int, retention_s: int, limit_bytes: int) -> PassTime:
    return PassTime(
        elapsed_ms=elapsed_ms,
        cursor_retention_s=900,
        tombstone_retention_s=900,
        audit_retention_s=retention_s,
        audit_limit_bytes=limit_bytes,
        stamp=stamp(),
    )


def test_a_change_has_a_row_with_everything_that_was_known_of_it(audited):
    """Who, by which key, from where, in which request, when, what, which version, and what became of it."""
    published = audited.propose(publish("photos/ä", stamp=stamp(1_700_000_000)), requester=ANN)
    [row] = rows_of(audited)
    assert row == {
        "index": published.log_index,
        "time": "2023-11-14T22:13:20.000000Z",
        "hlc": "6553f10000000000",
        "clock": "LOGICAL",
        "principal": "a" * 64,
        "kind": "publish_file",
        "outcome": "ok",
        "access_key": "TV" + "A" * 18,
        "request": "req-1",
        "address": "192.0.2.7",
        "bucket": "default",
        "key": "photos/ä",
        "version": published.log_index,
    }


def test_a_refusal_of_the_log_has_a_row_too(audited):
    """With its code, and what was asked for."""
    audited.propose(DeleteFile(bucket="default", key="none", version=7, stamp=stamp()), requester=ANN)
    audited.propose(publish("a", if_match=["*"]), requester=ANN, attempt_id="a1")
    found = [(row["kind"], row["outcome"], row["key"], row.get("version")) for row in rows_of(audited)]
    assert found == [
        ("delete_file", "version_not_found", "none", 7),
        ("publish_file", "precondition_failed", "a", None),
    ]


def test_a_change_by_somebody_who_may_not_any_more_has_a_row(audited):
    """With the entry's own time: what a batch did before it must not show."""
    policy = PutBucketDocument(bucket="default", kind_name="policy", body=b"{}", stamp=stamp(5))
    batch = [
        entry(audited.next_index, policy),
        entry(audited.next_index + 1, publish("a", stamp=stamp(9)), requester=ANN, attempt_id="a1"),
    ]
    audited.store.apply_batch(batch)
    [row] = rows_of(audited)
    assert (row["kind"], row["key"], row["outcome"]) == ("publish_file", "a", "access_changed")
    assert row["time"] == "1970-01-01T00:00:09.000000Z"


def test_what_is_done_for_nobody_has_no_row(audited):
    """The cluster's own entries would bury the others; and earlier versions name nobody."""
    audited.apply(publish("a"))
    pass_time(audited, 1)
    assert page_of(audited).lines == ""
    assert page_of(audited).head.link == NO_LINK.hex()


def test_a_repeat_has_no_row_of_its_own(audited):
    """It changes nothing; the row of the first time stands. Nor has another request under a remembered id."""
    for fingerprint in ("f", "f", "g"):
        audited.propose(publish("a"), request_id="once", fingerprint=fingerprint, requester=ANN)
    audited.propose(publish("b"), request_id="twice", attempt_id="once", requester=ANN)
    assert [row["key"] for row in rows_of(audited)] == ["a"]


def test_a_batch_names_every_file_and_what_became_of_it(audited):
    """In one row: what a list left out could be hidden behind what it shows."""
    audited.apply(publish("a"))
    keys = ["a", "none", "\0", *(f"k{number:03}/" + "x" * 900 for number in range(240))]
    files = [FileToDelete(key=key) for key in keys]
    audited.propose(DeleteFiles(bucket="default", files=files, stamp=stamp()), requester=ANN)
    [row] = rows_of(audited)
    assert (row["kind"], row["bucket"], row["outcome"]) == ("delete_files", "default", "ok")
    assert [file["key"] for file in row["files"]] == keys
    assert {file["key"]: file["outcome"] for file in row["files"] if "outcome" in file} == {"\0": "invalid_name"}


def test_copies_uploads_and_settings_say_what_they_are_about(audited):
    """Each kind its own subject: the source of a copy, the number of an upload, the kind of a document."""
    audited.apply(publish("a"))
    nonce = "1" * 32
    begin = BeginUpload(bucket="default", key="u", nonce=nonce, content_type="text/plain", stamp=stamp())
    number = audited.propose(begin, requester=ANN).log_index
    for command in (
        AbortUpload(upload=number, nonce=nonce, stamp=stamp()),
        CopyFile(key="b", source_key="a", is_move=True, **COPY),
        SetTags(bucket="default", key="b", tags={"n": "1"}, stamp=stamp()),
        PutBucketDocument(bucket="default", kind_name="cors", body=b"{}", stamp=stamp()),
        PutBucketSettings(bucket="default", settings=BucketSettings(), stamp=stamp()),
        CreateBucket(bucket="photos", stamp=stamp()),
    ):
        audited.propose(command, requester=ANN)
    common = {"index", "time", "hlc", "clock", "principal", "outcome", "access_key", "request", "address"}
    found = [{name: value for name, value in row.items() if name not in common} for row in rows_of(audited)]
    source = {"bucket": "default", "key": "a"}
    assert found == [
        {"kind": "begin_upload", "bucket": "default", "key": "u", "upload": number},
        {"kind": "abort_upload", "upload": number},
        {
            "kind": "copy_file",
            "bucket": "default",
            "key": "b",
            "version": number + 2,
            "source": source,
            "is_move": True,
        },
        {"kind": "set_tags", "bucket": "default", "key": "b"},
        {"kind": "put_bucket_document", "bucket": "default", "document": "cors"},
        {"kind": "put_bucket_settings", "bucket": "default"},
        {"kind": "create_bucket", "bucket": "photos"},
    ]


def test_every_kind_of_command_has_a_subject():
    """A kind that nobody thought of would fail on the first change of that kind, on every member."""
    kinds = {command.model_fields["kind"].default: command for command in get_args(get_args(AnyCommand)[0])}
    assert set(SUBJECTS) == set(kinds)
    for kind, subject in SUBJECTS.items():
        assert set(subject.values()) <= set(kinds[kind].model_fields), kind
        assert set(subject) <= set(AuditRow.__struct_fields__), kind


def test_a_name_that_breaks_the_rules_is_cut(audited):
    """Refused, and named as far as a name may be long: a row is no place to keep a megabyte."""
    audited.propose(publish("x" * 100_000), requester=ANN)
    [row] = rows_of(audited)
    assert (row["key"], row["outcome"]) == ("x" * 1024, "invalid_name")


# --- the chain ----------------------------------------------------------------------------------------------------


def history(seed: int, count: int) -> list[CommittedEntry]:
    """For somebody and for nobody, with repeats, refusals because of a changed policy, and time that cuts the trail."""
    chance = random.Random(seed)
    made: list[CommittedEntry] = []
    for index in range(4, 4 + count):
        key = f"k{chance.randrange(6)}"
        command = chance.choice(
            [
                publish(key, start_index=1),
                publish(key, start_index=1, if_match=["*"]),
                DeleteFile(bucket="default", key=key, stamp=stamp()),
                DeleteFiles(bucket="default", files=[FileToDelete(key=key), FileToDelete(key="\0")], stamp=stamp()),
                CopyFile(key="ü", source_key=key, **COPY),
                PutBucketDocument(bucket="default", kind_name="policy", body=b"{}", stamp=stamp(index)),
                time_entry(chance.randrange(200_000), chance.randrange(900), chance.choice([500, 2000, 1 << 30])),
            ]
        )
        is_for_nobody = isinstance(command, PassTime) or chance.random() < 0.2
        request_id = f"request-{chance.randrange(4, index + 1)}"
        who = ANN.model_copy(update={"principal": chance.choice(["system", "a" * 64]), "address": f"192.0.2.{index}"})
        requester = None if is_for_nobody else who
        made.append(entry(index, command, request_id=request_id, retain_s=600, requester=requester))
    return made


def table_of(path: Path) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT * FROM audit ORDER BY log_index").fetchall()
    finally:
        connection.close()


def applied(path: Path, entries: Sequence[CommittedEntry], sizes: Sequence[int], *, reopens: bool) -> tuple[Any, ...]:
    """Everything that members compare, and the rows of the trail."""
    log = Log(path, entry_version=4)
    store, at, turn = log.store, 0, 0
    while at < len(entries):
        size = sizes[turn % len(sizes)]
        store.apply_batch(entries[at : at + size])
        at, turn = at + size, turn + 1
        if reopens:
            store.close()
            store = MetadataStore.open(path)
    found = store.state_hash(), store.summary().trail, store.marks() if not reopens else None
    store.close()
    verify(path)
    return *found, table_of(path)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4), reopens=st.booleans())
def test_batches_and_restarts_make_no_difference_to_the_trail(tmp_path_factory, seed, sizes, reopens):
    """A prefix of the log has one chain, however it was cut into batches and wherever the member crashed between them."""
    folder = tmp_path_factory.mktemp("trail")
    entries = history(seed, 80)
    whole = applied(folder / "whole", entries, [len(entries)], reopens=False)
    assert applied(folder / "cut", entries, sizes, reopens=False) == whole
    again = applied(folder / "again", entries, sizes, reopens=reopens)
    assert (again[0], again[1], again[3]) == (whole[0], whole[1], whole[3])


def test_marks_in_the_middle_of_a_batch_see_the_trail(tmp_path):
    """Its rows are written at the end of a batch; what members compare in the middle must not depend on that."""
    count = 2 * MARK_EVERY_ENTRIES
    entries = [entry(index, publish(f"k{index}", start_index=1), requester=ANN) for index in range(4, 4 + count)]
    one = applied(tmp_path / "one", entries, [count], reopens=False)
    other = applied(tmp_path / "other", entries, [7], reopens=False)
    assert one == other
    assert len(one[2]) == 2


def test_the_state_hash_sees_who_changed_what(tmp_path):
    """Two members with the same rows and another trail differ: a refusal leaves nothing else."""
    sums, hashes = set(), set()
    for name, requester in (("none", None), ("ann", ANN), ("bob", ANN.model_copy(update={"principal": "b" * 64}))):
        log = Log(tmp_path / name, entry_version=4)
        log.propose(DeleteBucket(bucket="absent", stamp=stamp()), requester=requester)
        sums.add(log.store.summary().content_sum)
        hashes.add(log.store.state_hash())
        log.store.close()
    assert (len(sums), len(hashes)) == (1, 3)


def test_a_batch_that_fails_leaves_no_row(audited):
    """The rows are part of the transaction."""
    audited.propose(publish("a"), requester=ANN)
    before = audited.store.state_hash(), audited.store.summary().trail
    batch = [entry(audited.next_index, publish("b"), requester=ANN), CommittedEntry(audited.next_index + 1, 1, b"\xff")]
    with pytest.raises(Exception, match="not known"):
        audited.store.apply_batch(batch)
    assert (audited.store.state_hash(), audited.store.summary().trail) == before
    audited.store.apply_batch(batch[:1])
    assert [row["key"] for row in rows_of(audited)] == ["a", "b"]


def test_a_copy_of_the_tables_keeps_the_trail(audited, tmp_path):
    """Snapshots and backups: the copy goes on from the same link."""
    audited.propose(publish("a"), requester=ANN)
    write_copy(audited.path, tmp_path / "copy")
    assert verify(tmp_path / "copy").trail == audited.store.summary().trail
    copied = MetadataStore.open(tmp_path / "copy")
    more = [entry(audited.next_index, publish("b"), requester=ANN)]
    copied.apply_batch(more)
    audited.store.apply_batch(more)
    assert copied.state_hash() == audited.store.state_hash()
    copied.close()


# --- pages --------------------------------------------------------------------------------------------------------


def test_pages_follow_each_other_link_by_link(audited, monkeypatch):
    """Bounded in rows and in bytes, one row at least; each says which link it follows."""
    for number in range(7):
        audited.propose(publish(f"k{number}"), requester=ANN)
        audited.apply(publish("between"))
    monkeypatch.setattr(audit, "AUDIT_PAGE_BYTES", 700)
    for limit in (1, 2, 1000):
        point, keys = ChainPoint(), []
        while (page := page_of(audited, point.index, limit)).lines:
            assert point_of(page) == point
            lines = page.lines.encode().splitlines(keepends=True)
            assert len(lines) <= min(limit, 2)
            point = follow(point, lines)
            assert point.index == page.last_index
            keys += [json.loads(line)["row"]["key"] for line in lines]
        assert keys == [f"k{number}" for number in range(7)]
        assert point.link.hex() == page.head.link


def test_a_page_begins_behind_the_last_row_up_to_the_index(audited):
    """Also where the index is none of the trail, or beyond it."""
    first = audited.propose(publish("a"), requester=ANN).log_index
    audited.apply(publish("between"))
    second = audited.propose(publish("b"), requester=ANN).log_index
    begins = [page_of(audited, after).begin.index for after in (0, first, first + 1, second, second + 99)]
    assert begins == [0, first, first, second, second]


# --- cutting ------------------------------------------------------------------------------------------------------


def test_rows_are_cut_when_their_time_is_over(audited):
    """Not a tick earlier; the chain goes on from the anchor, and its head stays."""
    audited.propose(publish("a"), requester=ANN)
    old = audited.propose(publish("b"), requester=ANN).log_index
    head = page_of(audited).head
    pass_time(audited, 1, retention_s=60)
    pass_time(audited, MINUTE_MS - 1, retention_s=60)
    assert [row["key"] for row in rows_of(audited)] == ["a", "b"]
    pass_time(audited, 1, retention_s=60)
    assert rows_of(audited) == []
    assert page_of(audited).begin == page_of(audited).head == head
    audited.propose(publish("c"), requester=ANN)
    assert [row["key"] for row in rows_of(audited)] == ["c"]
    assert page_of(audited).begin.index == old
    verify(audited.path)


def test_a_file_that_was_exported_proves_what_was_cut(audited):
    """Its last link is that at which the kept part begins."""
    for key in "abc":
        audited.propose(publish(key), requester=ANN)
    exported = page_of(audited)
    pass_time(audited, 1, retention_s=60)
    pass_time(audited, MINUTE_MS, retention_s=60)
    audited.propose(publish("d"), requester=ANN)
    end = follow(point_of(exported), exported.lines.encode().splitlines())
    assert point_of(page_of(audited)) == end
    follow(end, page_of(audited).lines.encode().splitlines())


def test_the_oldest_rows_are_cut_beyond_the_limit(audited):
    """As many as it takes, and no more."""
    for number in range(6):
        audited.propose(publish(f"k{number}"), requester=ANN)
    [size_bytes] = {len(row) for *_, row in table_of(audited.path)}
    pass_time(audited, 1, limit_bytes=4 * size_bytes)
    assert [row["key"] for row in rows_of(audited)] == ["k2", "k3", "k4", "k5"]
    pass_time(audited, 1, limit_bytes=4 * size_bytes - 1)
    assert [row["key"] for row in rows_of(audited)] == ["k3", "k4", "k5"]


@pytest.mark.parametrize(("rows_max", "bytes_max", "rounds"), [(2, 1 << 20, 4), (1000, 1, 7), (1000, 1 << 20, 1)])
def test_one_entry_cuts_a_bounded_part_and_says_that_there_is_more(audited, monkeypatch, rows_max, bytes_max, rounds):
    """In rows and in bytes; one row at least."""
    monkeypatch.setattr(audit, "CUT_ROWS_MAX", rows_max)
    monkeypatch.setattr(audit, "CUT_BYTES_MAX", bytes_max)
    for number in range(7):
        audited.propose(publish(f"k{number}"), requester=ANN)
    answers = [pass_time(audited, 1, limit_bytes=0).get("has_more", False)]
    while answers[-1]:
        answers.append(pass_time(audited, 0, limit_bytes=0).get("has_more", False))
    assert len(answers) == rounds
    assert rows_of(audited) == []


def test_what_a_batch_recorded_can_be_cut_by_the_same_batch(audited, tmp_path):
    """Rows that are not written yet count as all others."""
    at = audited.next_index
    batch = [entry(at + number, publish(f"k{number}"), requester=ANN) for number in range(3)]
    batch.append(entry(at + 3, time_entry(1, 3600, 0), retain_s=0))
    audited.store.apply_batch(batch)
    assert rows_of(audited) == []
    assert page_of(audited).begin.index == at + 2
    other = applied(tmp_path / "other", batch, [1], reopens=False)
    assert other[0] == audited.store.state_hash()


def test_entries_of_earlier_versions_cut_nothing(audited):
    """They do not know for how long."""
    audited.propose(publish("a"), requester=ANN)
    for elapsed_ms in (1, 10**12):
        audited.apply(
            PassTime(elapsed_ms=elapsed_ms, cursor_retention_s=1, tombstone_retention_s=1, stamp=stamp()), retain_s=0
        )
    assert [row["key"] for row in rows_of(audited)] == ["a"]


# --- damage -------------------------------------------------------------------------------------------------------


CHANGES = {
    "a row": "UPDATE audit SET row=CAST(replace(CAST(row AS TEXT), 'publish', 'xublish') AS BLOB) WHERE log_index={at}",
    "a row without its text": "UPDATE audit SET row=x'' WHERE log_index={at}",
    "a link": "UPDATE audit SET link=zeroblob(32) WHERE log_index={at}",
    "a length": "UPDATE audit SET end_bytes=end_bytes+1 WHERE log_index={at}",
    "a row less": "DELETE FROM audit WHERE log_index={at}",
    "a row too many": "INSERT INTO audit SELECT log_index+1, end_bytes, link, row FROM audit WHERE log_index={at}",
}


@pytest.fixture(params=[False, True], ids=["whole", "cut"])
def trail(request, tmp_path) -> Path:
    """Of rows at every second index."""
    log = Log(tmp_path / "m", entry_version=4)
    for number in range(8):
        log.propose(publish(f"k{number}"), requester=ANN)
        log.apply(publish("between"))
    if request.param:
        log.apply(time_entry(1, 3600, 5 * 400), retain_s=0)
    log.store.close()
    verify(log.path)
    return log.path


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("position", [1, 3, -2])
def test_a_changed_trail_is_found_by_the_check_the_scrub_and_whoever_reads_it(trail, change, position):
    """In the middle, at both ends, cut or not."""
    indexes = [row[0] for row in table_of(trail)]
    connection = sqlite3.connect(trail, isolation_level=None)
    connection.execute(CHANGES[change].format(at=indexes[position]))
    connection.close()
    with pytest.raises(RowDamagedError):
        verify(trail)
    with pytest.raises(RowDamagedError):
        scrub(trail)
    log = Log(trail, is_initialised=False)
    page = page_of(log)
    try:
        end = follow(point_of(page), page.lines.encode().splitlines())
    except ChainBrokenError:
        pass
    else:
        # A wrong length says nothing wrong about anybody.
        assert change == "a length"
        assert end.index == page.last_index
    log.store.close()


@pytest.mark.parametrize("page_rows", [1, 2, 3, 100])
def test_a_scrub_follows_the_trail_over_its_pages(trail, page_rows):
    """Also while its old end is cut meanwhile."""
    log = Log(trail, is_initialised=False)
    pages = audit.trail_pages(log.store._reader.database, page_rows)
    assert next(pages) > 0
    log.apply(time_entry(1, 3600, 500), retain_s=0)
    log.propose(publish("last"), requester=ANN)
    assert sum(pages) >= 0
    log.store.close()


def test_a_trail_whose_last_rows_are_gone_differs_from_the_others(trail):
    """Nothing in the file tells: the state hash does, which members compare."""
    before = verify(trail).digest()
    connection = sqlite3.connect(trail, isolation_level=None)
    connection.execute("DELETE FROM audit WHERE log_index=(SELECT max(log_index) FROM audit)")
    connection.close()
    assert verify(trail).digest() != before


def test_rows_are_chained_as_the_documentation_says(audited):
    """BLAKE3 of the link before and the bytes of the row."""
    audited.propose(publish("a"), requester=ANN)
    audited.propose(publish("b"), requester=ANN)
    link = bytes(32)
    for _, _, stored, row in table_of(audited.path):
        link = blake3(link + row).digest()
        assert link == stored
