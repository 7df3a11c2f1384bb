"""Uploads by parts through one gateway or several, over fake nodes and the real state machine."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import pytest
from blake3 import blake3

from services.gateway.api.services import Services
from services.gateway.main import assemble
from services.gateway.semantics.body_digests import BodyDigests
from services.gateway.semantics.byte_ranges import ByteSpan
from services.gateway.transfers import downloads, piece_pages
from services.gateway.transfers.idempotency import IdempotencyKey
from services.gateway.transfers.multipart import PartRequest, PartSource, UploadBegin
from services.gateway.transfers.part_publication import UploadId
from services.gateway.transfers.uploads import UploadResult
from shared.contracts.files import Preconditions
from shared.contracts.uploads import PART_BYTES_MIN, ListPieces, PutPart, StoredPart
from shared.errors import (
    ChunkCondemnedError,
    DigestMismatchError,
    InvalidPartError,
    NodeReplacedError,
    PartTooSmallError,
    PayloadTooLargeError,
    PreconditionFailedError,
    RequestTimeoutError,
    UploadCompletedError,
    UploadNotFoundError,
    VersionGoneError,
)
from shared.units import MIB
from tests.unit.gateway.conftest import World
from tests.unit.gateway.transfers.transfer_calls import CLIENT, NAME, Received, is_idle, pieces_of, send_file

pytestmark = pytest.mark.virtual_time

CHUNK = MIB
SIZES = [PART_BYTES_MIN + 1, PART_BYTES_MIN, 2 * PART_BYTES_MIN - 3, 700]
"""Of the parts of one file: short last chunks in the middle, and a small last part."""


@pytest.fixture
async def world(make_world) -> World:
    """Large chunks, because parts are large."""
    world = await make_world(chunk_size_bytes=CHUNK, max_inflight_bytes=16 * MIB)
    await world.metadata.upgrade(world.clock)
    return world


def another_gateway(world: World) -> Services:
    """Over the same cluster, knowing nothing."""
    services, _, _ = assemble(
        world.settings, world.metadata, world.nodes, world.clock, tasks=world.tasks, repair_tasks=world.tasks
    )
    return services


async def begin(services: Services, key: IdempotencyKey | None = None, **changes: object) -> UploadId:
    wanted = UploadBegin(NAME, "text/plain", {"colour": "red"}, {"stage": "draft"}, 3600)
    return await services.multipart.begin(replace(wanted, **changes), key)


def part_request(world: World, upload: UploadId, number: int, **changes: object) -> PartRequest:
    wanted = PartRequest(upload, number, world.services.quorums, BodyDigests.announced({}), None, CLIENT)
    return replace(wanted, **changes)


async def put_part(
    world: World, upload: UploadId, number: int, body: bytes, services: Services | None = None, **changes: object
) -> StoredPart:
    request = part_request(world, upload, number, **changes)
    return await (services or world.services).multipart.put(request, pieces_of(body, 300_000))


async def complete(
    world: World, upload: UploadId, parts: dict[int, StoredPart], services: Services | None = None, **changes: object
) -> UploadResult:
    listed = [(number, part.etag) for number, part in sorted(parts.items())]
    preconditions = changes.get("preconditions", Preconditions())
    return await (services or world.services).multipart.complete(upload, listed, preconditions, changes.get("key"))


async def read(world: World, span: ByteSpan | None = None) -> bytes:
    received = Received()
    async with world.services.downloads.open(NAME, CLIENT) as found, asyncio.TaskGroup() as group:
        await send_file(
            world,
            found,
            None if span is None else [span],
            world.services.quorums,
            start=received.start,
            sink=received.sink,
            group=group,
        )
    return bytes(received.body)


@dataclass
class Parted:
    """A file made of parts of `SIZES`."""

    body: bytes
    result: UploadResult
    upload: UploadId
    parts: dict[int, StoredPart]


@pytest.fixture
async def parted(world, seed) -> Parted:
    source = random.Random(seed)
    upload = await begin(world.services)
    bodies = [source.randbytes(size) for size in SIZES]
    parts = {number: await put_part(world, upload, number, body) for number, body in enumerate(bodies, start=2)}
    return Parted(b"".join(bodies), await complete(world, upload, parts), upload, parts)


async def test_parts_come_in_any_order_through_two_gateways_at_once(world, seed) -> None:
    """Each part is known by its number alone; the file is what the completion names, in that order."""
    source = random.Random(seed)
    gateways = [world.services, another_gateway(world)]
    upload = await begin(gateways[0])
    bodies = {number: source.randbytes(size) for number, size in zip([1, 3, 70, 10_000], SIZES, strict=True)}
    numbers = list(bodies)
    source.shuffle(numbers)
    async with asyncio.TaskGroup() as group:
        tasks = {
            number: group.create_task(put_part(world, upload, number, bodies[number], gateways[at % 2]))
            for at, number in enumerate(numbers)
        }
    parts = {number: task.result() for number, task in tasks.items()}
    published = await complete(world, upload, parts, gateways[1])
    body = b"".join(bodies[number] for number in sorted(bodies))
    assert await read(world) == body
    version = published.version
    assert (version.content.size_bytes, version.content.digest) == (len(body), None)
    assert (version.user_metadata, version.content_type, published.is_created) == (
        {"colour": "red"},
        "text/plain",
        True,
    )
    assert parts[1].etag == blake3(bodies[1]).hexdigest()
    await is_idle(world)


async def test_ranges_over_the_borders_of_pieces_are_those_bytes(world, parted, seed) -> None:
    """Wherever a range begins and ends: in one part, at its border, over several."""
    source = random.Random(seed)
    borders = [sum(SIZES[:count]) for count in range(len(SIZES) + 1)]
    places = sorted({max(0, min(len(parted.body), at + near)) for at in borders for near in (-1, 0, 1)})
    spans = [ByteSpan(start, stop) for start in places for stop in places if start < stop]
    spans += [
        ByteSpan(at, at + source.randint(1, 3 * CHUNK)) for at in [source.randrange(len(parted.body) - 4 * CHUNK)]
    ]
    for span in spans:
        assert await read(world, span) == parted.body[span.start : span.stop], span
    async with world.services.downloads.open(NAME, CLIENT) as found:
        assert await world.services.downloads.confirm(found, world.services.quorums) == 3


async def test_another_gateway_goes_on_where_one_was_lost(world, seed) -> None:
    """After every step: nothing of an upload is kept in a gateway."""
    body = random.Random(seed).randbytes(PART_BYTES_MIN)
    upload = await begin(another_gateway(world))
    first = await put_part(world, upload, 1, body, another_gateway(world))
    # One that is lost in the middle of a part leaves nothing.
    broken = asyncio.ensure_future(another_gateway(world).multipart.put(part_request(world, upload, 2), _hanging(body)))
    await asyncio.sleep(1)
    broken.cancel()
    await asyncio.gather(broken, return_exceptions=True)
    second = await put_part(world, upload, 2, b"end", another_gateway(world))
    found, page = await another_gateway(world).multipart.page(upload, after_part=0, limit=10)
    assert [(part.number, part.etag, part.size_bytes) for part in page.parts] == [
        (1, first.etag, len(body)),
        (2, second.etag, 3),
    ]
    assert (found.bucket, found.key) == (NAME.bucket, NAME.key)
    await complete(world, upload, {1: first, 2: second}, another_gateway(world))
    assert await read(world) == body + b"end"


async def _hanging(body: bytes) -> AsyncIterator[bytes]:
    yield body
    await asyncio.Event().wait()


async def test_the_last_part_of_a_number_counts(world) -> None:
    """The completion names parts by their etags, so what was replaced cannot come back by mistake."""
    upload = await begin(world.services)
    old, new = await put_part(world, upload, 1, b"old"), await put_part(world, upload, 1, b"new")
    with pytest.raises(InvalidPartError):
        await complete(world, upload, {1: old})
    await complete(world, upload, {1: new})
    assert await read(world) == b"new"


@pytest.mark.parametrize("refusal", [ChunkCondemnedError("condemned"), NodeReplacedError("another disk")])
async def test_a_refused_part_is_put_again(refusal, world, seed) -> None:
    """Every chunk of it, with a start index read after the refusal, from replicas: the client sends it once."""
    body = random.Random(seed).randbytes(3 * CHUNK)
    upload = await begin(world.services)
    before = world.metadata.store.last_applied
    await begin(world.services)  # an entry more, so that a new start index shows
    at_part(world, lambda: world.metadata.errors.append(refusal))
    stored = await put_part(world, upload, 1, body)
    proposed = [command for command in world.metadata.proposed if isinstance(command, PutPart)]
    assert len(proposed) == 2
    assert {world.nodes.start_indexes[key] for key in world.nodes.start_indexes} == {proposed[1].start_index}
    assert proposed[1].start_index >= before
    assert world.nodes.calls["put", "storage-1"] == 6
    await complete(world, upload, {1: stored})
    assert await read(world) == body
    await is_idle(world)


def at_part(world: World, act: Callable[[], object]) -> None:
    """Do it just before the first part is proposed."""
    propose = world.metadata.propose

    async def watched(command, **options: object) -> object:
        if isinstance(command, PutPart):
            world.metadata.propose = propose
            act()
        return await propose(command, **options)

    world.metadata.propose = watched


async def test_what_no_upload_can_take_is_refused_before_its_body(world) -> None:
    """An id that never was, another nonce, an aborted one, a completed one."""

    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    upload = await begin(world.services)
    aborted = await begin(world.services)
    await world.services.multipart.abort(aborted, None)
    completed = await begin(world.services)
    await complete(world, completed, {1: await put_part(world, completed, 1, b"x")})
    for other in (UploadId(99, "0" * 32), UploadId(upload.upload, "0" * 32), aborted, completed):
        with pytest.raises(UploadNotFoundError):
            await world.services.multipart.put(part_request(world, other, 1), unread())
    assert UploadId.parse(str(upload)) == upload
    for text in ("", "x", str(upload).upper(), str(upload) + "0", "0" * 16 + "-" + "0" * 32, "f" * 16 + "-" + "0" * 32):
        with pytest.raises(UploadNotFoundError):
            UploadId.parse(text)


async def test_a_part_with_another_digest_than_announced_is_not_stored(world) -> None:
    """What was there under its number stays."""
    upload = await begin(world.services)
    kept = await put_part(world, upload, 1, b"first")
    digests = BodyDigests.announced({"content-md5": "XUFAKrxLKna5cZ2REBfFkg=="})
    with pytest.raises(DigestMismatchError):
        await put_part(world, upload, 1, b"second", digests=digests)
    await complete(world, upload, {1: kept})
    assert await read(world) == b"first"


async def test_a_part_has_a_largest_length(make_world) -> None:
    """As many chunks as one entry names: refused by its announcement, and where there is none, when it is reached."""
    world = await make_world()
    await world.metadata.upgrade(world.clock)
    limit = 8192 * world.settings.chunk_size_bytes
    upload = await begin(world.services)
    with pytest.raises(PayloadTooLargeError):
        await put_part(world, upload, 1, b"", announced_bytes=limit + 1)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(64 * 4096)

    with pytest.raises(PayloadTooLargeError):
        await world.services.multipart.put(part_request(world, upload, 1), endless())
    await is_idle(world)


async def test_a_part_that_takes_too_long_is_refused(world) -> None:
    """Its first chunks may be collected before its entry refers to them."""
    upload = await begin(world.services)

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(CHUNK)
            await asyncio.sleep(world.settings.gc_grace_s / 4 + 1)

    with pytest.raises(RequestTimeoutError):
        await world.services.multipart.put(part_request(world, upload, 1), slow())


async def test_a_completion_is_repeated_with_the_same_answer(world, parted) -> None:
    """And with other parts it is refused: the file is made."""
    again = await complete(world, parted.upload, parted.parts, another_gateway(world))
    assert again == parted.result
    assert again.is_created
    fewer = {number: part for number, part in parted.parts.items() if number != 5}
    with pytest.raises(UploadCompletedError):
        await complete(world, parted.upload, fewer)
    with pytest.raises(UploadCompletedError):
        await world.services.multipart.abort(parted.upload, None)


async def test_conditions_are_held_against_the_file_that_is_there(world, parted) -> None:
    """At the instant of the completion; the upload stays, to be completed later."""
    upload = await begin(world.services)
    parts = {1: await put_part(world, upload, 1, b"next")}
    with pytest.raises(PreconditionFailedError):
        await complete(world, upload, parts, preconditions=Preconditions(if_none_match=["*"]))
    held = Preconditions(if_match=[parted.result.version.etag])
    assert not (await complete(world, upload, parts, preconditions=held)).is_created
    assert await read(world) == b"next"


async def test_only_the_last_part_may_be_small(world) -> None:
    """And it is said which one is."""
    upload = await begin(world.services)
    parts = {number: await put_part(world, upload, number, b"small") for number in (1, 2)}
    with pytest.raises(PartTooSmallError) as refused:
        await complete(world, upload, parts)
    assert refused.value.facts["number"] == 1


async def test_copied_parts_move_no_bytes(world, parted) -> None:
    """Of a file with a chunk list and of one made of parts, from the middle of a chunk to the middle of another one."""
    calls = dict(world.nodes.calls)
    upload = await begin(world.services)
    ranges = [(0, len(parted.body)), (5, 2 * PART_BYTES_MIN + 9), (CHUNK + 1, CHUNK + 1 + PART_BYTES_MIN), (7, 8)]
    parts = {
        number: await world.services.multipart.copy(upload, number, PartSource(NAME, range_start=start, range_end=stop))
        for number, (start, stop) in enumerate(ranges, start=1)
    }
    await complete(world, upload, parts)
    assert world.nodes.calls == calls
    assert await read(world) == b"".join(parted.body[start:stop] for start, stop in ranges)


async def test_a_beginning_is_repeated_under_its_key(world) -> None:
    """The same upload, through another gateway too."""
    key = IdempotencyKey.of({"idempotency-key": "k"}, method="POST", bucket=NAME.bucket, key=NAME.key)
    first = await begin(world.services, key)
    assert await begin(another_gateway(world), key) == first
    assert await begin(world.services) != first


async def test_a_small_file_of_parts_is_read_again_and_again(world) -> None:
    """Its record is known and names no chunk; the page of it is, too."""
    upload = await begin(world.services)
    published = await complete(world, upload, {1: await put_part(world, upload, 1, b"small")})
    world.services.downloads.published(published.version)
    for _ in range(3):
        received = Received()
        opened = world.services.downloads.open(NAME, CLIENT, is_body_wanted=True)
        async with opened as found, asyncio.TaskGroup() as group:
            await send_file(
                world, found, None, world.services.quorums, start=received.start, sink=received.sink, group=group
            )
        assert received.body == b"small"
    await is_idle(world)


async def test_a_version_that_goes_away_breaks_its_download_off(world, parted, monkeypatch) -> None:
    """Its first pages were sent by then: an error after the start, never a clean end."""
    monkeypatch.setattr(piece_pages, "PAGE_CHUNKS", 2)
    monkeypatch.setattr(downloads, "CHECK_WINDOW_CHUNKS", 2)
    read, asked = world.metadata.read, []

    async def gone(query, **options) -> object:
        if isinstance(query, ListPieces):
            asked.append(query)
            if len(asked) > 3:
                raise VersionGoneError("The version is not kept any more.")
        return await read(query, **options)

    world.metadata.read = gone
    received = Received()
    with pytest.raises(ExceptionGroup) as broken:
        async with world.services.downloads.open(NAME, CLIENT) as found, asyncio.TaskGroup() as group:
            await send_file(
                world, found, None, world.services.quorums, start=received.start, sink=received.sink, group=group
            )
    assert broken.group_contains(VersionGoneError)
    assert received.confirmed is not None
    assert parted.body.startswith(received.body)
    assert 0 < len(received.body) < len(parted.body)
    await is_idle(world)


async def test_what_a_reader_of_pieces_holds_is_in_the_budget(world, parted) -> None:
    """And given back."""
    async with world.services.downloads.open(NAME, CLIENT):
        assert world.metric("trivet_gateway_inflight_bytes") == piece_pages.HELD_BYTES
    await is_idle(world)
