"""Each rule of versions, deletions, copies and tags by itself, and every bad input: refused with its code, nothing changed."""

from __future__ import annotations

from typing import Any

import pytest

from services.consensus.metadata import batch_deletes, older_versions, retention
from services.consensus.metadata.entries import GARBAGE_VERSION, OBJECTS_VERSION
from services.consensus.metadata.tables import Tables
from services.consensus.metadata.usage import check_usage
from services.consensus.metadata.verification import verify
from shared.contracts.access import Requester
from shared.contracts.backups import BeginBackup, EndBackup
from shared.contracts.files import Preconditions
from shared.contracts.metadata import CreateBucket, DeleteBucket, DeleteFile, GetFile, ListFiles, PassTime
from shared.contracts.objects import (
    BucketSettings,
    CopyFile,
    CountObjects,
    DeleteBucketDocument,
    DeleteFiles,
    FileToDelete,
    GetBucketDocument,
    GetBucketSettings,
    ListVersions,
    PutBucketDocument,
    PutBucketSettings,
    SetTags,
)
from shared.errors import InvalidRequestError, TrivetError
from tests.unit.consensus.metadata.builders import Log, content, publish, referring_versions, stamp

BUCKET = "default"
GRACE_S = 1000


@pytest.fixture
def log(tmp_path) -> Log:
    return Log(tmp_path / "metadata.sqlite", entry_version=OBJECTS_VERSION)


def settings(versioning: str = "enabled", retention_s: int | None = None, bucket: str = BUCKET) -> PutBucketSettings:
    wanted = BucketSettings.model_validate({"versioning": versioning, "superseded_retention_s": retention_s})
    return PutBucketSettings(bucket=bucket, settings=wanted, stamp=stamp())


def put(log: Log, key: str = "k", **changes: Any) -> int:
    """The log index of a publish."""
    index = log.next_index
    log.apply(publish(key, start_index=index - 1, **changes))
    return index


def delete(log: Log, key: str = "k", version: int | None = None, **conditions: Any) -> dict[str, Any]:
    command = DeleteFile(
        bucket=BUCKET, key=key, version=version, preconditions=Preconditions(**conditions), stamp=stamp()
    )
    return log.apply(command)


def copy(source: str, key: str, **changes: Any) -> CopyFile:
    return CopyFile(bucket=BUCKET, key=key, source_bucket=BUCKET, source_key=source, stamp=stamp(), **changes)


def code_of(log: Log, command: Any) -> str:
    """Of the refusal; the state is what it was, but for the index."""
    before = log.store.summary().content_sum
    outcome = log.propose(command, retain_s=0)
    assert outcome.problem is not None, outcome.result
    assert log.store.summary().content_sum == before, "something was half done"
    return str(outcome.problem["code"])


def versions(log: Log, **query: Any) -> list[tuple[str, int, bool, bool]]:
    page = log.ask(ListVersions(bucket=BUCKET, **query))
    return [(e.key, e.version_id or e.version, e.is_marker, e.is_current) for e in page.versions]


def pass_time(log: Log, seconds: int, *, references_s: int = GRACE_S) -> None:
    """Until nothing more is to be forgotten."""
    elapsed_ms = seconds * 1000
    while log.apply(
        PassTime(
            elapsed_ms=elapsed_ms,
            cursor_retention_s=10,
            tombstone_retention_s=GRACE_S,
            reference_retention_s=references_s,
            condemned_retention_s=100_000,
            stamp=stamp(),
        ),
        retain_s=0,
    )["has_more"]:
        elapsed_ms = 0


# --- buckets ------------------------------------------------------------------------------------------------------


def test_a_bucket_has_the_defaults_until_something_is_set(log):
    """And says since when it has what it has; the same again changes nothing."""
    answer = log.ask(GetBucketSettings(bucket=BUCKET))
    assert (answer.settings, answer.log_index, answer.incarnation) == (BucketSettings(), 0, 1)
    index = log.next_index
    assert log.apply(settings(retention_s=5)) == {"log_index": index}
    assert log.apply(settings(retention_s=5)) == {"log_index": index}
    answer = log.ask(GetBucketSettings(bucket=BUCKET))
    assert (answer.settings.versioning, answer.settings.superseded_retention_s, answer.log_index) == (
        "enabled",
        5,
        index,
    )
    assert log.ask(GetBucketSettings(bucket="none")).settings is None


def test_settings_that_are_not_named_stay_as_entries_before_left_them(log):
    """So two who change different ones at the same time both keep what they set; the result says what came of it."""
    log.apply(settings(retention_s=5))
    index = log.next_index
    for name, wanted in (
        ("quota_files", BucketSettings(quota_files=7)),
        ("quota_bytes", BucketSettings(quota_bytes=9)),
    ):
        result = log.apply(PutBucketSettings(bucket=BUCKET, settings=wanted, names=[name], stamp=stamp()))
    kept = BucketSettings(versioning="enabled", superseded_retention_s=5, quota_files=7, quota_bytes=9)
    assert BucketSettings.model_validate(result["settings"]) == kept
    assert log.ask(GetBucketSettings(bucket=BUCKET)).settings == kept
    unchanged = PutBucketSettings(bucket=BUCKET, settings=BucketSettings(), names=[], stamp=stamp())
    assert log.apply(unchanged)["log_index"] == index + 1
    no_more = PutBucketSettings(bucket=BUCKET, settings=BucketSettings(), names=["versioning"], stamp=stamp())
    assert code_of(log, no_more) == "versioning_cannot_be_off"


@pytest.mark.parametrize("state", ["enabled", "suspended"])
def test_versioning_is_never_off_again(log, state):
    """Whatever it is now; between the other two it may change."""
    log.apply(settings(state))
    assert code_of(log, settings("off")) == "versioning_cannot_be_off"
    log.apply(settings("suspended"))
    log.apply(settings("enabled"))
    assert code_of(log, settings(bucket="none")) == "bucket_not_found"


def test_a_backup_under_way_keeps_the_retention_from_being_shortened(log):
    """It may grow; and be shortened once the backup has ended."""
    log.apply(settings(retention_s=100))
    log.apply(BeginBackup(backup_id="b", owner="o", lease_s=60, stamp=stamp()))
    assert code_of(log, settings(retention_s=99)) == "backup_pins_versions"
    log.apply(settings(retention_s=101))
    log.apply(settings(retention_s=None))
    assert code_of(log, settings(retention_s=10**6)) == "backup_pins_versions"
    log.apply(EndBackup(backup_id="b", stamp=stamp()))
    log.apply(settings(retention_s=1))


def test_a_bucket_with_older_versions_or_markers_is_not_empty(log):
    """It is deleted when all are gone, with its settings and documents; one that is made again has the defaults."""
    log.apply(CreateBucket(bucket="photos", stamp=stamp()))
    incarnation = log.store.last_applied
    log.apply(settings(bucket="photos"))
    log.apply(PutBucketDocument(bucket="photos", kind_name="policy", body=b"{}", stamp=stamp()))
    index = put(log, "k", bucket="photos", incarnation=incarnation)
    marker = log.next_index
    log.apply(DeleteFile(bucket="photos", key="k", stamp=stamp()))
    drop = DeleteBucket(bucket="photos", stamp=stamp())
    assert code_of(log, drop) == "bucket_not_empty"
    log.apply(DeleteFile(bucket="photos", key="k", version=index, stamp=stamp()))
    assert code_of(log, drop) == "bucket_not_empty"
    log.apply(DeleteFile(bucket="photos", key="k", version=marker, stamp=stamp()))
    log.apply(drop)
    log.apply(CreateBucket(bucket="photos", stamp=stamp()))
    assert log.ask(GetBucketSettings(bucket="photos")).settings == BucketSettings()
    assert log.ask(GetBucketDocument(bucket="photos", kind_name="policy")).body is None


def test_documents_are_kept_by_kind(log, monkeypatch):
    """One replaces the one before of its kind; a bucket has so many at most."""
    monkeypatch.setattr("services.consensus.metadata.buckets.DOCUMENTS_MAX", 2)

    def document(kind: str, body: bytes = b"{}") -> PutBucketDocument:
        return PutBucketDocument(bucket=BUCKET, kind_name=kind, body=body, stamp=stamp())

    log.apply(document("policy", b"\xff\x00"))
    log.apply(document("policy", b"new"))
    log.apply(document("cors"))
    assert code_of(log, document("website")) == "conflict"
    answer = log.ask(GetBucketDocument(bucket=BUCKET, kind_name="policy"))
    assert (answer.body, answer.log_index) == (b"new", log.store.last_applied - 2)
    gone = DeleteBucketDocument(bucket=BUCKET, kind_name="policy", stamp=stamp())
    assert log.apply(gone) == {"deleted": True}
    assert log.apply(gone) == {"deleted": False}
    assert log.ask(GetBucketDocument(bucket=BUCKET, kind_name="policy")).body is None
    assert not log.ask(GetBucketDocument(bucket="none", kind_name="policy")).has_bucket


# --- versions -----------------------------------------------------------------------------------------------------


def test_before_every_member_knows_versions_nothing_is_kept(tmp_path):
    """Not by entries of before, and what they write is written as before: two versions of Trivet come to the same sum."""
    log = Log(tmp_path / "old.sqlite", entry_version=GARBAGE_VERSION)
    put(log)
    put(log)
    file = log.ask(GetFile(bucket=BUCKET, key="k")).file
    assert (file.created_ns, file.is_null, file.version_id) == (None, True, None)
    assert log.store._reader.version_body(file.version)[0] == 1, "the form that members of before write"


def test_the_time_of_creation_outlives_replacements(log):
    """And not a deletion."""
    put(log, stamp=stamp(10))
    created_ns = log.ask(GetFile(bucket=BUCKET, key="k")).file.created_ns
    assert created_ns == stamp(10).approximate_ns
    put(log, stamp=stamp(20))
    assert log.ask(GetFile(bucket=BUCKET, key="k")).file.created_ns == created_ns
    delete(log)
    put(log, stamp=stamp(30))
    assert log.ask(GetFile(bucket=BUCKET, key="k")).file.created_ns == stamp(30).approximate_ns


def test_a_deletion_writes_a_marker_and_a_second_one_finds_nothing(log):
    """The key is absent, and says that a marker is the reason, when the deletion itself is long forgotten, too."""
    log.apply(settings())
    first = put(log)
    marker = log.next_index
    assert delete(log) == {"version": marker, "is_marker": True}
    assert code_of(log, DeleteFile(bucket=BUCKET, key="k", stamp=stamp())) == "file_not_found"
    pass_time(log, 10)
    pass_time(log, 10 * GRACE_S)
    answer = log.ask(GetFile(bucket=BUCKET, key="k"))
    assert (answer.file, answer.is_marker, answer.version) == (None, True, marker)
    by_version = log.ask(GetFile(bucket=BUCKET, key="k", version=marker))
    assert (by_version.file, by_version.is_marker) == (None, True)
    assert log.ask(GetFile(bucket=BUCKET, key="k", version=first)).file.version == first
    assert versions(log) == [("k", marker, True, True), ("k", first, False, False)]


def test_suspended_writes_replace_the_null_version_for_good(log):
    """Also where it is an older one by now; a null marker does the same, and says which version it replaced."""
    null = put(log)
    log.apply(settings())
    kept = put(log)
    log.apply(settings("suspended"))
    assert versions(log) == [("k", kept, False, True), ("k", null, False, False)]
    second = put(log)
    assert versions(log) == [("k", second, False, True), ("k", kept, False, False)]
    third = put(log)
    assert versions(log) == [("k", third, False, True), ("k", kept, False, False)]
    marker = log.next_index
    assert delete(log) == {"version": marker, "is_marker": True, "removed_version": third}
    assert versions(log) == [("k", marker, True, True), ("k", kept, False, False)]
    last = put(log)
    assert versions(log) == [("k", last, False, True), ("k", kept, False, False)]


def test_the_next_older_version_takes_the_place_of_one_that_is_removed(log):
    """Under a new index and known by the number it had; with its tags and its content, and modified after what it replaces."""
    log.apply(settings())
    first = put(log, content=content(2500, fill=7), tags={"colour": "red"}, stamp=stamp(10))
    before = log.ask(GetFile(bucket=BUCKET, key="k")).file
    second = put(log, stamp=stamp(20))
    vacated = log.ask(GetFile(bucket=BUCKET, key="k")).file
    index = log.next_index
    assert delete(log, version=second) == {"version": index, "removed_version": second}
    answer = log.ask(GetFile(bucket=BUCKET, key="k"))
    assert (answer.version, answer.file.version, answer.file.version_id) == (index, index, first)
    assert answer.file.modified_ns // 10**9 > vacated.modified_ns // 10**9, "If-Modified-Since would hide the change"
    update = {"version": index, "version_id": first, "term": answer.file.term, "modified_ns": answer.file.modified_ns}
    assert answer.file == before.model_copy(update=update)
    assert log.ask(GetFile(bucket=BUCKET, key="k", version=first)).file == answer.file
    assert log.ask(GetFile(bucket=BUCKET, key="k", version=second)).file is None
    assert delete(log, version=first)["removed_version"] == first
    assert log.ask(GetFile(bucket=BUCKET, key="k")).version == index + 1
    assert versions(log) == []


def test_pinned_lists_show_what_was_current_then(log):
    """Whatever was promoted or removed since."""
    log.apply(settings())
    first = put(log)
    pinned_first = log.store.last_applied
    second = put(log)
    pinned_second = log.store.last_applied
    delete(log, version=second)
    put(log, "other")

    def at(index: int) -> list[int]:
        return [file.version for file in log.ask(ListFiles(bucket=BUCKET, at_index=index)).files]

    assert at(pinned_first) == [first]
    assert at(pinned_second) == [second]
    assert at(pinned_second + 1) == [pinned_second + 1]


def test_removing_an_older_version_leaves_the_current_one(log):
    """And answers with the index that last changed the key."""
    log.apply(settings())
    first, second = put(log), put(log)
    assert delete(log, version=first) == {"version": second, "removed_version": first}
    assert versions(log) == [("k", second, False, True)]
    command = DeleteFile(bucket=BUCKET, key="k", version=first, stamp=stamp())
    assert code_of(log, command) == "version_not_found"
    assert code_of(log, command.model_copy(update={"key": "none"})) == "version_not_found"


def test_a_marker_below_a_removed_version_is_current_again(log):
    """The key is absent again, from this entry on."""
    log.apply(settings())
    first = put(log)
    marker = log.next_index
    delete(log)
    second = put(log)
    index = log.next_index
    delete(log, version=second)
    answer = log.ask(GetFile(bucket=BUCKET, key="k"))
    assert (answer.file, answer.is_marker, answer.version) == (None, True, index)
    assert delete(log, version=marker) == {"version": index + 1, "is_marker": True, "removed_version": marker}
    assert log.ask(GetFile(bucket=BUCKET, key="k")).file.version_id == first


@pytest.mark.parametrize("is_first_marker_kept", [False, True])
def test_an_absent_key_says_which_entry_changed_it_last(log, is_first_marker_kept):
    """The removal of its current marker says the number that is asked for later, whether another marker is below it or none."""
    log.apply(settings())
    first = put(log)
    markers = [delete(log)["version"]]
    delete(log, version=first)
    if is_first_marker_kept:
        second = put(log)
        markers.append(delete(log)["version"])
        delete(log, version=second)
    removed = delete(log, version=markers[-1])
    answer = log.ask(GetFile(bucket=BUCKET, key="k"))
    assert (answer.file, answer.is_marker, answer.version) == (None, is_first_marker_kept, removed["version"])


def test_conditions_of_a_removal_are_held_against_that_version(log):
    """Not against the current one."""
    log.apply(settings())
    first = put(log, etag="old")
    put(log, etag="new")
    command = DeleteFile(bucket=BUCKET, key="k", version=first, stamp=stamp())
    wrong = command.model_copy(update={"preconditions": Preconditions(if_match=["new"])})
    assert code_of(log, wrong) == "precondition_failed"
    assert delete(log, version=first, if_match=["old"])["removed_version"] == first


@pytest.mark.parametrize("way", ["removed", "replaced null", "retention"])
def test_what_is_removed_for_good_keeps_its_chunks_for_slow_readers(log, way):
    """Counted from its removal and not from when it was superseded, long before; so that backups count it, too."""
    if way != "replaced null":
        log.apply(settings())
    first = put(log, content=content(1000, fill=9))
    digest = content(1000, fill=9).chunk_digests
    log.apply(settings())
    put(log)
    pass_time(log, GRACE_S)
    pass_time(log, 10 * GRACE_S)
    assert referring_versions(log.store, digest) == [first]
    match way:
        case "removed":
            delete(log, version=first)
        case "replaced null":
            log.apply(settings("suspended"))
            put(log)
        case _:
            log.apply(settings(retention_s=1))
            pass_time(log, 1)
    assert log.ask(GetFile(bucket=BUCKET, key="k", version=first)).file is None
    log.apply(BeginBackup(backup_id="b", owner="o", lease_s=5 * GRACE_S, stamp=stamp()))
    pass_time(log, GRACE_S // 2)
    assert referring_versions(log.store, digest) == [first], "a slow reader may be in the middle"
    pass_time(log, GRACE_S)
    assert referring_versions(log.store, digest) == []


def test_a_backup_keeps_an_older_version_that_is_removed_after_it_began(log):
    """It counted on it, and was superseded before."""
    log.apply(settings())
    first = put(log, content=content(1000, fill=9))
    digest = content(1000, fill=9).chunk_digests
    put(log)
    pass_time(log, GRACE_S)
    log.apply(BeginBackup(backup_id="b", owner="o", lease_s=100 * GRACE_S, stamp=stamp()))
    delete(log, version=first)
    pass_time(log, GRACE_S)
    pass_time(log, GRACE_S)
    pass_time(log, GRACE_S)
    assert referring_versions(log.store, digest) == [first]
    log.apply(EndBackup(backup_id="b", stamp=stamp()))
    pass_time(log, 1)
    assert referring_versions(log.store, digest) == []


def test_superseded_versions_go_when_their_time_has_come(log):
    """By the log's own clock, both sides of the edge; markers that were superseded, too, and current ones never."""
    log.apply(settings(retention_s=100))
    first = put(log)
    marker = log.next_index
    delete(log)
    second = put(log)
    pass_time(log, 99)
    assert versions(log) == [("k", second, False, True), ("k", marker, True, False), ("k", first, False, False)]
    pass_time(log, 1)
    assert versions(log) == [("k", second, False, True)]
    last = log.next_index
    delete(log)
    pass_time(log, 1000)
    assert versions(log) == [("k", last, True, True)]


def test_one_entry_drops_a_bounded_number_of_versions(log, monkeypatch):
    """And says that there is more."""
    monkeypatch.setattr(retention, "FORGET_ROWS_MAX", 10)
    log.apply(settings(retention_s=1))
    for _ in range(30):
        put(log)
    before = log.store.last_applied
    pass_time(log, 10)
    assert len(versions(log)) == 1
    assert log.store.last_applied - before >= 3


def test_with_a_retention_of_nothing_no_version_is_kept(log):
    """It goes as in a bucket that keeps none; those of before stay until time passes."""
    log.apply(settings())
    first, second = put(log), put(log)
    log.apply(settings(retention_s=0))
    third, fourth = put(log), put(log)
    assert [number for _, number, *_ in versions(log)] == [fourth, first]
    assert log.ask(GetFile(bucket=BUCKET, key="k", version=third)).file is None
    assert second not in [number for _, number, *_ in versions(log)]


# --- batches ------------------------------------------------------------------------------------------------------


def batch(*files: tuple[str, int | None], **changes: Any) -> DeleteFiles:
    asked = [FileToDelete(key=key, version=version) for key, version in files]
    return DeleteFiles(bucket=BUCKET, files=asked, stamp=stamp(), **changes)


def test_a_batch_has_an_outcome_for_every_file(log):
    """What is absent is a success; what is no key is a problem of its own; a key gets one marker."""
    log.apply(settings())
    first = put(log, "a")
    put(log, "b")
    index = log.next_index
    results = log.apply(
        batch(("a", None), ("b", None), ("a", None), ("a", first), ("none", None), ("b", 1), ("\x00", None))
    )
    assert results["results"][:6] == [
        {"version": index, "is_marker": True},
        {"version": index, "is_marker": True},
        {"version": index, "is_marker": True},
        {"version": index, "removed_version": first},
        {"version": 0},
        {"version": log.ask(GetFile(bucket=BUCKET, key="b")).version - 1},
    ]
    assert results["results"][6]["problem"]["code"] == "invalid_name"
    assert [key for key, *_ in versions(log)] == ["a", "b", "b"]


def test_a_batch_into_another_bucket_than_was_meant_is_refused(log):
    """Whole: nothing of it happens."""
    put(log, "a")
    assert code_of(log, batch(("a", None), incarnation=7)) == "bucket_recreated"
    missing = batch(("a", None)).model_copy(update={"bucket": "none"})
    assert code_of(log, missing) == "bucket_not_found"
    log.apply(batch(("a", None), incarnation=1))


def test_a_deletion_where_no_versions_are_kept_reads_none(log, monkeypatch):
    """Their chunk lists are long: deleting 250 files of 4,096 chunks took 39 ms of CPU where 13 are enough."""
    for key in ("a", "b", "c"):
        put(log, key)
    monkeypatch.setattr(Tables, "version_body", None)
    assert delete(log, "c")["version"] == log.store.last_applied
    log.apply(DeleteFiles(bucket=BUCKET, files=[FileToDelete(key="a"), FileToDelete(key="b")], stamp=stamp()))
    assert not log.ask(ListFiles(bucket=BUCKET)).files


@pytest.mark.parametrize("versioning", ["off", "enabled", "forgetful", "suspended"])
@pytest.mark.parametrize("is_enabled_before", [False, True])
def test_a_batch_leaves_what_it_leaves_key_by_key(tmp_path, monkeypatch, versioning, is_enabled_before):
    """Members that have both ways come to the same state: owners, large bodies, markers, tombstones and conditions included."""
    last = settings("enabled", retention_s=0) if versioning == "forgetful" else settings(versioning)
    found = []
    for is_plain in (True, False):
        if not is_plain:
            monkeypatch.setattr(batch_deletes, "_plain_deletions", lambda *_: {})
        log = Log(tmp_path / f"{is_plain}.sqlite", entry_version=OBJECTS_VERSION)
        if is_enabled_before and versioning != "off":
            log.apply(settings())
        for number, key in enumerate(["small", "large", "twice", "met", "unmet", "both", "marked", "gone", "again"]):
            log.requester = None if number % 2 else Requester(principal="1a" * 32)
            put(log, key, content=content(300_000 if key == "large" else 2500, fill=number + 1))
        log.requester = None
        for key in ("marked", "gone", "again"):
            delete(log, key)
        log.apply(last)
        if versioning in {"off", "enabled"}:
            put(log, "again")
        file = log.ask(GetFile(bucket=BUCKET, key="met")).file
        asked = [
            *(FileToDelete(key=key) for key in ("twice", "small", "large", "none", "twice", "marked", "gone", "again")),
            FileToDelete(key="unmet", preconditions=Preconditions(if_match=["other"])),
            FileToDelete(key="none", preconditions=Preconditions(if_match=["other"])),
            FileToDelete(key="both", preconditions=Preconditions(if_match=["other"])),
            FileToDelete(key="met", preconditions=Preconditions(if_match=[file.etag])),
            FileToDelete(key="both"),
            FileToDelete(key="both", preconditions=Preconditions(if_match=["other"])),
        ]
        result = log.apply(DeleteFiles(bucket=BUCKET, files=asked, stamp=stamp()))
        check_usage(log.store._reader.database)
        verify(log.path)
        found.append((result, log.store.state_hash(), versions(log), log.ask(ListFiles(bucket=BUCKET)).files))
    assert found[0] == found[1]
    codes = [result.get("problem", {}).get("code") for result in found[0][0]["results"]]
    assert codes == [*[None] * 8, "precondition_failed", None, "precondition_failed", *[None] * 3]
    assert [file.key for file in found[0][3]] == ["unmet"]


def test_one_entry_brings_one_older_version_back(log):
    """The second key is left as it is, and is to be sent again; emptying a key brings nothing back on the way."""
    log.apply(settings())
    a, b, c = [[put(log, key) for _ in range(3)] for key in "abc"]
    results = log.apply(batch(("a", a[2]), ("b", b[2]), *(("c", number) for number in reversed(c))))["results"]
    assert [result.get("problem", {}).get("code") for result in results] == [
        None,
        "promotion_deferred",
        None,
        None,
        None,
    ]
    assert log.ask(GetFile(bucket=BUCKET, key="a")).file.version_id == a[1]
    assert log.ask(GetFile(bucket=BUCKET, key="b")).version == b[2]
    assert versions(log, key="c") == []
    log.apply(batch(("b", b[2])))
    assert log.ask(GetFile(bucket=BUCKET, key="b")).file.version_id == b[1]


# --- copies -------------------------------------------------------------------------------------------------------


def test_a_copy_is_a_version_of_its_own(log):
    """With what the source has, or with what is given instead; its chunks have references of both."""
    source = put(log, "a", content=content(2500, fill=7), tags={"colour": "red"})
    index = log.next_index
    result = log.apply(copy("a", "b"))
    assert (result["created"], result["source_version"], result["version"]["version"]) == (True, source, index)
    file = log.ask(GetFile(bucket=BUCKET, key="b")).file
    original = log.ask(GetFile(bucket=BUCKET, key="a")).file
    assert (file.content, file.etag, file.tags) == (original.content, original.etag, {"colour": "red"})
    assert referring_versions(log.store, file.content.chunk_digests[:32]) == [source, index]
    log.apply(copy("a", "b", content_type="image/png", user_metadata={"n": "1"}, tags={}))
    file = log.ask(GetFile(bucket=BUCKET, key="b")).file
    assert (file.content_type, file.user_metadata, file.tags, file.patch_index) == ("image/png", {"n": "1"}, {}, 0)
    assert file.etag != original.etag
    delete(log, "a")
    assert log.ask(GetFile(bucket=BUCKET, key="b")).file == file


def test_a_move_takes_the_current_version_in_one_entry(log):
    """Older ones stay under the old key, below a marker of the same entry."""
    log.apply(settings())
    first, second = put(log, "a"), put(log, "a", content=content(2500, fill=7))
    index = log.next_index
    log.apply(copy("a", "b", is_move=True))
    assert versions(log) == [
        ("a", index, True, True),
        ("a", second, False, False),
        ("a", first, False, False),
        ("b", index, False, True),
    ]
    assert log.ask(GetFile(bucket=BUCKET, key="b")).file.content == content(2500, fill=7)


def test_an_older_version_is_restored_by_a_copy(log):
    """It stays an older one itself."""
    log.apply(settings())
    first = put(log, etag="one")
    second = put(log, etag="two")
    index = log.next_index
    assert log.apply(copy("k", "k", source_version=first))["source_version"] == first
    assert log.ask(GetFile(bucket=BUCKET, key="k")).file.etag == "one"
    assert versions(log) == [("k", index, False, True), ("k", second, False, False), ("k", first, False, False)]


def test_copies_that_cannot_be_made(log):
    """Each with its code, and nothing is half done."""
    log.apply(settings())
    first = put(log, "a", etag="e1")
    put(log, "a", etag="e2")
    put(log, "b")
    marker = log.next_index
    delete(log, "b")
    assert code_of(log, copy("none", "c")) == "file_not_found"
    assert code_of(log, copy("b", "c")) == "file_not_found"
    assert code_of(log, copy("b", "c", source_version=marker)) == "source_is_marker"
    assert code_of(log, copy("a", "c", source_version=first + 100)) == "version_not_found"
    assert code_of(log, copy("a", "a")) == "copy_onto_itself"
    assert code_of(log, copy("a", "a", is_move=True, tags={})) == "copy_onto_itself"
    assert code_of(log, copy("a", "c", is_move=True, source_version=first)) == "invalid_request"
    assert code_of(log, copy("a", "c", tags={str(n): "" for n in range(11)})) == "invalid_tags"
    unlike = Preconditions(if_match=["e1"])
    assert code_of(log, copy("a", "c", source_preconditions=unlike)) == "precondition_failed"
    assert code_of(log, copy("a", "a", tags={}, preconditions=unlike)) == "precondition_failed"
    log.apply(copy("a", "a", tags={}))
    log.apply(copy("a", "a", source_version=first, source_preconditions=unlike))


# --- tags ---------------------------------------------------------------------------------------------------------


def test_tags_change_neither_number_nor_etag_nor_time(log):
    """A reader who knows the version is told of the change by its patch index, if it asks for that."""
    index = put(log, tags={"a": "1"})
    before = log.ask(GetFile(bucket=BUCKET, key="k")).file
    assert (before.tags, before.patch_index) == ({"a": "1"}, index)
    patch = log.next_index
    assert log.apply(SetTags(bucket=BUCKET, key="k", tags={"b": "2"}, stamp=stamp())) == {
        "version": index,
        "patch_index": patch,
    }
    after = log.ask(GetFile(bucket=BUCKET, key="k")).file
    assert after == before.model_copy(update={"tags": {"b": "2"}, "patch_index": patch})

    def is_unchanged(**known: int) -> bool:
        return bool(log.ask(GetFile(bucket=BUCKET, key="k", known_version=index, **known)).is_unchanged)

    assert is_unchanged()
    assert is_unchanged(known_patch_index=patch)
    assert not is_unchanged(known_patch_index=index)
    log.apply(SetTags(bucket=BUCKET, key="k", stamp=stamp()))
    assert log.ask(GetFile(bucket=BUCKET, key="k")).file.tags == {}


def test_tags_that_cannot_be_set(log):
    """Each with its code."""
    log.apply(settings())
    index = put(log)
    tags = {"a": "1"}
    assert code_of(log, SetTags(bucket=BUCKET, key="none", tags=tags, stamp=stamp())) == "file_not_found"
    assert (
        code_of(log, SetTags(bucket=BUCKET, key="k", version=index + 50, tags=tags, stamp=stamp()))
        == "version_not_found"
    )
    assert code_of(log, SetTags(bucket=BUCKET, key="k", tags={"": "1"}, stamp=stamp())) == "invalid_tags"
    assert code_of(log, publish("k", start_index=index, tags={"": "1"})) == "invalid_tags"
    marker = log.next_index
    delete(log)
    assert code_of(log, SetTags(bucket=BUCKET, key="k", version=marker, tags=tags, stamp=stamp())) == "source_is_marker"


# --- answers and repeats --------------------------------------------------------------------------------------------


def test_a_repeated_request_gets_the_first_answer(log):
    """Whatever happened meanwhile, to its version, too."""
    log.apply(settings())
    put(log, "a")
    commands = [
        settings(retention_s=9),
        copy("a", "b", tags={"t": "1"}),
        SetTags(bucket=BUCKET, key="b", tags={"t": "2"}, stamp=stamp()),
        batch(("a", None), ("none", None)),
        DeleteFile(bucket=BUCKET, key="b", stamp=stamp()),
    ]
    firsts = [log.propose(command, request_id=f"once-{n}", retain_s=86_400) for n, command in enumerate(commands)]
    assert all(first.problem is None for first in firsts), firsts
    pass_time(log, GRACE_S)
    pass_time(log, GRACE_S)
    assert [log.propose(command, request_id=f"once-{n}") for n, command in enumerate(commands)] == firsts


def test_a_list_of_versions_skips_common_prefixes(log):
    """Each is reported once, whatever is below it: files, older versions or markers."""
    log.apply(settings())
    for key in ("a/1", "a/2", "b", "c/1"):
        put(log, key)
    delete(log, "c/1")
    page = log.ask(ListVersions(bucket=BUCKET, delimiter="/"))
    assert (page.prefixes, [e.key for e in page.versions], page.has_more) == (["a/", "c/"], ["b"], False)
    page = log.ask(ListVersions(bucket=BUCKET, delimiter="/", limit=1))
    assert (page.prefixes, page.has_more, page.last_key, page.last_version) == (["a/"], True, "a/", None)
    page = log.ask(ListVersions(bucket=BUCKET, delimiter="/", limit=1, after_key="a/"))
    assert [e.key for e in page.versions] == ["b"]
    page = log.ask(ListVersions(bucket=BUCKET, delimiter="/", after_key="b", after_version=page.versions[0].version))
    assert page.prefixes == ["c/"]
    assert [e.key for e in log.ask(ListVersions(bucket=BUCKET, prefix="c/")).versions] == ["c/1", "c/1"]
    assert not log.ask(ListVersions(bucket="none")).has_bucket


def test_a_list_of_versions_goes_on_where_it_was_whatever_came_back_meanwhile(log):
    """A version that got another number between two pages is still behind the first one, and is shown once."""
    log.apply(settings())
    first, second = put(log), put(log)
    marker = delete(log)["version"]
    page = log.ask(ListVersions(bucket=BUCKET, limit=1))
    after = {"after_key": page.last_key, "after_version": page.last_version}
    delete(log, version=marker)
    assert versions(log, **after) == [("k", second, False, True), ("k", first, False, False)]
    third = put(log)
    assert versions(log, **after) == [("k", second, False, False), ("k", first, False, False)]
    page = log.ask(ListVersions(bucket=BUCKET, limit=1, after_key="k", after_version=third))
    assert [entry.version_id for entry in page.versions] == [second]
    assert versions(log, after_key="k", after_version=page.last_version) == [("k", first, False, False)]


def test_a_list_of_versions_reads_no_more_than_its_limit_of_long_bodies(log, monkeypatch):
    """A page ends early where the records of current versions are long, and the next one goes on."""
    monkeypatch.setattr("services.consensus.metadata.version_listing.BODY_BYTES_MAX", 300)
    for number in range(5):
        put(log, f"k{number}", content=content(5000))
    found: list[str] = []
    after: dict[str, Any] = {}
    pages = 0
    while True:
        page = log.ask(ListVersions(bucket=BUCKET, **after))
        found += [e.key for e in page.versions]
        pages += 1
        if not page.has_more:
            break
        after = {"after_key": page.last_key, "after_version": page.last_version}
    assert found == [f"k{number}" for number in range(5)]
    assert pages > 2


def test_counts_come_in_pages(log, monkeypatch):
    """All pages together count everything once; a position that nobody gave is refused."""
    monkeypatch.setattr("services.consensus.metadata.counting.ROWS_PER_PAGE", 2)
    log.apply(settings())
    for key in "abc":
        put(log, key)
        put(log, key)
    delete(log, "a")
    versions_, markers, position, pages = 0, 0, None, 0
    while True:
        counts = log.ask(CountObjects(position=position))
        versions_, markers, position, pages = (
            versions_ + counts.versions,
            markers + counts.markers,
            counts.next_position,
            pages + 1,
        )
        if position is None:
            break
    assert (versions_, markers) == (6, 1)
    assert pages > 5
    for position in (b"", b"\xff", b"\x92\x09\x90", b"\x92\x00\x91\xc0", b"\x92\xff\x90"):
        with pytest.raises(InvalidRequestError):
            log.ask(CountObjects(position=position))


def test_the_longest_batch_and_its_errors_stay_within_an_entry(log):
    """250 keys of 1,024 bytes each."""
    files = [(f"{number:03}" + "k" * 1021, None) for number in range(250)]
    for key, _ in files[:3]:
        put(log, key)
    results = log.apply(batch(*files))["results"]
    assert len(results) == 250
    with pytest.raises((ValueError, TrivetError)):
        batch(*files, ("one more", None))


@pytest.mark.parametrize("select", [older_versions._BY_ID, older_versions._PROMOTED, older_versions._NULL])
def test_a_key_with_very_many_versions_is_not_walked_over(log, select):
    """Each look-up is a seek in an index of its own, in whose order its rows come."""
    explained = log.store._reader.database.execute(f"EXPLAIN QUERY PLAN {select}", [1] * select.count("?"))
    [plan] = [row[3] for row in explained]
    assert "USING INDEX older_" in plan
    assert "(incarnation=? AND key=?" in plan
