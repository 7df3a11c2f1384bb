"""Chunks of long contents, a page at a time: the right ones, few questions, shared by the readers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from services.gateway.semantics.byte_ranges import ByteSpan
from services.gateway.transfers.chunk_lists import ChunkSlice, SliceCursor
from services.gateway.transfers.piece_pages import PAGE_CHUNKS, PagedChunks, PiecePages
from shared.background_tasks import BackgroundTasks
from shared.consensus_calls.client import ReadContext
from shared.contracts.names import DIGEST_BYTES
from shared.contracts.uploads import ListPieces, PieceExtent, PiecePage
from shared.errors import LeaderUnavailableError, TrivetError, VersionGoneError
from shared.units import GIB, MIB

pytestmark = pytest.mark.virtual_time

CLUSTER = "c-1"
VERSION = 7


@dataclass
class Pieces:
    """`ports.Metadata` that answers about one composed version, and counts how often."""

    pieces: list[PieceExtent]
    cluster_id: str = CLUSTER
    errors: list[TrivetError] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    """The first byte of each question."""

    @property
    def size_bytes(self) -> int:
        return self.pieces[-1].offset_bytes + self.pieces[-1].size_bytes

    async def read(self, query: ListPieces, *, deadline_s: float | None = None) -> tuple[PiecePage, ReadContext]:
        self.asked.append(query.offset_bytes)
        await asyncio.sleep(0.001)
        if self.errors:
            raise self.errors.pop(0)
        found, left = [], query.limit_chunks
        for piece in self.pieces:
            if piece.offset_bytes + piece.size_bytes <= query.offset_bytes:
                continue
            part = part_of(piece, max(0, query.offset_bytes - piece.offset_bytes), left)
            found.append(part)
            left -= len(part.chunk_digests) // DIGEST_BYTES
            if left == 0:
                break
        stop = found[-1].offset_bytes + found[-1].size_bytes
        next_offset = None if stop == self.size_bytes else stop
        page = PiecePage(size_bytes=self.size_bytes, pieces=found, next_offset=next_offset)
        return page, ReadContext(9, 1, 1, 1, self.cluster_id)


def part_of(piece: PieceExtent, begin: int, count: int) -> PieceExtent:
    """From byte `begin` of the piece on, at most `count` chunks."""
    full = piece.chunk_size_bytes
    within = piece.skip_bytes + begin
    first = within // full
    chunks = len(piece.chunk_digests) // DIGEST_BYTES
    last = min(first + count, chunks)
    skip_bytes = within - first * full
    is_cut = last < chunks
    size_bytes = (last - first) * full - skip_bytes if is_cut else piece.size_bytes - begin
    return PieceExtent(
        offset_bytes=piece.offset_bytes + begin,
        size_bytes=size_bytes,
        skip_bytes=skip_bytes,
        chunk_size_bytes=full,
        chunk_digests=piece.chunk_digests[first * DIGEST_BYTES : last * DIGEST_BYTES],
        last_chunk_bytes=full if is_cut else piece.last_chunk_bytes,
    )


def composition(source: random.Random, count: int) -> tuple[list[PieceExtent], dict[str, bytes]]:
    """Pieces of random length, chunk size and skip, and the bytes of every chunk."""
    pieces: list[PieceExtent] = []
    chunks: dict[str, bytes] = {}
    offset = 0
    for _ in range(count):
        full, number = source.choice([4, 5, 7]), source.randint(1, 300)
        last = source.randint(1, full)
        digests = b""
        for at in range(number):
            name = source.randbytes(DIGEST_BYTES)
            chunks[name.hex()] = source.randbytes(full if at < number - 1 else last)
            digests += name
        held = (number - 1) * full + last
        skip = source.randint(0, min(full, held) - 1)
        # The last chunk of the extent is reached: what is cut off behind it would be another one's.
        cut = source.randint(0, last - 1) if held - skip > last else 0
        pieces.append(
            PieceExtent(
                offset_bytes=offset,
                size_bytes=held - skip - cut,
                skip_bytes=skip,
                chunk_size_bytes=full,
                chunk_digests=digests,
                last_chunk_bytes=last,
            )
        )
        offset += held - skip - cut
    return pieces, chunks


def long_file(size_bytes: int) -> list[PieceExtent]:
    """Pieces of 1 GiB, chunks of 1 MiB."""
    return [
        PieceExtent(
            offset_bytes=offset,
            size_bytes=GIB,
            skip_bytes=0,
            chunk_size_bytes=MIB,
            chunk_digests=bytes(GIB // MIB * DIGEST_BYTES),
            last_chunk_bytes=MIB,
        )
        for offset in range(0, size_bytes, GIB)
    ]


@pytest.fixture
async def tasks() -> AsyncIterator[BackgroundTasks]:
    async with BackgroundTasks() as running:
        yield running


def reader_of(pages: PiecePages, *, stride_bytes: int = PAGE_CHUNKS * MIB) -> PagedChunks:
    return PagedChunks(pages, CLUSTER, VERSION, stride_bytes=stride_bytes)


async def walk(chunks: PagedChunks, spans: list[ByteSpan]) -> list[ChunkSlice]:
    return await SliceCursor(chunks, spans).take(1 << 30)


async def test_the_bytes_of_any_ranges_are_those_of_the_pieces(seed, tasks) -> None:
    """Over the borders of pieces and pages, with short last chunks and pieces that begin inside a chunk."""
    source = random.Random(seed)
    for _ in range(20):
        pieces, chunks = composition(source, source.randint(1, 8))
        metadata = Pieces(pieces)
        body = b""
        for piece in pieces:
            digests = piece.chunk_digests
            names = [digests[at : at + DIGEST_BYTES].hex() for at in range(0, len(digests), DIGEST_BYTES)]
            body += b"".join(chunks[name] for name in names)[piece.skip_bytes :][: piece.size_bytes]
        assert len(body) == metadata.size_bytes
        pages = PiecePages(metadata, tasks)
        spans = [ByteSpan(0, len(body))]
        for _ in range(5):
            start = source.randrange(len(body))
            spans.append(ByteSpan(start, source.randint(start + 1, len(body))))
        slices = await walk(reader_of(pages, stride_bytes=source.choice([1, 100, 5000])), spans)
        read = b"".join(chunks[part.digest][part.start : part.stop] for part in slices)
        assert read == b"".join(body[span.start : span.stop] for span in spans), spans
        assert all(len(chunks[part.digest]) == part.size_bytes for part in slices)


async def test_readers_of_one_version_share_its_pages(tasks) -> None:
    """Ten readers at one time ask as often as one."""
    metadata = Pieces(long_file(4 * GIB))
    pages = PiecePages(metadata, tasks)
    whole_file = [ByteSpan(0, 4 * GIB)]
    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(walk(reader_of(pages), whole_file))
    assert sorted(metadata.asked) == [at * PAGE_CHUNKS * MIB for at in range(8)]


async def test_the_next_page_is_there_before_its_reader(tasks) -> None:
    """A reader waits for its first page; each further one was asked for when the reader came to the page before it."""
    metadata = Pieces(long_file(4 * GIB))
    cursor = SliceCursor(reader_of(PiecePages(metadata, tasks)), [ByteSpan(0, 4 * GIB)])
    waits = 0
    for at in range(4 * GIB // MIB):
        if cursor.peek() is None:
            waits += 1
            await cursor.load()
        elif at % PAGE_CHUNKS == 1:
            await asyncio.sleep(
                0.01
            )  # of virtual time: the chunks of a page take longer than the question for the next one
        cursor.advance()
    assert cursor.is_at_end
    assert waits == 1
    assert len(metadata.asked) == 8


@pytest.mark.parametrize("size_bytes", [2 * GIB, 1024 * GIB])
async def test_a_range_costs_the_same_in_a_file_of_any_length(size_bytes, tasks) -> None:
    """One page, the one that holds it; no page behind the range is fetched."""
    metadata = Pieces(long_file(size_bytes))
    start = size_bytes - 700 * MIB + 5
    slices = await walk(reader_of(PiecePages(metadata, tasks)), [ByteSpan(start, start + 2 * MIB)])
    await asyncio.sleep(1)
    assert [part.stop - part.start for part in slices] == [MIB - 5, MIB, 5]
    assert len(metadata.asked) == 1


async def test_ranges_that_lie_close_together_share_a_page(tasks) -> None:
    """As of a player that goes through a film range by range."""
    metadata = Pieces(long_file(8 * GIB))
    pages = PiecePages(metadata, tasks)
    for at in range(3 * GIB, 3 * GIB + 100 * MIB, MIB + 17):
        await walk(reader_of(pages), [ByteSpan(at, at + MIB)])
    assert metadata.asked == [3 * GIB]


async def test_pages_that_were_read_are_given_up_in_the_end(tasks) -> None:
    """What they take does not grow with the file."""
    metadata = Pieces(long_file(64 * GIB))
    pages = PiecePages(metadata, tasks, max_bytes=10 * PAGE_CHUNKS * DIGEST_BYTES)
    held: list[int] = []
    cursor = SliceCursor(reader_of(pages), [ByteSpan(0, 64 * GIB)])
    while await cursor.load() is not None:
        cursor.advance()
        held.append(pages.statistics()["bytes"])
    assert len(metadata.asked) == 128
    assert PAGE_CHUNKS * DIGEST_BYTES < max(held) <= 10 * PAGE_CHUNKS * DIGEST_BYTES


async def test_a_version_that_goes_away_ends_its_readers(tasks) -> None:
    """At the first page that is no longer there; what was there before was read."""
    metadata = Pieces(long_file(4 * GIB))
    cursor = SliceCursor(reader_of(PiecePages(metadata, tasks)), [ByteSpan(0, 4 * GIB)])
    await cursor.take(10)
    metadata.errors = [VersionGoneError("The version is no longer kept.")] * 2
    with pytest.raises(VersionGoneError):
        await cursor.take(4096)


async def test_a_page_of_another_cluster_is_not_of_this_version(tasks) -> None:
    """After a restore the number means something else; its chunks would be whole, and of another file."""
    metadata = Pieces(long_file(4 * GIB))
    cursor = SliceCursor(reader_of(PiecePages(metadata, tasks)), [ByteSpan(0, 4 * GIB)])
    await cursor.take(10)
    metadata.cluster_id = "c-2"
    with pytest.raises(VersionGoneError):
        await cursor.take(4096)


async def test_a_question_that_failed_is_asked_again(tasks) -> None:
    """The error belongs to those who waited for this answer; it is not remembered."""
    metadata = Pieces(long_file(2 * GIB), errors=[LeaderUnavailableError("none")])
    pages = PiecePages(metadata, tasks)
    with pytest.raises(LeaderUnavailableError):
        await walk(reader_of(pages), [ByteSpan(0, 5)])
    assert len(await walk(reader_of(pages), [ByteSpan(0, 5)])) == 1


async def test_a_reader_that_goes_does_not_take_the_page_from_others(tasks) -> None:
    """Both wait for one answer, and the one that asked first is cancelled."""
    metadata = Pieces(long_file(2 * GIB))
    pages = PiecePages(metadata, tasks)
    first = asyncio.ensure_future(walk(reader_of(pages), [ByteSpan(0, 5)]))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(walk(reader_of(pages), [ByteSpan(0, 5)]))
    await asyncio.sleep(0)
    first.cancel()
    assert len(await second) == 1
    assert len(metadata.asked) == 1
