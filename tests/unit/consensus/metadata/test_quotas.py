"""Quotas of buckets and identities: held once per entry against what it would leave; a refused entry changes nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from services.consensus.metadata.store import MetadataStore
from services.consensus.metadata.verification import verify
from shared.contracts.access import (
    CreateIdentity,
    DeleteIdentity,
    IdentityLimits,
    InitAccess,
    Requester,
    UpdateIdentity,
)
from shared.contracts.metadata import AnyCommand, CreateBucket, DeleteFile, GetFile
from shared.contracts.objects import BucketSettings, CopyFile, DeleteFiles, FileToDelete, PutBucketSettings, SetTags
from shared.contracts.usage import GetUsage
from shared.errors import QuotaExceededError, TrivetError
from tests.unit.consensus.metadata.builders import Log, content, entry, publish, stamp
from tests.unit.consensus.metadata.upload_builders import CHUNK, UploadOf, large_content

ANNA, BERT = "1a" * 32, "2b" * 32


@pytest.fixture
def log(tmp_path: Path) -> Log:
    log = Log(tmp_path / "metadata", entry_version=4)
    log.apply(InitAccess(realm="0" * 32, stamp=stamp()))
    for identity in (ANNA, BERT):
        log.apply(CreateIdentity(identity=identity, name=identity[:2], stamp=stamp()))
    log.requester = now(log, ANNA)
    return log


def now(log: Log, principal: str) -> Requester:
    """Whose request was allowed by what is so now."""
    return Requester(principal=principal, access_index=log.store.summary().access_index)


def limit_bucket(log: Log, *, bucket: str = "default", **settings: Any) -> None:
    log.apply(PutBucketSettings(bucket=bucket, settings=BucketSettings(**settings), stamp=stamp()))


def limit_identity(log: Log, identity: str = ANNA, **limits: Any) -> None:
    log.apply(UpdateIdentity(identity=identity, limits=IdentityLimits(**limits), stamp=stamp()), requester=None)
    assert log.requester is not None
    log.requester = now(log, log.requester.principal)


def put(log: Log, key: str, size_bytes: int, **changes: Any) -> int:
    index = log.next_index
    log.apply(publish(key, content=content(size_bytes), start_index=index - 1, **changes))
    return index


def copy(log: Log, source: str, key: str, **changes: Any) -> None:
    fields = {"bucket": "default", "source_bucket": "default", "source_key": source, "key": key, "stamp": stamp()}
    log.apply(CopyFile(**fields | changes))


def refused(log: Log, command: AnyCommand) -> dict[str, Any]:
    """The facts of the refusal, after which all tables are as they were but for the result that is remembered."""
    before, usage = rows_of(log), log.ask(GetUsage(buckets=["default"], identities=[ANNA, BERT]))
    with pytest.raises(QuotaExceededError) as refusal:
        log.apply(command)
    assert rows_of(log) == before
    assert log.ask(GetUsage(buckets=["default"], identities=[ANNA, BERT])) == usage
    assert refusal.value.definite
    assert not refusal.value.is_transient
    return refusal.value.facts


def rows_of(log: Log) -> dict[str, list[Any]]:
    execute = log.store._reader.database.execute
    tables = {name for (name,) in execute("SELECT name FROM sqlite_master WHERE type='table'")}
    return {table: execute(f"SELECT * FROM {table}").fetchall() for table in tables - {"state", "requests", "audit"}}


def test_a_bucket_has_exactly_as_many_bytes_as_it_may_have(log):
    """The last one passes and one more does not; the refusal says what it is about."""
    limit_bucket(log, quota_bytes=3000)
    put(log, "a", 2000)
    put(log, "b", 1000)
    facts = refused(log, publish("c", content=content(1), start_index=1))
    assert facts == {"of": "bucket", "unit": "bytes", "limit": 3000, "used": 3000, "needed": 1}
    put(log, "empty", 0)


def test_a_bucket_has_exactly_as_many_files_as_it_may_have(log):
    """Those without bytes included."""
    limit_bucket(log, quota_files=2)
    put(log, "a", 0)
    put(log, "b", 1)
    facts = refused(log, publish("c", content=content(0), start_index=1))
    assert facts == {"of": "bucket", "unit": "files", "limit": 2, "used": 2, "needed": 1}
    put(log, "a", 5000)


def test_an_identity_has_its_quota_over_all_buckets(log):
    """And nobody else is refused by it."""
    photos = log.apply(CreateBucket(bucket="photos", stamp=stamp()))["incarnation"]
    limit_identity(log, quota_bytes=1500)
    put(log, "a", 1000)
    other = publish("b", bucket="photos", incarnation=photos, content=content(501), start_index=1)
    assert refused(log, other) == {"of": "identity", "unit": "bytes", "limit": 1500, "used": 1000, "needed": 501}
    log.apply(other, requester=now(log, BERT))


def test_of_a_quota_of_nothing_nothing_is_there(log):
    """0 is a limit, too."""
    limit_bucket(log, quota_bytes=0)
    put(log, "empty", 0)
    refused(log, publish("a", content=content(1), start_index=1))
    limit_bucket(log, quota_bytes=0, quota_files=0)
    refused(log, publish("b", content=content(0), start_index=1))


def test_who_is_above_a_lowered_quota_replaces_by_less_and_not_by_more(log):
    """And deletes, tags, and moves."""
    put(log, "a", 2000)
    put(log, "b", 2000)
    limit_bucket(log, quota_bytes=1000, quota_files=1)
    refused(log, publish("a", content=content(2001), start_index=1))
    put(log, "a", 2000)
    put(log, "a", 1500)
    log.apply(SetTags(bucket="default", key="a", tags={"n": "1"}, stamp=stamp()))
    copy(log, "a", "c", is_move=True)
    log.apply(DeleteFile(bucket="default", key="b", stamp=stamp()))
    assert log.ask(GetUsage(buckets=["default"])).buckets["default"].size_bytes == 1500
    refused(log, publish("d", content=content(0), start_index=1))


def test_deleting_from_a_bucket_that_keeps_versions_passes_whatever_the_quota(log):
    """A marker is neither bytes nor a file, and an older version that comes back was there before."""
    limit_bucket(log, versioning="enabled")
    first, second = put(log, "a", 1000), put(log, "a", 2000)
    limit_bucket(log, versioning="enabled", quota_bytes=1, quota_files=1)
    log.apply(DeleteFile(bucket="default", key="a", stamp=stamp()))
    files = [FileToDelete(key="a", version=second), FileToDelete(key="a", version=log.store.last_applied)]
    log.apply(DeleteFiles(bucket="default", files=files, stamp=stamp()))
    assert log.ask(GetFile(bucket="default", key="a")).file.version_id == first
    refused(log, publish("a", content=content(0), start_index=1))


def test_a_copy_is_refused_as_an_upload_is(log):
    """It counts all of its bytes; so does one of a file of parts, and what it would have replaced is there still."""
    upload = UploadOf.begin(log)
    upload.put(1, large_content(5))
    upload.complete()
    put(log, "b", 7)
    limit_bucket(log, quota_bytes=10 * CHUNK)
    fields: dict[str, Any] = {"bucket": "default", "source_bucket": "default", "source_key": "a", "stamp": stamp()}
    copy(log, "b", "b2")
    assert refused(log, CopyFile(**fields, key="b"))["needed"] == 5 * CHUNK - 7
    log.apply(DeleteFile(bucket="default", key="b", stamp=stamp()))
    log.apply(DeleteFile(bucket="default", key="b2", stamp=stamp()))
    copy(log, "a", "b")


def test_a_copy_counts_for_who_makes_it(log):
    """Although its source belongs to somebody else; a move to oneself as well."""
    put(log, "a", 1000)
    log.requester = now(log, BERT)
    limit_identity(log, BERT, quota_bytes=999)
    for is_move in (False, True):
        command = CopyFile(
            bucket="default", source_bucket="default", source_key="a", key="b", is_move=is_move, stamp=stamp()
        )
        assert refused(log, command)["of"] == "identity"


def test_a_part_is_refused_when_it_comes_and_not_at_the_end(log):
    """With what the other parts have; one that replaces a part by less passes."""
    limit_bucket(log, quota_bytes=6 * CHUNK)
    upload = UploadOf.begin(log)
    upload.put(1, large_content(5))
    with pytest.raises(QuotaExceededError) as refusal:
        upload.put(2, large_content(2, fill=2))
    assert refusal.value.facts["used"] == 5 * CHUNK
    assert [part.number for part in upload.listed()] == [1]
    upload.put(2, large_content(1, fill=2))
    with pytest.raises(QuotaExceededError):
        upload.put(2, large_content(2, fill=3))
    limit_bucket(log, quota_bytes=1)
    upload.put(2, large_content(0, fill=4))
    upload.complete()


def test_a_range_of_a_file_is_refused_as_a_part(log):
    """Its chunk list is not logged then."""
    log.apply(publish("a", content=large_content(3), start_index=log.store.last_applied))
    limit_bucket(log, quota_bytes=4 * CHUNK)
    upload = UploadOf.begin(log)
    with pytest.raises(QuotaExceededError):
        upload.copy(1, "a", 0, CHUNK + 1)
    assert log.store._reader.database.one("SELECT count(*) FROM manifests") == (0,)
    upload.copy(1, "a", 0, CHUNK)


def test_joining_parts_needs_no_bytes_but_a_file(log):
    """It is refused by the quota of files alone, and the upload goes on; then one file less makes room for it."""
    put(log, "b", 0)
    limit_bucket(log, quota_bytes=5 * CHUNK, quota_files=1)
    upload = UploadOf.begin(log)
    upload.put(1, large_content(5))
    assert refused(log, upload.command())["unit"] == "files"
    log.apply(DeleteFile(bucket="default", key="b", stamp=stamp()))
    upload.complete()


def test_the_owner_of_an_upload_is_limited_and_not_who_puts_its_parts(log):
    """What becomes of them is a file of who began it."""
    limit_identity(log, ANNA, quota_bytes=CHUNK)
    upload = UploadOf.begin(log)
    log.requester = now(log, BERT)
    with pytest.raises(QuotaExceededError) as refusal:
        upload.put(1, large_content(2))
    assert refusal.value.facts["of"] == "identity"


def test_a_quota_of_an_identity_holds_from_the_entry_that_sets_it(log):
    """As does one that is lifted, and the end of the identity."""
    put(log, "a", 1)
    limit_identity(log, quota_files=1)
    refused(log, publish("b", content=content(1), start_index=1))
    limit_identity(log, quota_files=2)
    put(log, "b", 1)
    refused(log, publish("c", content=content(1), start_index=1))
    upload = UploadOf.begin(log)
    log.apply(DeleteIdentity(identity=ANNA, stamp=stamp()), requester=None)
    log.requester = None
    upload.put(1, content(5000))
    assert log.ask(GetUsage(identities=[ANNA])).identities[ANNA].quota_files is None


def test_usage_says_what_there_may_be(log):
    """Beside what there is."""
    limit_bucket(log, quota_bytes=5000)
    limit_identity(log, quota_bytes=3000, quota_files=9)
    put(log, "a", 1000)
    usage = log.ask(GetUsage(buckets=["default"], identities=[ANNA]))
    assert usage.buckets["default"].model_dump() == {
        "size_bytes": 1000,
        "files": 1,
        "quota_bytes": 5000,
        "quota_files": None,
    }
    assert (usage.identities[ANNA].quota_bytes, usage.identities[ANNA].quota_files) == (3000, 9)


def test_a_refusal_is_remembered_and_given_again(log):
    """Under the client's id: a retry is refused although there is room by now."""
    limit_bucket(log, quota_bytes=10)
    command = publish("a", content=content(11), start_index=1)
    first = log.propose(command, request_id="r", attempt_id="a1", fingerprint="f")
    limit_bucket(log, quota_bytes=11)
    assert log.propose(command, request_id="r", attempt_id="a2", fingerprint="f").problem == first.problem
    assert first.problem is not None
    assert first.problem["code"] == "quota_exceeded"


def test_other_rejections_come_first_and_change_nothing(log):
    """A precondition that fails is said, whatever the quota."""
    limit_bucket(log, quota_bytes=0)
    with pytest.raises(TrivetError, match="If-Match"):
        log.apply(publish("a", content=content(1), if_match=["*"], start_index=1))
    assert log.ask(GetUsage(buckets=["default"])).buckets["default"].size_bytes == 0


def test_batches_do_not_change_what_is_refused(log, tmp_path):
    """All members come to the same state and answers, however their batches are cut, and after a restart."""
    limit_bucket(log, quota_bytes=3500)
    limit_identity(log, quota_files=4)
    first = log.next_index
    commands = [
        publish("a", content=content(2000), start_index=1),
        publish("b", content=content(1600, fill=2), start_index=1),
        publish("a", content=content(1000), start_index=1),
        publish("b", content=content(1600, fill=2), start_index=1),
        *[publish(f"e{number}", content=content(0), start_index=1) for number in range(4)],
        DeleteFile(bucket="default", key="e0", stamp=stamp()),
        publish("e9", content=content(0), start_index=1),
        publish("e8", content=content(0), start_index=1),
    ]
    entries = [entry(first + at, command, requester=log.requester) for at, command in enumerate(commands)]
    log.store.close()
    other = MetadataStore.open(copied(log.path, tmp_path / "other"))
    log.store = MetadataStore.open(log.path)
    one_by_one = [log.store.apply_batch([each])[0] for each in entries]
    assert other.apply_batch(entries) == one_by_one
    assert [None if each is None or each.problem is None else each.problem["code"] for each in one_by_one] == [
        *(None, "quota_exceeded", None, None),
        *(None, None, "quota_exceeded", "quota_exceeded"),
        *(None, None, "quota_exceeded"),
    ]
    assert other.state_hash() == log.store.state_hash()
    other.close()
    log.store.close()
    assert verify(log.path) == verify(tmp_path / "other")


def copied(path: Path, target: Path) -> Path:
    source, copy = sqlite3.connect(path), sqlite3.connect(target)
    source.backup(copy)
    source.close()
    copy.close()
    return target
