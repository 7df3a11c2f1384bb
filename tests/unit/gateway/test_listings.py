"""Pages of a list over the real state machine."""

from __future__ import annotations

import pytest

from services.gateway.semantics.raw_names import FileName
from shared.contracts.metadata import CreateBucket, DeleteFile
from shared.errors import BucketNotFoundError, InvalidRequestError
from tests.unit.gateway.transfers.test_transfers import put


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
