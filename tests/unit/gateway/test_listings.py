"""Pages of a list over the real state machine."""

from __future__ import annotations

import json

import pytest
from blake3 import blake3

from services.gateway.api.models import file_list_json
from services.gateway.semantics.raw_names import FileName
from shared.contracts.metadata import LIST_LIMIT_MAX, CreateBucket, DeleteBucket, DeleteFile
from shared.errors import BucketNotFoundError, InvalidRequestError
from tests.unit.gateway.transfers.transfer_calls import put


async def pages(world, **values: str) -> tuple[list[str], list[str], set[int]]:
    """All keys and prefixes of a list, page by page, and the log indexes of its pages."""
    keys: list[str] = []
    prefixes: list[str] = []
    indexes: set[int] = set()
    cursor: str | None = None
    for _ in range(100):
        asked = values | ({} if cursor is None else {"cursor": cursor})
        page = await world.services.listings.page("default", asked)
        keys += [row.key for row in page.rows.files]
        prefixes += page.rows.prefixes
        indexes.add(page.log_index)
        cursor = page.cursor
        if cursor is None:
            return keys, prefixes, indexes
    raise AssertionError("the list does not end")


KEYS = ["a", "a/1", "a/2", "b", "b/1", "b/2/3", "ä", "\U0001f600"]


@pytest.mark.parametrize("limit", ["1", "2", "3", "1000"])
async def test_all_pages_together_are_the_list_in_utf8_order(world, limit) -> None:
    """Nothing is missing, nothing twice, at any page size."""
    for key in reversed(KEYS):
        await put(world, b"", name=FileName("default", key))
    assert await pages(world, limit=limit) == (KEYS, [], {world.metadata.store.last_applied})
    keys, prefixes, _ = await pages(world, limit=limit, delimiter="/")
    assert (keys, prefixes) == (["a", "b", "ä", "\U0001f600"], ["a/", "b/"])
    keys, prefixes, _ = await pages(world, limit=limit, delimiter="/", prefix="b/")
    assert (keys, prefixes) == (["b/1"], ["b/2/"])


async def test_later_pages_show_the_bucket_as_it_was_at_the_first(world) -> None:
    """A file that comes and one that goes in between change nothing in a list under way."""
    for key in ("a", "b", "c"):
        await put(world, b"", name=FileName("default", key))
    first = await world.services.listings.page("default", {"limit": "1"})
    assert first.cursor is not None
    await put(world, b"", name=FileName("default", "bb"))
    await world.metadata.propose(DeleteFile(bucket="default", key="c", stamp=world.clock.stamp()))
    second = await world.services.listings.page("default", {"cursor": first.cursor})
    assert [row.key for row in second.rows.files] == ["b", "c"]
    assert second.log_index == first.log_index


async def test_details_are_what_a_head_of_each_file_says(world) -> None:
    """On every page, and in none that did not ask for them."""
    for key in ("a", "b"):
        await put(world, key.encode(), name=FileName("default", key), user_metadata={"of": key})
    page = await world.services.listings.page("default", {"limit": "1", "details": "true"})
    rest = await world.services.listings.page("default", {"cursor": page.cursor or "", "details": "true"})
    rows = json.loads(file_list_json(page))["files"] + json.loads(file_list_json(rest))["files"]
    assert [(row["digest"], row["user_metadata"]) for row in rows] == [
        (blake3(key.encode()).hexdigest(), {"of": key}) for key in ("a", "b")
    ]
    plain = json.loads(file_list_json(await world.services.listings.page("default", {})))["files"]
    assert [row.keys() & {"digest", "user_metadata"} for row in plain] == [set(), set()]


async def test_a_cursor_of_another_list_is_refused(world) -> None:
    """It carries bucket, prefix and delimiter; only the page size may change."""
    for key in KEYS:
        await put(world, b"", name=FileName("default", key))
    await world.metadata.propose(CreateBucket(bucket="other", stamp=world.clock.stamp()))
    cursor = (await world.services.listings.page("default", {"limit": "1", "prefix": "a"})).cursor
    assert cursor is not None
    await world.services.listings.page("default", {"cursor": cursor, "prefix": "a", "limit": "7"})
    for bucket, values in (
        ("other", {}),
        ("default", {"prefix": "b"}),
        ("default", {"delimiter": "/"}),
        ("default", {"cursor": cursor[:-4]}),
        ("default", {"cursor": ""}),
    ):
        with pytest.raises(InvalidRequestError):
            await world.services.listings.page(bucket, {"cursor": cursor} | values)


@pytest.mark.parametrize(
    "values",
    [
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "-1"},
        {"limit": "1.5"},
        {"limit": ""},
        {"limit": "\u0661"},
        {"delimiter": ""},
        {"delimiter": "d" * 65},
        {"prefix": "p" * 1025},
        {"prefix": "\x00"},
        {"details": "1"},
        {"details": ""},
    ],
)
async def test_a_malformed_parameter_is_refused(world, values) -> None:
    """Each is a 400 and not a guess."""
    with pytest.raises(InvalidRequestError):
        await world.services.listings.page("default", values)


async def test_a_list_of_no_bucket_is_a_404(world) -> None:
    """An empty list would be a lie."""
    with pytest.raises(BucketNotFoundError):
        await world.services.listings.page("nowhere", {})


async def bucket_pages(world, limit: str) -> list[list[str]]:
    """The names of all buckets, page by page."""
    found: list[list[str]] = []
    values = {"limit": limit}
    while True:
        page = await world.services.listings.buckets(values)
        found.append([bucket.name for bucket in page.buckets])
        if page.cursor is None:
            return found
        values = {"limit": limit, "cursor": page.cursor}


async def test_buckets_come_in_pages_by_name(world) -> None:
    """Each once, at every page size; the last page has no cursor, also when it is full."""
    names = sorted(["default", *(f"bucket-{number}" for number in range(5))])
    for name in names:
        await world.metadata.propose(CreateBucket(bucket=name, stamp=world.clock.stamp()))
    assert await bucket_pages(world, "4") == [names[:4], names[4:]]
    assert await bucket_pages(world, "3") == [names[:3], names[3:]]
    assert await bucket_pages(world, "6") == [names]
    assert [name for page in await bucket_pages(world, "1") for name in page] == names


async def test_a_page_of_buckets_is_bounded_when_no_limit_is_asked_for(world) -> None:
    """However many there are."""
    for number in range(LIST_LIMIT_MAX + 1):
        await world.metadata.propose(CreateBucket(bucket=f"b-{number:05}", stamp=world.clock.stamp()))
    page = await world.services.listings.buckets({})
    assert len(page.buckets) == LIST_LIMIT_MAX
    assert page.cursor is not None
    for limit in ("0", str(LIST_LIMIT_MAX + 1), "x", ""):
        with pytest.raises(InvalidRequestError):
            await world.services.listings.buckets({"limit": limit})


async def test_the_next_page_of_buckets_begins_after_a_name_that_is_gone(world) -> None:
    """The cursor holds a name and not a place."""
    for name in ("aaa", "bbb", "ccc"):
        await world.metadata.propose(CreateBucket(bucket=name, stamp=world.clock.stamp()))
    first = await world.services.listings.buckets({"limit": "2"})
    await world.metadata.propose(DeleteBucket(bucket="bbb", stamp=world.clock.stamp()))
    assert first.cursor is not None
    second = await world.services.listings.buckets({"cursor": first.cursor})
    assert [bucket.name for bucket in second.buckets] == ["ccc", "default"]


async def test_a_list_under_way_outlives_its_bucket(world) -> None:
    """All pages show one log index: also once the bucket is deleted, and when another one has its name. A new list does not."""
    stamp = world.clock.stamp
    await world.metadata.propose(CreateBucket(bucket="photos", stamp=stamp()))
    for key in ("a", "b"):
        await put(world, b"", name=FileName("photos", key))
    cursor = (await world.services.listings.page("photos", {"limit": "1"})).cursor
    assert cursor is not None
    for key in ("a", "b"):
        await world.metadata.propose(DeleteFile(bucket="photos", key=key, stamp=stamp()))
    await world.metadata.propose(DeleteBucket(bucket="photos", stamp=stamp()))
    assert [row.key for row in (await world.services.listings.page("photos", {"cursor": cursor})).rows.files] == ["b"]
    with pytest.raises(BucketNotFoundError):
        await world.services.listings.page("photos", {})
    await world.metadata.propose(CreateBucket(bucket="photos", stamp=stamp()))
    assert [row.key for row in (await world.services.listings.page("photos", {"cursor": cursor})).rows.files] == ["b"]
    assert (await world.services.listings.page("photos", {})).rows.files == []
