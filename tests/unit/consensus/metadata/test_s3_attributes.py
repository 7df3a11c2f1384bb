"""What S3 shows of a version, and `/v1` does not: it is kept, listed, copied and promoted with the version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.consensus.metadata.entries import OBJECTS_VERSION, decode_proposal, encode_proposal, entry_version_of
from services.consensus.metadata.rows import decode_version, encode_version
from services.consensus.metadata.verification import verify
from shared.contracts.files import FileVersion, Preconditions
from shared.contracts.metadata import DeleteFile, FileEntry, GetFile, ListFiles, Proposal
from shared.contracts.objects import BucketSettings, CopyFile, ListVersions, PutBucketSettings, VersionEntry
from shared.contracts.s3 import S3Attributes, S3UploadAttributes, shown_etag
from shared.contracts.time import ClockState, Stamp
from shared.contracts.uploads import CompleteUpload, PutPart
from shared.errors import InvalidPartError, PreconditionFailedError
from shared.units import MIB, NANOSECONDS_PER_SECOND
from tests.unit.consensus.metadata.builders import Log, content, publish, stamp
from tests.unit.consensus.metadata.upload_builders import NONCE, UploadOf, large_content

MD5 = "9e107d9d372bb6826bd81d3542a419d6"
OTHER_MD5 = "e4d909c290d0fb1ca068ffaddf22cbd0"
S3 = S3Attributes(
    etag=MD5,
    checksums={"crc64nvme": "rosUhgp5mIg=", "sha256": "1" * 44},
    headers={"content-encoding": "gzip", "cache-control": "no-store"},
    storage_class="STANDARD_IA",
)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "metadata.sqlite", entry_version=OBJECTS_VERSION)


def put(log: Log, key: str = "k", **changes: Any) -> FileVersion:
    return FileVersion.model_validate(log.apply(publish(key, **changes))["version"])


def file_of(log: Log, key: str = "k", version: int | None = None) -> FileVersion:
    file = log.ask(GetFile(bucket="default", key=key, version=version)).file
    assert file is not None
    return file


def entries_of(log: Log, at_index: int | None = None) -> list[FileEntry]:
    return log.ask(ListFiles(bucket="default", at_index=at_index)).files


def versions_of(log: Log) -> list[VersionEntry]:
    return log.ask(ListVersions(bucket="default")).versions


def of_s3(entry: FileEntry | VersionEntry) -> tuple[str | None, str | None]:
    return entry.s3_etag, entry.storage_class


def at(seconds: float) -> Stamp:
    return Stamp(hlc=int(seconds * (1 << 32)), state=ClockState.LOGICAL)


def enable_versions(log: Log) -> None:
    log.apply(PutBucketSettings(bucket="default", settings=BucketSettings(versioning="enabled"), stamp=stamp()))


def test_a_version_keeps_what_s3_shows_of_it(log):
    """In the answer to the publish, in that to a read, and in the list; the tables add up."""
    assert put(log, s3=S3).s3 == S3
    assert file_of(log).s3 == S3
    assert [of_s3(entry) for entry in entries_of(log)] == [(MD5, "STANDARD_IA")]
    assert verify(log.path).digest() == log.store.state_hash()


def test_a_version_put_by_v1_has_none_of_it(log):
    """Over one that has, too; and its row in a list stays as narrow as it was, but for the time."""
    put(log, s3=S3)
    put(log)
    assert file_of(log).s3 is None
    [entry] = entries_of(log)
    assert (of_s3(entry), file_of(log).stored_ns) == ((None, None), entry.stored_ns)


@pytest.mark.parametrize("s3", [None, S3])
def test_a_list_pinned_to_an_index_shows_what_was_there(log, s3):
    """What S3 shows is superseded with its version."""
    before = put(log, s3=S3)
    put(log, s3=s3, stamp=stamp(9))
    [entry] = entries_of(log, at_index=before.version)
    assert (entry.version, of_s3(entry), entry.stored_ns) == (before.version, (MD5, "STANDARD_IA"), before.stored_ns)


def test_last_modified_of_s3_is_the_time_of_the_stamp(log):
    """Two versions of one second: that of `/v1` moves on to the next second, that of S3 does not run ahead."""
    put(log, stamp=at(5.25))
    second = put(log, stamp=at(5.5))
    assert (second.stored_ns, second.modified_ns) == (5.5 * NANOSECONDS_PER_SECOND, 6 * NANOSECONDS_PER_SECOND)
    assert [entry.stored_ns for entry in entries_of(log)] == [second.stored_ns]
    enable_versions(log)
    put(log, stamp=at(5.75))
    log.apply(DeleteFile(bucket="default", key="k", stamp=at(5.875)))
    seconds = [entry.stored_ns / NANOSECONDS_PER_SECOND for entry in versions_of(log)]
    assert seconds == [5.875, 5.75, 5.5]


@pytest.mark.parametrize("etag", ["etag-1", MD5, "*"])
def test_a_precondition_takes_either_etag(log, etag):
    """That of the version and the MD5 that S3 shows of it, in If-Match and in If-None-Match."""
    put(log, s3=S3)
    with pytest.raises(PreconditionFailedError):
        put(log, if_none_match=[etag])
    put(log, if_match=[OTHER_MD5, etag])


def test_a_precondition_takes_no_other_etag(log):
    """Neither the MD5 of another version nor what S3 would show if there were no MD5."""
    put(log, s3=S3)
    for etag in (OTHER_MD5, MD5.upper(), f"{MD5}-0", "etag-1-0"):
        with pytest.raises(PreconditionFailedError):
            put(log, if_match=[etag])
        assert put(log, key=etag, if_none_match=[etag])


def test_a_version_without_md5_is_known_by_the_etag_that_s3_shows(log):
    """The one of the list serves as a condition."""
    put(log)
    [entry] = entries_of(log)
    shown = shown_etag(entry.etag, entry.s3_etag)
    assert shown == "etag-1-0"
    put(log, if_match=[shown], s3=S3)
    with pytest.raises(PreconditionFailedError):
        put(log, if_match=[shown])


def test_older_versions_keep_it_and_get_it_back(log):
    """A version that becomes current again has the same MD5, class and Last-Modified."""
    enable_versions(log)
    first = put(log, s3=S3, stamp=at(5))
    second = put(log, stamp=at(7))
    assert [of_s3(entry) for entry in versions_of(log)] == [(None, None), (MD5, "STANDARD_IA")]
    log.apply(DeleteFile(bucket="default", key="k", version=second.version, stamp=at(9)))
    [entry] = versions_of(log)
    assert (entry.version_id, of_s3(entry), entry.stored_ns) == (first.version, (MD5, "STANDARD_IA"), first.stored_ns)
    assert file_of(log).s3 == S3
    assert verify(log.path).digest() == log.store.state_hash()


@pytest.mark.parametrize("s3", [None, S3])
def test_a_copy_keeps_it(log, s3):
    """Of a version that has none, too."""
    put(log, s3=s3)
    log.apply(CopyFile(bucket="default", key="c", source_bucket="default", source_key="k", stamp=stamp()))
    assert file_of(log, "c").s3 == s3


@pytest.mark.parametrize("is_move", [False, True])
def test_a_copy_may_replace_headers_and_class(log, is_move):
    """What follows from the bytes stays."""
    put(log, s3=S3)
    given_s3 = S3Attributes(etag=OTHER_MD5, headers={"expires": "never"})
    copied = {"source_bucket": "default", "source_key": "k", "s3": given_s3, "is_move": is_move}
    log.apply(CopyFile(bucket="default", key="c", **copied, stamp=stamp()))
    assert file_of(log, "c").s3 == S3Attributes(etag=MD5, checksums=S3.checksums, headers={"expires": "never"})
    assert [of_s3(entry) for entry in entries_of(log) if entry.key == "c"] == [(MD5, None)]


def test_a_copy_onto_itself_may_replace_nothing_but_headers(log):
    """That is a change."""
    put(log, s3=S3)
    onto_itself = {"bucket": "default", "key": "k", "source_bucket": "default", "source_key": "k"}
    log.apply(CopyFile(**onto_itself, s3=S3Attributes(storage_class="GLACIER"), stamp=stamp()))
    assert [of_s3(entry) for entry in entries_of(log)] == [(MD5, "GLACIER")]


# --- uploads --------------------------------------------------------------------------------------------------------


def test_an_upload_and_its_parts_show_what_they_were_begun_with(log):
    """The parts of `/v1` have none."""
    of_upload = S3UploadAttributes(checksum="crc32c", headers={"expires": "never"}, storage_class="GLACIER")
    upload = UploadOf.begin(log, s3=of_upload)
    upload.put(1, large_content(5), s3=S3)
    upload.put(2, large_content(1))
    answer = upload.ask()
    assert answer.upload is not None
    shown = [(part.s3_etag, part.checksums) for part in answer.parts]
    assert (answer.upload.s3, shown) == (of_upload, [(S3.etag, S3.checksums), (None, {})])
    assert verify(log.path).digest() == log.store.state_hash()


def test_an_upload_of_v1_shows_nothing(log):
    """Nor does its version."""
    upload = UploadOf.begin(log)
    answer = upload.ask()
    assert answer.upload is not None
    assert answer.upload.s3 is None
    upload.put(1, large_content(1))
    upload.complete()
    assert file_of(log, "a").s3 is None


def test_an_upload_is_completed_by_the_etags_that_s3_shows(log):
    """The MD5 of one part, the first half of the other's etag; the same again gives the same, whatever comes with it."""
    upload = UploadOf.begin(log, s3=S3UploadAttributes())
    upload.put(1, large_content(5), s3=S3)
    upload.put(2, large_content(5, fill=2))
    upload.parts = {1: MD5, 2: upload.parts[2][:32]}
    of_version = S3Attributes(etag=f"{MD5}-2", part_sizes=[(5 * MIB, 2)])
    first = upload.complete(s3=of_version)
    assert file_of(log, "a").s3 == of_version
    assert [of_s3(entry) for entry in entries_of(log)] == [(f"{MD5}-2", None)]
    assert upload.complete() == first


def test_an_upload_is_completed_by_no_other_etag(log):
    """Of a part that has an MD5, the beginning of its own etag is none."""
    upload = UploadOf.begin(log)
    upload.put(1, large_content(1), s3=S3)
    for wrong in (OTHER_MD5, f"{MD5}-0", upload.parts[1][:32]):
        upload.parts = {1: wrong}
        with pytest.raises(InvalidPartError):
            upload.complete()


def test_a_version_has_the_headers_of_its_upload(log):
    """Where the completion brings none of its own."""
    upload = UploadOf.begin(log, s3=S3UploadAttributes(headers={"expires": "never"}, storage_class="GLACIER"))
    upload.put(1, large_content(1))
    upload.complete()
    assert file_of(log, "a").s3 == S3Attributes(headers={"expires": "never"}, storage_class="GLACIER")


@pytest.mark.parametrize(
    ("s3", "until", "expected"),
    [
        (S3, None, (MD5, S3.checksums)),
        (S3, 2500, (MD5, S3.checksums)),
        (S3, 2499, (None, {})),
        (S3Attributes(etag=f"{MD5}-3"), None, (None, {})),
        (S3Attributes(storage_class="GLACIER"), None, (None, {})),
        (None, None, (None, {})),
    ],
)
def test_a_part_that_is_a_whole_file_has_its_md5(log, s3, until, expected):
    """A range has none, and no file that was put by parts has one."""
    put(log, content=content(2500), s3=s3)
    upload = UploadOf.begin(log)
    upload.copy(1, "k", end=until)
    assert [(part.s3_etag, part.checksums) for part in upload.listed()] == [expected]


# --- forms ----------------------------------------------------------------------------------------------------------


@given(
    st.builds(
        S3Attributes,
        etag=st.none() | st.from_regex(r"\A[0-9a-f]{32}(-[0-9]{1,5})?\Z"),
        checksums=st.dictionaries(st.sampled_from(["crc32", "crc32c", "crc64nvme", "sha1", "sha256"]), st.text()),
        checksum_type=st.sampled_from(["FULL_OBJECT", "COMPOSITE"]),
        headers=st.dictionaries(st.sampled_from(["content-encoding", "expires"]), st.text()),
        storage_class=st.none() | st.text(),
        part_sizes=st.lists(st.tuples(st.integers(0, 1 << 50), st.integers(1, 10_000)), max_size=3),
    ),
    st.none() | st.just("a" * 64),
)
def test_a_body_gives_back_what_it_was_made_of(s3, owner):
    """Whatever else a version has."""
    command = publish("k")
    shared_fields = set(FileVersion.model_fields) & set(type(command).model_fields) - {"tags", "s3"}
    fields = {name: getattr(command, name) for name in shared_fields}
    version = FileVersion(**fields, version=7, term=1, modified_ns=1, owner=owner, s3=s3)
    assert decode_version(encode_version(version)) == version


@pytest.mark.parametrize(
    "command",
    [
        publish("k"),
        CopyFile(bucket="b", key="k", source_bucket="b", source_key="s", stamp=stamp()),
        PutPart(
            upload=1,
            nonce=NONCE,
            number=1,
            content=content(),
            start_index=1,
            epoch=3,
            durability=publish("k").durability,
            stamp=stamp(),
        ),
        CompleteUpload(upload=1, nonce=NONCE, parts=[(1, "e")], stamp=stamp()),
    ],
    ids=lambda command: command.kind,
)
def test_an_entry_says_it_only_where_it_is_there(command):
    """An entry of `/v1` is as long as before, and of the version that it was of; with it, it is one of version 4."""
    plain = Proposal(request_id="r", command=command)
    assert b"s3" not in encode_proposal(plain)
    with_s3 = Proposal(request_id="r", command=command.model_copy(update={"s3": S3}))
    assert entry_version_of(with_s3) == OBJECTS_VERSION
    assert decode_proposal(encode_proposal(with_s3)) == with_s3


def test_preconditions_of_a_deletion_take_the_md5(log):
    """As those of a publish do."""
    put(log, s3=S3)
    delete = {"bucket": "default", "key": "k", "stamp": stamp()}
    with pytest.raises(PreconditionFailedError):
        log.apply(DeleteFile(**delete, preconditions=Preconditions(if_match=[OTHER_MD5])))
    log.apply(DeleteFile(**delete, preconditions=Preconditions(if_match=[MD5])))
    assert entries_of(log) == []
