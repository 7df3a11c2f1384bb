"""A buffer is lent again once nobody refers to it, and never before."""

from __future__ import annotations

import importlib.util
import mmap
import sys
import threading

import pytest

from shared import reused_buffers
from shared.reused_buffers import ReusedBuffers

SIZE_BYTES = mmap.PAGESIZE


@pytest.fixture(params=[bytearray, lambda size_bytes: mmap.mmap(-1, size_bytes)], ids=["bytearray", "mmap"])
def buffers(request) -> ReusedBuffers:
    return ReusedBuffers(request.param, SIZE_BYTES, max_buffers=2)


def test_a_buffer_that_nobody_has_is_lent_again(buffers) -> None:
    """The same memory, and no other one is made."""
    first = id(buffers.take())
    assert id(buffers.take()) == first


@pytest.mark.parametrize("keep", [lambda buffer: buffer, memoryview, lambda buffer: memoryview(buffer)[1:2]])
def test_what_refers_to_a_buffer_keeps_it(buffers, keep) -> None:
    """The buffer itself, a view of it, and a part of a view."""
    kept = keep(buffers.take())
    second = buffers.take()
    second[:] = b"x" * SIZE_BYTES
    assert bytes(kept[:1]) == b"\0"
    assert buffers.take() is not second


def test_there_are_more_when_all_are_in_use_but_no_more_are_kept(buffers) -> None:
    """A burst is served, and its memory goes with it."""
    held = [buffers.take() for _ in range(5)]
    assert len({id(buffer) for buffer in held}) == 5
    kept = {id(buffer) for buffer in held[:2]}
    held.clear()
    assert {id(buffers.take()), id(buffers.take())} <= kept


def test_what_an_unused_buffer_counts_is_measured(monkeypatch) -> None:
    """An interpreter that counts one reference less, as newer ones do for arguments, must not have a buffer lent twice."""
    count = sys.getrefcount
    monkeypatch.setattr(sys, "getrefcount", lambda buffer: count(buffer) - 2)
    again = importlib.util.module_from_spec(reused_buffers.__spec__)
    reused_buffers.__spec__.loader.exec_module(again)
    buffers = again.ReusedBuffers(bytearray, 8)
    first = buffers.take()
    assert buffers.take() is not first
    kept = id(first)
    del first
    assert id(buffers.take()) == kept


def test_two_threads_never_have_the_same_buffer() -> None:
    """Whatever they are interrupted in."""
    buffers = ReusedBuffers(bytearray, 8, max_buffers=2)
    found_wrong: list[bytes] = []

    def work(mark: bytes) -> None:
        for _ in range(5_000):
            buffer = buffers.take()
            buffer[:] = mark
            if buffer != mark:
                found_wrong.append(bytes(buffer))

    threads = [threading.Thread(target=work, args=(bytes([number]) * 8,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found_wrong == []
