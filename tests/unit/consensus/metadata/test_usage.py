"""What counts in the usage of a bucket and an identity, from which entry on, and until which. Quotas are in `test_quotas.py`."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from services.consensus.metadata.database import RowDamagedError
from services.consensus.metadata.schema import statements_of
from services.consensus.metadata.store import MetadataStore
from services.consensus.metadata.usage import check_usage
from services.consensus.metadata.verification import verify
from shared.contracts.access import ANONYMOUS, SYSTEM, Requester
from shared.contracts.metadata import CreateBucket, DeleteBucket, DeleteFile
from shared.contracts.objects import BucketSettings, CopyFile, DeleteFiles, FileToDelete, PutBucketSettings, SetTags
from shared.contracts.usage import GetUsage
from shared.errors import UploadNotFoundError
from tests.unit.consensus.metadata.builders import Log, content, publish, stamp
from tests.unit.consensus.metadata.upload_builders import CHUNK, DAY_S, UploadOf, large_content, pass_time

ANNA, BERT = "1a" * 32, "2b" * 32


@pytest.fixture
def log(tmp_path: Path) -> Log:
    log = Log(tmp_path / "metadata", entry_version=4)
    log.requester = Requester(principal=ANNA)
    return log


def of_bucket(log: Log, bucket: str = "default") -> tuple[int, int]:
    """(bytes, files), which counting again finds, too."""
    check_usage(log.store._reader.database)
    usage = log.ask(GetUsage(buckets=[bucket])).buckets[bucket]
    return usage.size_bytes, usage.files


def of_identity(log: Log, identity: str = ANNA) -> tuple[int, int]:
    usage = log.ask(GetUsage(identities=[identity])).identities[identity]
    return usage.size_bytes, usage.files


def put(log: Log, key: str, size_bytes: int, *, principal: str | None = ANNA, **changes: object) -> int:
    """The version."""
    index, requester = log.next_index, None if principal is None else Requester(principal=principal)
    log.apply(publish(key, content=content(size_bytes), start_index=index - 1, **changes), requester=requester)
    return index


def set_versioning(log: Log, versioning: str, retention_s: int | None = None, bucket: str = "default") -> None:
    settings = BucketSettings(versioning=versioning, superseded_retention_s=retention_s)  # type: ignore[arg-type]
    log.apply(PutBucketSettings(bucket=bucket, settings=settings, stamp=stamp()))


def delete(log: Log, key: str, version: int | None = None) -> None:
    log.apply(DeleteFile(bucket="default", key=key, version=version, stamp=stamp()))


def copy(log: Log, source: str, key: str, **changes: object) -> None:
    fields = {"bucket": "default", "source_bucket": "default", "source_key": source, "key": key, "stamp": stamp()}
    log.apply(CopyFile(**fields | changes))


def test_nothing_is_in_a_new_bucket(log):
    """And a bucket that does not exist has no usage at all."""
    assert of_bucket(log) == (0, 0)
    assert log.ask(GetUsage(buckets=["none"])).buckets == {}


def test_a_file_counts_in_its_bucket_and_for_who_wrote_it(log):
    """With its bytes, those of an empty one as a file; what nobody signed for counts in the bucket alone."""
    put(log, "a", 1500)
    put(log, "empty", 0)
    put(log, "b", 7, principal=BERT)
    for principal in (None, ANONYMOUS, SYSTEM):
        put(log, f"of {principal}", 100, principal=principal)
    assert of_bucket(log) == (1807, 6)
    assert of_identity(log) == (1500, 2)
    assert of_identity(log, BERT) == (7, 1)


def test_a_replaced_file_counts_no_more_where_no_versions_are_kept(log):
    """Although its chunks stay for a while, for whoever reads it; and whoever replaced it owns what is there now."""
    put(log, "a", 1500)
    put(log, "a", 10, principal=BERT)
    assert of_bucket(log) == (10, 1)
    assert (of_identity(log), of_identity(log, BERT)) == ((0, 0), (10, 1))
    delete(log, "a")
    assert of_bucket(log) == of_identity(log, BERT) == (0, 0)


def test_older_versions_count_and_markers_do_not(log):
    """Until they are removed for good."""
    set_versioning(log, "enabled")
    first, second = put(log, "a", 1000), put(log, "a", 200)
    assert of_bucket(log) == of_identity(log) == (1200, 2)
    delete(log, "a")
    assert of_bucket(log) == (1200, 2)
    delete(log, "a", first)
    assert of_bucket(log) == (200, 1)
    delete(log, "a", second)
    assert of_bucket(log) == of_identity(log) == (0, 0)


def test_a_null_version_that_is_replaced_counts_no_more(log):
    """By a file or by a marker; versions of before stay."""
    set_versioning(log, "enabled")
    put(log, "a", 1000)
    set_versioning(log, "suspended")
    put(log, "a", 200)
    put(log, "a", 30)
    assert of_bucket(log) == (1030, 2)
    delete(log, "a")
    assert of_bucket(log) == of_identity(log) == (1000, 1)


def test_a_version_that_becomes_current_again_counts_once_and_for_its_first_owner(log):
    """It is removed as an older one and comes back as a current one."""
    set_versioning(log, "enabled")
    put(log, "a", 1000, principal=BERT)
    newest = put(log, "a", 200)
    delete(log, "a", newest)
    assert of_bucket(log) == of_identity(log, BERT) == (1000, 1)
    assert of_identity(log) == (0, 0)


@pytest.mark.parametrize("retention_s", [0, 60])
def test_older_versions_that_are_kept_for_some_time_count_as_long(log, retention_s):
    """A retention of nothing counts nothing."""
    set_versioning(log, "enabled", retention_s)
    put(log, "a", 1000)
    put(log, "a", 200)
    assert of_bucket(log) == ((1200, 2) if retention_s else (200, 1))
    pass_time(log, 61)
    assert of_bucket(log) == of_identity(log) == (200, 1)


def test_a_copy_counts_as_much_as_its_source_and_for_who_made_it(log):
    """No byte was moved."""
    put(log, "a", 1000)
    log.requester = Requester(principal=BERT)
    copy(log, "a", "b")
    assert of_bucket(log) == (2000, 2)
    assert of_identity(log) == of_identity(log, BERT) == (1000, 1)


def test_a_move_takes_away_what_it_adds(log):
    """Unless the bucket that it is moved from keeps versions."""
    put(log, "a", 1000)
    copy(log, "a", "b", is_move=True)
    assert of_bucket(log) == of_identity(log) == (1000, 1)
    set_versioning(log, "enabled")
    copy(log, "b", "c", is_move=True)
    assert of_bucket(log) == of_identity(log) == (2000, 2)


def test_a_move_to_another_bucket_moves_the_usage(log):
    """Both buckets are counted by the one entry."""
    log.apply(CreateBucket(bucket="photos", stamp=stamp()))
    put(log, "a", 1000)
    copy(log, "a", "b", bucket="photos", is_move=True)
    assert (of_bucket(log), of_bucket(log, "photos"), of_identity(log)) == ((0, 0), (1000, 1), (1000, 1))


def test_tags_count_nothing(log):
    """They are not bytes of a file."""
    put(log, "a", 1000)
    log.apply(SetTags(bucket="default", key="a", tags={"n": "1"}, stamp=stamp()))
    assert of_bucket(log) == (1000, 1)


def test_many_files_deleted_by_one_entry(log):
    """Of two owners, of several versions, with one that comes back."""
    set_versioning(log, "enabled")
    versions = [put(log, "a", 1000), put(log, "a", 200, principal=BERT), put(log, "b", 30), put(log, "c", 4)]
    files = [FileToDelete(key="a", version=versions[1]), FileToDelete(key="b", version=versions[2])]
    log.apply(DeleteFiles(bucket="default", files=[*files, FileToDelete(key="c")], stamp=stamp()))
    assert of_bucket(log) == (1004, 2)
    assert (of_identity(log), of_identity(log, BERT)) == ((1004, 2), (0, 0))


def test_a_deletion_reads_no_chunk_list_to_know_whose_the_file_was(log):
    """In a bucket that is off: a batch of deletions of long files would take long."""
    put(log, "a", 1_000_000, principal=BERT)
    body = log.store._writer.version_body
    log.store._writer.version_body = lambda version: pytest.fail("it reads the whole body")
    delete(log, "a")
    log.store._writer.version_body = body
    assert of_identity(log, BERT) == (0, 0)


# --- uploads by parts -----------------------------------------------------------------------------------------------


def test_parts_count_in_bytes_for_who_began_the_upload(log):
    """Whoever puts them; one that is put again counts once; an upload is no file."""
    upload = UploadOf.begin(log)
    log.requester = Requester(principal=BERT)
    upload.put(1, large_content(5))
    upload.put(2, large_content(3, fill=2))
    upload.put(2, large_content(1, fill=3))
    assert of_bucket(log) == of_identity(log) == (6 * CHUNK, 0)
    assert of_identity(log, BERT) == (0, 0)


def test_parts_become_a_file_and_do_not_count_twice(log):
    """Parts that the file does not have count no more, either."""
    upload = UploadOf.begin(log)
    for number in (1, 2, 3):
        upload.put(number, large_content(5, fill=number))
    upload.complete([1, 2])
    assert of_bucket(log) == of_identity(log) == (10 * CHUNK, 1)
    upload.complete([1, 2])
    assert of_bucket(log) == (10 * CHUNK, 1)
    pass_time(log, 8 * DAY_S)
    assert of_bucket(log) == of_identity(log) == (10 * CHUNK, 1)


def test_a_part_that_is_a_range_of_a_file_counts_its_bytes(log):
    """Although it shares the chunks."""
    log.apply(publish("a", content=large_content(3), start_index=log.store.last_applied))
    upload = UploadOf.begin(log)
    upload.copy(1, "a", 5, CHUNK)
    assert of_bucket(log) == of_identity(log) == (4 * CHUNK - 5, 1)


@pytest.mark.parametrize("by_time", [False, True])
def test_parts_of_an_upload_that_is_given_up_count_no_more(log, by_time):
    """By its client or by the log's clock; while its chunks wait for whoever reads them."""
    upload = UploadOf.begin(log, lifetime_s=DAY_S, is_internal=by_time)
    upload.put(1, large_content(5))
    if by_time:
        pass_time(log, DAY_S + 1)
    else:
        upload.abort()
    assert of_bucket(log) == of_identity(log) == (0, 0)
    with pytest.raises(UploadNotFoundError):
        upload.abort()


def test_parts_of_a_bucket_that_was_deleted_count_for_who_began_them_until_they_are_given_up(log):
    """A single large body under way does not keep its bucket; the bucket of the same name begins with nothing."""
    log.apply(CreateBucket(bucket="photos", stamp=stamp()))
    upload = UploadOf.begin(log, bucket="photos", is_internal=True)
    upload.put(1, large_content(5))
    log.apply(DeleteBucket(bucket="photos", stamp=stamp()))
    log.apply(CreateBucket(bucket="photos", stamp=stamp()))
    assert (of_bucket(log, "photos"), of_identity(log)) == ((0, 0), (5 * CHUNK, 0))
    upload.abort()
    assert (of_bucket(log, "photos"), of_identity(log)) == ((0, 0), (0, 0))


# --- where it is kept -----------------------------------------------------------------------------------------------


def test_usage_is_the_same_after_a_restart_and_leaves_no_row_of_nothing(log, tmp_path):
    """It is written with the batch that changed it."""
    put(log, "a", 1000)
    put(log, "b", 1, principal=BERT)
    delete(log, "b")
    log.store.close()
    log.store = MetadataStore.open(log.path)
    put(log, "c", 30)
    assert of_bucket(log) == of_identity(log) == (1030, 2)
    rows = log.store._reader.database.execute("SELECT kind, size_bytes FROM usage").fetchall()
    assert sorted(rows) == [("bucket", "1030"), ("identity", "1030")]


def test_more_bytes_than_an_integer_of_the_tables_holds_are_counted(log):
    """Copies cost nothing: a few clicks may add up to more than 2^63."""
    log.apply(publish("a", content=content(1).model_copy(update={"size_bytes": 2**62, "chunk_size_bytes": 2**62})))
    for number in range(4):
        copy(log, "a", f"b{number}")
    assert of_bucket(log) == (2**63 - 1, 5)  # the most that an answer shows
    log.store.close()
    log.store = MetadataStore.open(log.path)
    for number in range(4):
        delete(log, f"b{number}")
    assert of_bucket(log) == of_identity(log) == (2**62, 1)


def test_a_batch_that_comes_to_nothing_counts_nothing(log, monkeypatch):
    """What is in memory is forgotten with it."""
    put(log, "a", 1000)
    monkeypatch.setattr(log.store._writer, "write_state", lambda state: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        put(log, "b", 30)
    monkeypatch.undo()
    put(log, "c", 4)
    assert of_bucket(log) == of_identity(log) == (1004, 2)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_files_in_tables_of_an_older_version_are_counted_when_these_are_converted(tmp_path, version):
    """By their buckets: nobody owned a file. Sizes that no column could add up, too."""
    sizes = {1: [2**63 - 1, 2**63 - 1, 5], 7: [10]}
    connection = sqlite3.connect(tmp_path / "old")
    for statement in statements_of(0, version):
        connection.execute(statement)
    for incarnation, each in sizes.items():
        for number, size_bytes in enumerate(each):
            row = (incarnation, b"%d" % number, 1, size_bytes, "", "", 0, 0)
            connection.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.execute(f"PRAGMA user_version={version}")
    connection.commit()
    connection.close()
    store = MetadataStore.open(tmp_path / "old")
    found = store._reader.database.execute("SELECT kind, holder, size_bytes, files FROM usage").fetchall()
    store.close()
    assert sorted(found) == [("bucket", 1, str(2**64 + 3), 3), ("bucket", 7, "10", 1)]


def test_a_copy_of_the_tables_whose_usage_is_wrong_is_refused(log):
    """Even if every row of it has its checksum: a defect of ours must not decide about quotas."""
    put(log, "a", 1000)
    log.store._writer.usage.add_version(1, None, 5)
    put(log, "b", 30)
    log.store.close()
    with pytest.raises(RowDamagedError, match="usage"):
        verify(log.path)
