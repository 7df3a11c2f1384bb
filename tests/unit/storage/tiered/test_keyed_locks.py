from __future__ import annotations

import asyncio

import pytest

from services.storage.tiered.keyed_locks import KeyedLocks


async def test_one_key_is_held_by_one_and_others_do_not_wait():
    """Holders of one key follow each other; another key is free; nothing is left behind."""
    locks = KeyedLocks()
    order: list[str] = []
    gate = asyncio.Event()

    async def work(name: str, key: str) -> None:
        async with locks.hold(key):
            order.append(name)
            await gate.wait()
            order.append(name)

    async with asyncio.TaskGroup() as group:
        for name, key in (("first", "x"), ("second", "x"), ("other", "y")):
            group.create_task(work(name, key))
        for _ in range(10):  # turns in which the second one could go on
            await asyncio.sleep(0)
        assert order == ["first", "other"]
        gate.set()
    assert order.index("second") > order.index("first", 1)
    assert len(locks) == 0


async def test_an_error_or_cancellation_frees_the_key():
    """Whoever leaves by an exception leaves the key free."""
    locks = KeyedLocks()
    with pytest.raises(RuntimeError):
        async with locks.hold("x"):
            raise RuntimeError
    async with locks.hold("x"):
        waiter = asyncio.ensure_future(locks.hold("x").__aenter__())
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
    async with locks.hold("x"):
        pass
    assert len(locks) == 0
