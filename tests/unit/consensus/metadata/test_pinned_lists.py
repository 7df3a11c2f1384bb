"""Lists that are pinned to a log index."""

import pytest

from shared.contracts.metadata import (
    DETAILS_LIMIT_MAX,
    CreateBucket,
    DeleteBucket,
    DeleteFile,
    ListFiles,
)
from shared.errors import (
    CursorExpiredError,
    InvalidRequestError,
)
from tests.unit.consensus.metadata.builders import publish, stamp


def test_a_pinned_list_shows_what_existed_then(log):
    """Later publishes, replacements and deletions do not show, in a bucket that was made again neither."""
    incarnation = log.apply(CreateBucket(bucket="photos", stamp=stamp()))["incarnation"]
    for key in "abc":
        log.apply(publish(key, bucket="photos", incarnation=incarnation))
    pinned = log.ask(ListFiles(bucket="photos", limit=2))
    log.apply(publish("b", bucket="photos", incarnation=incarnation, etag="etag-2"))
    log.apply(publish("bb", bucket="photos", incarnation=incarnation))
    for key in ("a", "b", "bb", "c"):
        log.apply(DeleteFile(bucket="photos", key=key, stamp=stamp()))
    log.apply(DeleteBucket(bucket="photos", stamp=stamp()))
    log.apply(CreateBucket(bucket="photos", stamp=stamp()))
    assert log.ask(ListFiles(bucket="photos")).files == []
    again = log.ask(ListFiles(bucket="photos", limit=2, at_index=pinned.at_index))
    assert again == pinned
    rest = log.ask(ListFiles(bucket="photos", at_index=pinned.at_index, after_key=pinned.last_key))
    assert ([file.key for file in rest.files], rest.has_more) == (["c"], False)
    assert not log.ask(ListFiles(bucket="photos", at_index=1)).has_bucket


def test_details_of_a_pinned_list_are_those_of_then(log):
    """Of a version that is forgotten meanwhile, they are unknown: nothing is made up."""
    log.apply(publish("a"))
    log.apply(publish("b", user_metadata={}))
    pinned = log.ask(ListFiles(bucket="default", details=True))
    assert [file.user_metadata for file in pinned.files] == [{"colour": "blue"}, {}]
    assert all(file.digest for file in pinned.files)
    log.apply(DeleteFile(bucket="default", key="a", stamp=stamp()))
    assert log.ask(ListFiles(bucket="default", details=True, at_index=pinned.at_index)) == pinned
    tables = log.store._reader
    tables.remove_versions({(version := pinned.files[0].version): tables.version_body(version)})
    again = log.ask(ListFiles(bucket="default", details=True, at_index=pinned.at_index))
    assert (again.files[0].digest, again.files[0].user_metadata) == (None, None)
    assert again.files[1] == pinned.files[1]


def test_a_page_with_details_is_short(log):
    """It reads the record of each of its files."""
    for number in range(DETAILS_LIMIT_MAX + 1):
        log.apply(publish(f"{number:03}"))
    page = log.ask(ListFiles(bucket="default", details=True))
    assert (len(page.files), page.has_more) == (DETAILS_LIMIT_MAX, True)
    assert len(log.ask(ListFiles(bucket="default")).files) == DETAILS_LIMIT_MAX + 1


def test_a_pinned_list_changes_exactly_at_the_index_of_a_change(log):
    """At the index of a replacement the new version shows and the old does not; at that of a deletion, neither."""
    first, second = (log.apply(publish("a"))["version"]["version"] for _ in range(2))
    deleted = log.apply(DeleteFile(bucket="default", key="a", stamp=stamp()))["version"]
    log.apply(publish("b"))
    shown = [
        [file.version for file in log.ask(ListFiles(bucket="default", at_index=at_index)).files]
        for at_index in (first - 1, first, second, deleted)
    ]
    assert shown == [[], [first], [second], []]


def test_a_bucket_exists_from_the_index_that_made_it_until_the_one_that_deleted_it(log):
    """A pinned list tells an empty bucket from an absent one."""
    made = log.apply(CreateBucket(bucket="photos", stamp=stamp()))["incarnation"]
    log.apply(DeleteBucket(bucket="photos", stamp=stamp()))
    log.apply(publish("a"))
    shown = [log.ask(ListFiles(bucket="photos", at_index=at)).has_bucket for at in (made - 1, made, made + 1)]
    assert shown == [False, True, False]


def test_a_list_cannot_be_pinned_to_the_future_or_below_the_horizon(log):
    """Both are told apart from an empty list."""
    with pytest.raises(InvalidRequestError):
        log.ask(ListFiles(bucket="default", at_index=log.next_index))
    log.ask(ListFiles(bucket="default", at_index=log.store.last_applied))
    with pytest.raises(CursorExpiredError):
        log.ask(ListFiles(bucket="default", at_index=-1))
