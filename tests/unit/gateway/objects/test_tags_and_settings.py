"""Tags of versions, settings of buckets and lists of versions, over the real state machine."""

from __future__ import annotations

import pytest

from services.gateway.semantics.raw_names import FileName
from shared.contracts.metadata import CreateBucket, DeleteFile
from shared.contracts.objects import BucketSettings
from shared.errors import (
    BucketNotFoundError,
    FileNotFoundInBucketError,
    InvalidRequestError,
    SourceIsMarkerError,
    VersioningCannotBeOffError,
    VersionNotFoundError,
)
from tests.unit.gateway.transfers.transfer_calls import put

pytestmark = pytest.mark.virtual_time

NAME = FileName("default", "k")
ENABLED = BucketSettings(versioning="enabled")


@pytest.fixture
async def world(make_world):
    made = await make_world()
    await made.metadata.upgrade(made.clock)
    return made


async def test_tags_are_of_one_version_and_replaced_as_a_whole(world) -> None:
    """The current one has none by itself; removing them leaves the mark that they were changed."""
    await world.services.bucket_settings.put("default", ENABLED, None)
    first = (await put(world, b"1", name=NAME)).version.version
    tags = world.services.tags
    assert (await tags.read(NAME, None)).patch_index == 0
    set_first = await tags.set(NAME, None, {"a": "1"}, None)
    assert await tags.read(NAME, None) == await tags.read(NAME, first) == set_first
    second = (await put(world, b"2", name=NAME)).version.version
    assert (await tags.read(NAME, None)).tags == {}
    await tags.set(NAME, first, {"b": "2"}, None)
    assert ((await tags.read(NAME, first)).tags, (await tags.read(NAME, second)).tags) == ({"b": "2"}, {})
    removed = await tags.set(NAME, first, None, None)
    assert await tags.read(NAME, first) == removed
    assert removed.patch_index > set_first.patch_index


async def test_tags_of_what_is_not_there_are_refused_by_what_is_missing(world) -> None:
    """Bucket, file, version, or the bytes of a marker."""
    await world.services.bucket_settings.put("default", ENABLED, None)
    first = (await put(world, b"1", name=NAME)).version.version
    deleted = await world.metadata.propose(DeleteFile(bucket="default", key="k", stamp=world.clock.stamp()))
    for name, version, error in (
        (FileName("nowhere", "k"), None, BucketNotFoundError),
        (FileName("default", "other"), None, FileNotFoundInBucketError),
        (NAME, None, FileNotFoundInBucketError),
        (NAME, deleted.log_index, SourceIsMarkerError),
        (NAME, first + 10_000, VersionNotFoundError),
    ):
        with pytest.raises(error):
            await world.services.tags.read(name, version)
        with pytest.raises(error):
            await world.services.tags.set(name, version, {"a": "b"}, None)


async def test_settings_are_read_as_they_were_put_and_versions_never_switched_off(world) -> None:
    """Those by default have no index."""
    settings = world.services.bucket_settings
    found = await settings.read("default")
    assert (found.settings, found.log_index) == (BucketSettings(), 0)
    put_settings = await settings.put("default", BucketSettings(versioning="enabled", superseded_retention_s=60), None)
    found = await settings.read("default")
    assert (found.settings, found.log_index) == (put_settings.settings, put_settings.log_index)
    with pytest.raises(VersioningCannotBeOffError):
        await settings.put("default", BucketSettings(), None)
    for call in (settings.read("nowhere"), settings.put("nowhere", ENABLED, None)):
        with pytest.raises(BucketNotFoundError):
            await call


@pytest.mark.parametrize("limit", ["1", "2", "3", "1000"])
async def test_all_pages_of_a_list_of_versions_together_are_all_versions(world, limit) -> None:
    """Keys in order, the newest version of each first, at any size of a page."""
    await world.services.bucket_settings.put("default", ENABLED, None)
    expected = []
    for key in ("a", "d/1", "d/2", "ä"):
        numbers = [(await put(world, b"x", name=FileName("default", key))).version.version for _ in range(3)]
        expected += [(key, number) for number in reversed(numbers)]
    assert await _pages(world, limit=limit) == (expected, [])
    grouped = [row for row in expected if not row[0].startswith("d/")]
    assert await _pages(world, limit=limit, delimiter="/") == (grouped, ["d/"])
    assert await _pages(world, limit=limit, key="a") == (expected[:3], [])
    assert await _pages(world, limit=limit, prefix="d/") == (expected[3:9], [])


async def _pages(world, **values: str) -> tuple[list[tuple[str, int]], list[str]]:
    rows: list[tuple[str, int]] = []
    prefixes: list[str] = []
    asked = dict(values)
    for _ in range(100):
        page = await world.services.listings.versions("default", asked)
        rows += [(row.key, row.version) for row in page.rows.versions]
        prefixes += page.rows.prefixes
        if page.cursor is None:
            return rows, prefixes
        asked = {"limit": values["limit"], "cursor": page.cursor}
    raise AssertionError("the list does not end")


async def test_a_cursor_of_another_list_of_versions_is_refused(world) -> None:
    """It carries bucket, prefix, delimiter and key, and is none of a list of files."""
    await world.metadata.propose(CreateBucket(bucket="other", stamp=world.clock.stamp()))
    for key in ("a/1", "a/2"):
        await put(world, b"", name=FileName("default", key))
    listings = world.services.listings
    cursor = (await listings.versions("default", {"limit": "1", "prefix": "a"})).cursor
    files = (await listings.page("default", {"limit": "1", "prefix": "a"})).cursor
    assert (await listings.versions("default", {"cursor": cursor, "prefix": "a"})).cursor is None
    for bucket, values in (
        ("other", {}),
        ("default", {"prefix": "b"}),
        ("default", {"delimiter": "/"}),
        ("default", {"key": "a/1"}),
        ("default", {"cursor": files}),
    ):
        with pytest.raises(InvalidRequestError):
            await listings.versions(bucket, {"cursor": cursor} | values)
    for values in ({"key": "a", "prefix": "a"}, {"key": "a", "delimiter": "/"}, {"key": ""}, {"delimiter": ""}):
        with pytest.raises(InvalidRequestError):
            await listings.versions("default", values)
    with pytest.raises(BucketNotFoundError):
        await listings.versions("nowhere", {})
