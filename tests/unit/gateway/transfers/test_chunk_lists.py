"""The chunks of a long file: computed when they are wanted, held once, counted in the budget."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.semantics.byte_ranges import ByteSpan
from services.gateway.transfers.admission import Admission, AdmissionLimits, Client
from services.gateway.transfers.chunk_lists import (
    UNCOUNTED_BYTES,
    ChunkSlice,
    Extent,
    InlineChunks,
    SharedChunkLists,
    SliceCursor,
    whole,
)
from services.gateway.transfers.downloads import CHECK_WINDOW_CHUNKS
from shared.contracts.files import Durability, FileContent, FileVersion
from shared.contracts.metadata import PublishFile
from shared.contracts.time import ClockState, Stamp
from shared.errors import OverloadedError
from shared.units import KIB, MIB
from tests.unit.gateway.transfers.transfer_calls import CLIENT, NAME, put, send_file

pytestmark = pytest.mark.virtual_time

CHUNK = 100


def content_of(size_bytes: int, chunk_size_bytes: int = CHUNK) -> FileContent:
    count = -(-size_bytes // chunk_size_bytes)
    digests = b"".join(number.to_bytes(32) for number in range(count))
    return FileContent(size_bytes=size_bytes, chunk_size_bytes=chunk_size_bytes, chunk_digests=digests, digest="d" * 64)


def version_of(content: FileContent) -> FileVersion:
    return FileVersion(
        bucket="default",
        key="long",
        version=7,
        term=1,
        etag="e",
        content=content,
        content_type="x/y",
        user_metadata={},
        stamp=Stamp(hlc=1, state=ClockState.LOGICAL),
        modified_ns=1,
        epoch=1,
        durability=Durability(target=3, acknowledged=3, nodes=[]),
    )


def slices_one_by_one(size_bytes: int, spans: list[ByteSpan]) -> list[ChunkSlice]:
    """Byte by byte, as slowly as it is obvious."""
    found: list[ChunkSlice] = []
    for span in spans:
        by_chunk: dict[int, list[int]] = {}
        for byte in range(span.start, span.stop):
            by_chunk.setdefault(byte // CHUNK, []).append(byte % CHUNK)
        for chunk, bytes_of_chunk in by_chunk.items():
            size = min(CHUNK, size_bytes - chunk * CHUNK)
            found.append(ChunkSlice(chunk.to_bytes(32).hex(), size, bytes_of_chunk[0], bytes_of_chunk[-1] + 1))
    return found


def slices_of(cursor: SliceCursor) -> list[ChunkSlice]:
    """All that are at hand from there on."""
    found: list[ChunkSlice] = []
    while (following := cursor.peek()) is not None:
        found.append(following)
        cursor.advance()
    assert cursor.is_at_end
    return found


@given(st.data())
def test_slices_are_the_bytes_of_the_spans_wherever_they_begin(data) -> None:
    """Of any spans of any file, and from any chunk on."""
    size_bytes = data.draw(st.integers(1, 5 * CHUNK + 3))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, size_bytes - 1), st.integers(1, size_bytes)), max_size=4))
    spans = [ByteSpan(start, min(size_bytes, start + length)) for start, length in pairs]
    expected = slices_one_by_one(size_bytes, spans)
    cursor = SliceCursor(InlineChunks(content_of(size_bytes)), spans)
    skipped = data.draw(st.integers(0, len(expected)))
    for _ in range(skipped):
        cursor.peek()
        cursor.advance()
    assert slices_of(cursor.fork()) == expected[skipped:]
    assert slices_of(SliceCursor(InlineChunks(content_of(size_bytes)), spans)) == expected


@pytest.mark.parametrize("size_bytes", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_without_spans_it_is_the_whole_file(size_bytes) -> None:
    """Every chunk full but the last; an empty file has none."""
    expected = slices_one_by_one(size_bytes, [ByteSpan(0, size_bytes)])
    content = content_of(size_bytes)
    assert slices_of(SliceCursor(InlineChunks(content), whole(content))) == expected


async def test_a_chunk_list_is_held_once_for_all_its_readers() -> None:
    """Their memory, and what is reserved for it, do not grow with their number; the last reader gives it back."""
    admission = Admission(AdmissionLimits(slots=300, budget_bytes=8 * MIB, slow_bytes_per_s=0))
    lists = SharedChunkLists()
    size_bytes = len(content_of(8192 * CHUNK).chunk_digests)
    async with AsyncExitStack() as stack:
        held = []
        own_lists = []
        for _ in range(240):
            transfer = await stack.enter_async_context(admission.transfer(Client("a")))
            version = version_of(content_of(8192 * CHUNK))
            own_lists.append(weakref.ref(version.content))
            held.append(await stack.enter_async_context(lists.hold(version, transfer, wait_s=0)))
        del version
        assert len({id(version.content) for version in held}) == 1
        assert sum(content() is not None for content in own_lists) == 1
        assert admission.used_bytes == size_bytes
    assert admission.used_bytes == 0


@pytest.mark.parametrize(("list_bytes", "is_counted"), [(UNCOUNTED_BYTES, False), (UNCOUNTED_BYTES + 32, True)])
async def test_a_long_chunk_list_is_counted_in_the_budget(list_bytes, is_counted) -> None:
    """Both sides of the edge; without room the reader is refused and nothing stays reserved."""
    admission = Admission(AdmissionLimits(slots=4, budget_bytes=MIB, slow_bytes_per_s=0))
    version = version_of(content_of(list_bytes // 32 * CHUNK))
    assert admission.large.try_reserve(admission.large.limit_bytes)
    async with admission.transfer(Client("a")) as transfer:
        if is_counted:
            with pytest.raises(OverloadedError):
                async with SharedChunkLists().hold(version, transfer, wait_s=0):
                    pass
        else:
            async with SharedChunkLists().hold(version, transfer, wait_s=0) as held:
                assert held is version
    assert admission.used_bytes == admission.large.limit_bytes


async def test_readers_of_a_long_file_keep_one_list_between_them(world) -> None:
    """Each read an answer with a list of its own; none keeps it for as long as it reads."""
    published = await put(world, bytes(4 * KIB))
    digests = bytes.fromhex(published.version.content.chunk(0)[0]) * 2000
    size_bytes = 2000 * 4 * KIB
    content = FileContent(size_bytes=size_bytes, chunk_size_bytes=4 * KIB, chunk_digests=digests, digest="d" * 64)
    await world.metadata.propose(_publish(world, content))

    def lists() -> int:
        gc.collect()
        return sum(isinstance(found, FileContent) and found.size_bytes == size_bytes for found in gc.get_objects())

    before = lists()
    async with AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(world.services.downloads.open(NAME, CLIENT))
        assert lists() == before + 1


async def test_the_first_bytes_of_the_longest_file_cost_as_little_as_those_of_a_short_one(world, monkeypatch) -> None:
    """30,000 chunks: before the first byte is sent, no more of them are looked at than are checked and fetched ahead."""
    published = await put(world, bytes(4 * KIB))
    digest = published.version.content.chunk(0)[0]
    content = FileContent(
        size_bytes=30_000 * 4 * KIB,
        chunk_size_bytes=4 * KIB,
        chunk_digests=bytes.fromhex(digest) * 30_000,
        digest="d" * 64,
    )
    await world.metadata.propose(_publish(world, content))
    looked_at = 0
    slice_at = Extent.slice_at

    def counted(self: Extent, offset: int, stop: int) -> ChunkSlice:
        nonlocal looked_at
        looked_at += 1
        return slice_at(self, offset, stop)

    monkeypatch.setattr(Extent, "slice_at", counted)
    before_first_byte: list[int] = []

    async def start(_: int) -> None:
        return None

    async def sink(_: memoryview) -> None:
        before_first_byte.append(looked_at)
        await asyncio.Event().wait()

    async def read() -> None:
        async with world.services.downloads.open(NAME, CLIENT) as found, asyncio.TaskGroup() as group:
            await send_file(world, found, None, world.services.quorums, start=start, sink=sink, group=group)

    reading = asyncio.ensure_future(read())
    await world.wait_until(lambda: bool(before_first_byte), "the first byte")
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert before_first_byte[0] <= CHECK_WINDOW_CHUNKS + world.settings.read_ahead_chunks + 2


def _publish(world, content: FileContent) -> PublishFile:
    published = [command for command in world.metadata.proposed if isinstance(command, PublishFile)][-1]
    return published.model_copy(update={"content": content, "stamp": world.clock.stamp()})
