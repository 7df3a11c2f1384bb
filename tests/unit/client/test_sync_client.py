"""`Client` is `AsyncClient` without `await`, call for call."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import trivet
from tests.unit.client.scripted import ScriptedAnswer, ScriptedTransport
from tests.waiting import block_until
from trivet import errors
from trivet.background_loop import BackgroundLoop
from trivet.client import Client
from trivet.operations import AsyncOperations
from trivet.sync_operations import Operations

PAIRS = [(trivet.AsyncClient, Client), (AsyncOperations, Operations), (trivet.AsyncDownload, trivet.Download)]


def _public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(("asynchronous", "plain"), PAIRS)
def test_both_have_the_same_calls_with_the_same_parameters(asynchronous, plain) -> None:
    """Names, kinds, defaults and types; what is given differs by its iterators alone."""
    # A sync download is closed by the context that opened it.
    assert _public(asynchronous) - {"close"} == _public(plain) - {"close"}
    for name in _public(plain) - {"close"}:
        ours, theirs = getattr(plain, name), getattr(asynchronous, name)
        if isinstance(ours, property):
            continue
        one, other = inspect.signature(ours), inspect.signature(theirs)
        assert list(one.parameters.values()) == list(other.parameters.values()), name
        expected = re.sub(r"^Rows\[\w+, (\w+)\]", r"Iterator[\1]", str(other.return_annotation))
        expected = expected.replace("Async", "")
        assert one.return_annotation == expected, name
        assert inspect.iscoroutinefunction(ours) is False


@pytest.mark.parametrize(("asynchronous", "plain"), PAIRS)
def test_help_says_of_a_call_what_it_does(asynchronous, plain) -> None:
    """And not where that stands."""
    for name in _public(plain) - {"close"}:
        said = inspect.getdoc(getattr(plain, name)) or ""
        assert said, name
        assert not said.startswith("See `"), name
    assert "delete" not in _public(plain) or "stays behind a delete marker" in (plain.delete.__doc__ or "")


def test_both_are_made_alike() -> None:
    """By the same arguments."""
    assert inspect.signature(Client) == inspect.signature(trivet.AsyncClient)


@pytest.fixture
def store():
    """A client whose store says what time it is."""
    text = b'{"timestamp": {"hlc": "0", "state": "LOGICAL"}, "uncertainty_us": null}'
    with Client("http://store.test") as client:
        client._async._caller._transport = ScriptedTransport(ScriptedAnswer(200, text))  # type: ignore[assignment]
        yield client


def test_many_threads_may_call_at_once(store) -> None:
    """All of them over one loop."""
    told: list[str] = []
    threads = [threading.Thread(target=lambda: told.append(store.time().timestamp.state)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == ["LOGICAL"] * 8


def test_a_client_that_was_closed_says_so(store) -> None:
    """Closing twice does nothing."""
    store.close()
    store.close()
    with pytest.raises(trivet.TrivetError, match="closed"):
        store.time()


def test_a_client_of_another_process_says_so(store, monkeypatch) -> None:
    """Its thread does not live there: waiting for it would never end."""
    here = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: here + 1)
    with pytest.raises(trivet.TrivetError, match="fork"):
        store.time()
    monkeypatch.undo()


async def test_it_may_be_used_beside_a_loop_that_runs(store) -> None:
    """As in a notebook, whose cells run in one."""
    assert store.time().timestamp.state == "LOGICAL"
    store.close()


def test_an_iteration_that_is_left_ends_its_source() -> None:
    """So that its connection goes back."""
    ended = []

    async def rows():
        try:
            yield 1
            yield 2
        finally:
            ended.append(True)

    loop = BackgroundLoop()
    try:
        for _ in loop.iterate(rows()):
            break
    finally:
        loop.close()
    assert ended == [True]


def test_a_client_that_is_closed_ends_the_calls_of_other_threads() -> None:
    """With an error: nobody would ever answer them."""

    class Silent(ScriptedTransport):
        async def send(self, *_):
            waits.set()
            await asyncio.Event().wait()

    waits, told = threading.Event(), []
    store = Client("http://store.test")
    store._async._caller._transport = Silent(errors.TrivetError("never"))  # type: ignore[assignment]

    def wait() -> None:
        try:
            store.time()
        except errors.TrivetError as error:
            told.append(error.message)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert waits.wait(10)
    store.close()
    thread.join(10)
    assert told == ["The client was closed while this call was under way."]


def test_a_call_in_the_client_s_own_thread_is_refused(store) -> None:
    """As from `on_progress`: it would wait for itself. So would closing."""
    told = []

    async def call() -> None:
        for act in (store.time, store.close):
            try:
                act()
            except errors.TrivetError as error:
                told.append("own thread" in error.message)

    store._loop.run(asyncio.wait_for(call(), 10))
    assert told == [True, True]
    assert store.time().timestamp.state == "LOGICAL"


def test_an_iteration_that_is_collected_in_the_client_s_own_thread_ends() -> None:
    """A garbage collection may run in any thread."""
    ended = []

    async def rows():
        try:
            yield 1
            yield 2
        finally:
            ended.append(True)

    loop = BackgroundLoop()
    kept = [loop.iterate(rows())]
    assert next(kept[0]) == 1

    async def collect() -> None:
        kept.clear()

    loop.run(asyncio.wait_for(collect(), 10))
    loop.close()
    assert ended == [True]


def test_clients_that_are_dropped_leave_no_thread() -> None:
    """Nor the descriptors of their loops. What they gave keeps them alive."""
    text = b'{"buckets": [], "cursor": null, "log_index": 1}'

    def use() -> Iterator[trivet.models.Bucket]:
        store = Client("http://store.test")
        store._async._caller._transport = ScriptedTransport(ScriptedAnswer(200, text))  # type: ignore[assignment]
        return store.buckets()

    def ours() -> int:
        return sum(thread.name == "trivet" for thread in threading.enumerate())

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = ours(), descriptors()
    for _ in range(3):
        rows = use()
        gc.collect()
        assert list(rows) == []
    del rows
    gc.collect()
    block_until(lambda: ours() <= before[0], "the threads ended")
    block_until(lambda: descriptors() <= before[1], "their descriptors are closed")


def test_names_of_the_package_are_imported_late() -> None:
    """All of them are there, and `import trivet` alone brings in no HTTP."""
    for name in trivet.__all__:
        assert getattr(trivet, name) is not None
    assert set(dir(trivet)) == set(trivet.__all__)
    with pytest.raises(AttributeError):
        _ = trivet.nothing
