"""Pages of lists, read ahead."""

from __future__ import annotations

import asyncio

import pytest

from trivet.cli.remote import read_ahead


async def test_the_next_page_is_asked_for_while_one_is_used() -> None:
    """And no further one: memory stays what two pages take."""
    asked = []

    async def pages():
        for number in range(5):
            asked.append(number)
            yield number

    async with read_ahead(pages()) as found:
        async for number in found:
            await asyncio.sleep(0)
            assert asked[-1] == min(number + 1, 4)


async def test_who_stops_early_asks_no_more() -> None:
    """The page under way is given up."""
    given_up = asyncio.Event()

    async def pages():
        yield 1
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        yield 2

    async with read_ahead(pages()) as found:
        assert await anext(found) == 1
        await asyncio.sleep(0)
    assert given_up.is_set()


async def test_a_page_that_fails_is_told_where_it_is_used() -> None:
    async def pages():
        yield 1
        raise ConnectionError("gone")

    seen = []
    with pytest.raises(ConnectionError):
        async with read_ahead(pages()) as found:
            seen.extend([page async for page in found])
    async with read_ahead(pages()) as found:
        seen.append(await anext(found))
    assert seen == [1]
