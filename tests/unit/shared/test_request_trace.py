"""`shared.request_trace`: which client requests a call between services is for."""

from __future__ import annotations

import asyncio

from shared.background_tasks import BackgroundTasks
from shared.request_trace import REQUESTS_MAX, current_trace, joined, parents, request_ids


def test_a_call_for_several_requests_names_each_once() -> None:
    """Work that nobody asked for adds nothing, and a call for very many names only some."""
    assert joined(["a", "", "b;00-1-2-01", "a"]) == "a,b;00-1-2-01"
    assert joined(["", ""]) == ""
    assert request_ids("a,b;00-1-2-01") == ["a", "b"]
    assert parents("a,b;00-1-2-01") == ["00-1-2-01"]
    assert request_ids("") == parents("") == []
    assert len(request_ids(joined(list(map(str, range(REQUESTS_MAX + 1)))))) == REQUESTS_MAX


async def test_work_in_the_background_is_traced_to_the_request_that_began_it() -> None:
    """Though it has none of the other variables of that request."""
    seen: list[str] = []

    async def look() -> None:
        seen.append(current_trace.get())

    async with BackgroundTasks() as tasks:
        await asyncio.wait([tasks.start("before", look())])
        token = current_trace.set("a")
        await asyncio.wait([tasks.start("within", look())])
        current_trace.reset(token)
    assert seen == ["", "a"]
