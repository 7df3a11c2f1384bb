"""What commands can say for S3: keys that no path names, the null version by that name, and conditions of deletions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.consensus.metadata.entries import (
    GARBAGE_VERSION,
    OBJECTS_VERSION,
    decode_proposal,
    encode_proposal,
    entry_version_of,
)
from services.consensus.metadata.verification import verify
from shared.contracts.files import Preconditions
from shared.contracts.metadata import DeleteFile, GetFile, ListFiles, Proposal
from shared.contracts.objects import (
    NULL_VERSION,
    BucketSettings,
    CopyFile,
    DeleteFiles,
    FileToDelete,
    ListVersions,
    PutBucketSettings,
    SetTags,
)
from shared.contracts.s3 import S3Attributes
from shared.contracts.time import ClockState, Stamp
from shared.errors import InvalidNameError, PreconditionFailedError, VersionNotFoundError
from tests.unit.consensus.metadata.builders import Log, content, publish, stamp
from tests.unit.consensus.metadata.upload_builders import UploadOf, large_content

BUCKET = "default"
MD5 = "9e107d9d372bb6826bd81d3542a419d6"
KEYS_OF_S3 = ["\x01", "a\nb", "..", "../x", "a/./b", "\x7f", "k" * 1024]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "metadata.sqlite", entry_version=OBJECTS_VERSION)


def put(log: Log, key: str = "k", **changes: Any) -> int:
    return int(log.apply(publish(key, **changes))["version"]["version"])


def delete(log: Log, key: str = "k", version: int | None = None, **conditions: Any) -> dict[str, Any]:
    preconditions = Preconditions(**conditions)
    return log.apply(DeleteFile(bucket=BUCKET, key=key, version=version, preconditions=preconditions, stamp=stamp()))


def delete_all(log: Log, *files: FileToDelete) -> list[str | None]:
    """What became of each: the code of its problem."""
    results = log.apply(DeleteFiles(bucket=BUCKET, files=list(files), stamp=stamp()))["results"]
    return [result["problem"]["code"] if result.get("problem") else None for result in results]


def keep_versions(log: Log, how: str = "enabled") -> None:
    log.apply(PutBucketSettings(bucket=BUCKET, settings=BucketSettings(versioning=how), stamp=stamp()))


def keys(log: Log) -> list[str]:
    return [entry.key for entry in log.ask(ListFiles(bucket=BUCKET)).files]


def versions(log: Log) -> list[int]:
    return [entry.version for entry in log.ask(ListVersions(bucket=BUCKET)).versions]


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS_OF_S3)
def test_every_command_takes_every_key_of_s3(log, key):
    """Published, tagged, copied, made of parts, listed and deleted under the bytes that it has."""
    put(log, key)
    log.apply(SetTags(bucket=BUCKET, key=key, tags={"a": "b"}, stamp=stamp()))
    log.apply(CopyFile(bucket=BUCKET, key=f"c{key}"[:1024], source_bucket=BUCKET, source_key=key, stamp=stamp()))
    upload = UploadOf.begin(log, key)
    upload.put(1, large_content(1))
    upload.copy(2, key)
    upload.complete([1])
    assert key in keys(log)
    assert log.ask(GetFile(bucket=BUCKET, key=key)).file.content.composition is not None
    assert delete_all(log, FileToDelete(key=key)) == [None]
    delete(log, f"c{key}"[:1024])
    assert keys(log) == []


@pytest.mark.parametrize("key", ["", "a\0b", "k" * 1025])
def test_no_command_takes_a_key_that_is_none(log, key):
    """The rule of every door is checked again."""
    for command in (
        lambda: put(log, key),
        lambda: delete(log, key),
        lambda: UploadOf.begin(log, key),
        lambda: log.apply(SetTags(bucket=BUCKET, key=key, stamp=stamp())),
        lambda: log.apply(CopyFile(bucket=BUCKET, key=key, source_bucket=BUCKET, source_key="k", stamp=stamp())),
        lambda: log.apply(CopyFile(bucket=BUCKET, key="k", source_bucket=BUCKET, source_key=key, stamp=stamp())),
    ):
        with pytest.raises(InvalidNameError):
            command()
    assert delete_all(log, FileToDelete(key=key)) == ["invalid_name"]


@pytest.mark.parametrize("key", ["\x01", ".."])
def test_before_entries_of_version_4_the_stricter_rule_holds(tmp_path, key):
    """Members that know no other must come to the same outcome."""
    log = Log(tmp_path / "m", entry_version=GARBAGE_VERSION)
    with pytest.raises(InvalidNameError):
        put(log, key)
    log.raise_entry_version(OBJECTS_VERSION)
    put(log, key)


# --- the null version -----------------------------------------------------------------------------------------------


def null_of(log: Log) -> tuple[int | None, bool]:
    """The null version, or the null marker, as a read by that name finds it."""
    answer = log.ask(GetFile(bucket=BUCKET, key="k", version=NULL_VERSION))
    found = None if answer.file is None and not answer.is_marker else answer.version
    return found, answer.is_marker


def test_the_null_version_is_found_wherever_it_stands(log):
    """Current in a bucket that is off, older in one that keeps versions, current again when versioning is suspended."""
    assert null_of(log) == (None, False)
    first = put(log)
    assert null_of(log) == (first, False)
    keep_versions(log)
    assert null_of(log) == (first, False)
    put(log)
    assert null_of(log) == (first, False)
    keep_versions(log, "suspended")
    second = put(log)
    assert null_of(log) == (second, False)
    marker = delete(log)["version"]
    assert null_of(log) == (marker, True)


def test_a_key_without_null_version_has_none(log):
    """All its versions have ids."""
    keep_versions(log)
    put(log)
    put(log)
    assert null_of(log) == (None, False)
    with pytest.raises(VersionNotFoundError):
        delete(log, version=NULL_VERSION)
    assert delete_all(log, FileToDelete(key="k", version=NULL_VERSION)) == [None]
    assert len(versions(log)) == 2


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("is_current", [False, True])
def test_the_null_version_is_deleted_for_good_by_that_name(log, is_batch, is_current):
    """The others stay; where it was current, the one before comes back."""
    keep_versions(log)
    other = put(log) if is_current else None
    keep_versions(log, "suspended")
    null = put(log)
    if not is_current:
        keep_versions(log)
        other = put(log)
    if is_batch:
        assert delete_all(log, FileToDelete(key="k", version=NULL_VERSION)) == [None]
    else:
        assert delete(log, version=NULL_VERSION)["removed_version"] == null
    [entry] = log.ask(ListVersions(bucket=BUCKET)).versions
    assert (entry.version_id or entry.version, entry.is_null, entry.is_current) == (other, False, True)
    assert verify(log.path).digest() == log.store.state_hash()


def test_the_null_version_is_copied_and_tagged_by_that_name(log):
    """It is older than the current one."""
    null = put(log, content=content(2500))
    keep_versions(log)
    put(log)
    source = {"source_bucket": BUCKET, "source_key": "k", "source_version": NULL_VERSION}
    copied = log.apply(CopyFile(bucket=BUCKET, key="c", **source, stamp=stamp()))
    assert (copied["source_version"], copied["version"]["content"]["size_bytes"]) == (null, 2500)
    tagged = log.apply(SetTags(bucket=BUCKET, key="k", version=NULL_VERSION, tags={"a": "b"}, stamp=stamp()))
    assert tagged["version"] == null
    upload = UploadOf.begin(log)
    assert upload.copy(1, "k", source_version=NULL_VERSION)["size_bytes"] == 2500


def test_a_promoted_null_version_is_still_the_null_version(log):
    """It is known by its own number, and by that name."""
    null = put(log)
    keep_versions(log)
    other = put(log)
    delete(log, version=other)
    answer = log.ask(GetFile(bucket=BUCKET, key="k", version=NULL_VERSION))
    assert answer.file is not None
    assert (answer.file.version_id, answer.file.is_null) == (null, True)


# --- conditions of deletions ----------------------------------------------------------------------------------------

HOLDING: list[dict[str, Any]] = [
    {"if_match": [MD5]},
    {"if_match": ["etag-1"]},
    {"if_match": ["*"]},
    {"size_bytes": 2500},
    {"stored_s": 5},
    {"if_match": [MD5], "size_bytes": 2500, "stored_s": 5},
]
FAILING: list[dict[str, Any]] = [
    {"if_match": [MD5[::-1]]},
    {"size_bytes": 2499},
    {"size_bytes": 0},
    {"stored_s": 4},
    {"stored_s": 6},
    {"if_match": [MD5], "size_bytes": 2500, "stored_s": 4},
    {"if_match": [MD5], "size_bytes": 1, "stored_s": 5},
]


def put_conditional(log: Log) -> int:
    """Over a version of the same second, so that the Last-Modified of `/v1` is a second later."""
    half_past = Stamp(hlc=(5 << 32) + (1 << 31), state=ClockState.LOGICAL)
    put(log, stamp=Stamp(hlc=5 << 32, state=ClockState.LOGICAL))
    return put(log, content=content(2500), s3=S3Attributes(etag=MD5), stamp=half_past)


@pytest.mark.parametrize("is_by_version", [False, True])
@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize(("conditions", "holds"), [(c, True) for c in HOLDING] + [(c, False) for c in FAILING])
def test_a_deletion_happens_where_its_conditions_hold(log, conditions, holds, is_batch, is_by_version):
    """Held against the current version, or the one that is named; a file that fails leaves the others alone."""
    keep_versions(log)
    version = put_conditional(log)
    put(log, "other")
    number = version if is_by_version else None
    if is_batch:
        asked = FileToDelete(key="k", version=number, preconditions=Preconditions(**conditions))
        assert delete_all(log, asked, FileToDelete(key="other")) == [None if holds else "precondition_failed", None]
    elif holds:
        delete(log, version=number, **conditions)
    else:
        with pytest.raises(PreconditionFailedError):
            delete(log, version=number, **conditions)
    is_there = log.ask(GetFile(bucket=BUCKET, key="k")).version == version
    assert is_there == (not holds)


@pytest.mark.parametrize("conditions", FAILING)
def test_a_publish_and_a_copy_hold_the_same_conditions(log, conditions):
    """One function decides all of them."""
    put_conditional(log)
    preconditions = Preconditions(**conditions)
    with pytest.raises(PreconditionFailedError):
        log.apply(publish("k").model_copy(update={"preconditions": preconditions}))
    copied = {"bucket": BUCKET, "key": "c", "source_bucket": BUCKET, "source_key": "k", "stamp": stamp()}
    with pytest.raises(PreconditionFailedError):
        log.apply(CopyFile(**copied, source_preconditions=preconditions))
    with pytest.raises(PreconditionFailedError):
        log.apply(CopyFile(**copied, preconditions=Preconditions(size_bytes=0)))


def test_an_absent_file_of_a_batch_is_a_success_with_a_condition_too(log):
    """It is gone, which is what was asked for; so it is when the batch itself deleted it before."""
    conditions = Preconditions(if_match=[MD5])
    assert delete_all(log, FileToDelete(key="none", preconditions=conditions)) == [None]
    put_conditional(log)
    asked = FileToDelete(key="k", preconditions=conditions)
    assert delete_all(log, asked, asked) == [None, None]


def test_a_marker_meets_no_condition(log):
    """Named by its number it has neither etag nor size; without a condition it is removed."""
    keep_versions(log)
    put(log)
    marker = delete(log)["version"]
    asked = FileToDelete(key="k", version=marker, preconditions=Preconditions(if_match=["*"]))
    assert delete_all(log, asked) == ["precondition_failed"]
    assert delete_all(log, FileToDelete(key="k", version=marker)) == [None]


def test_a_condition_is_held_against_what_the_batch_left(log):
    """The current version is removed by its number first: the one before is what the second deletion meets."""
    keep_versions(log)
    put(log, etag="first")
    second = put(log, etag="second")
    removed = FileToDelete(key="k", version=second)
    refused = FileToDelete(key="k", preconditions=Preconditions(if_match=["second"]))
    assert delete_all(log, removed, refused) == [None, "precondition_failed"]
    assert log.ask(GetFile(bucket=BUCKET, key="k")).file.etag == "first"
    third = put(log, etag="third")
    met = FileToDelete(key="k", preconditions=Preconditions(if_match=["first"]))
    assert delete_all(log, FileToDelete(key="k", version=third), met) == [None, None]
    assert log.ask(GetFile(bucket=BUCKET, key="k")).is_marker
    assert verify(log.path).digest() == log.store.state_hash()


def test_a_key_that_is_absent_below_what_the_batch_removed_is_a_success(log):
    """Only a marker is left below the version that went."""
    keep_versions(log)
    put(log)
    delete(log)
    last = put(log)
    asked = FileToDelete(key="k", preconditions=Preconditions(if_match=["no such"]))
    assert delete_all(log, FileToDelete(key="k", version=last), asked) == [None, None]


@pytest.mark.parametrize("conditions", [{"size_bytes": 1}, {"stored_s": 0}])
@pytest.mark.parametrize("command", [publish("k"), DeleteFile(bucket=BUCKET, key="k", stamp=stamp())])
def test_a_condition_of_s3_makes_an_entry_of_version_4(command, conditions):
    """Members of before would not know it; without one the entry stays as it was."""
    plain = Proposal(request_id="r", command=command)
    assert entry_version_of(plain) < OBJECTS_VERSION
    assert b"stored_s" not in encode_proposal(plain)
    conditional = command.model_copy(update={"preconditions": Preconditions(**conditions)})
    proposal = Proposal(request_id="r", command=conditional)
    assert entry_version_of(proposal) == OBJECTS_VERSION
    assert decode_proposal(encode_proposal(proposal)) == proposal


def test_a_batch_in_the_log_names_the_conditions_that_there_are():
    """Most files have none, and the entry is as short as before."""
    plain, conditional = FileToDelete(key="k"), FileToDelete(key="k", preconditions=Preconditions(size_bytes=1))
    proposal = Proposal(
        request_id="r", command=DeleteFiles(bucket=BUCKET, files=[plain, conditional, plain], stamp=stamp())
    )
    payload = encode_proposal(proposal)
    assert payload.count(b"preconditions") == 1
    assert decode_proposal(payload) == proposal


def test_a_batch_that_names_keys_by_themselves_and_their_null_versions_leaves_each_deleted(log):
    """The marker that the entry writes is known to nobody yet; taken for the null version, it brought an older one back."""
    log.apply(PutBucketSettings(bucket=BUCKET, settings=BucketSettings(versioning="enabled"), stamp=stamp()))
    for key in ("a", "b", "z"):
        put(log, key)
    log.apply(PutBucketSettings(bucket=BUCKET, settings=BucketSettings(versioning="suspended"), stamp=stamp()))
    null = NULL_VERSION
    pairs = [FileToDelete(key=key, version=version) for key in ("a", "b") for version in (None, null)]
    again = [FileToDelete(key="z", version=version) for version in (None, null, None)]
    assert delete_all(log, *pairs, *again) == [None] * 7
    assert log.ask(ListFiles(bucket=BUCKET)).files == []
    versions = log.ask(ListVersions(bucket=BUCKET)).versions
    assert [(each.key, each.is_marker) for each in versions] == [(key, mark) for key in "abz" for mark in (True, False)]
    assert verify(log.path).digest() == log.store.state_hash()


def test_the_etag_that_s3_shows_counts_once_every_member_knows_it(tmp_path):
    """Before, a member of the version before would decide otherwise than this one."""
    log = Log(tmp_path / "older.sqlite", entry_version=GARBAGE_VERSION)
    etag = log.apply(publish("k"))["version"]["etag"]
    for etags in ([f"{etag}-0"], ["0" * 32]):
        with pytest.raises(PreconditionFailedError):
            log.apply(publish("k", preconditions=Preconditions(if_match=etags)))
    log.apply(publish("k", preconditions=Preconditions(if_none_match=[f"{etag}-0"])))
    newer = Log(tmp_path / "newer.sqlite", entry_version=OBJECTS_VERSION)
    etag = newer.apply(publish("k"))["version"]["etag"]
    newer.apply(publish("k", preconditions=Preconditions(if_match=[f"{etag}-0"])))
