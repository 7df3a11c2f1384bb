"""Whole files in and out of the real parts, over fake nodes and the real state machine."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from blake3 import blake3

from services.gateway.ports import ReadChunk
from services.gateway.replicas.quorum import Quorums
from services.gateway.replicas.repair import MAX_QUEUED_REPAIRS
from services.gateway.semantics.body_digests import BodyDigests
from services.gateway.semantics.byte_ranges import ByteSpan
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers import downloads
from services.gateway.transfers.admission import Client
from services.gateway.transfers.downloads import (
    CHECK_WINDOW_CHUNKS,
    MAX_LOOKUPS,
    ConfirmedReplicas,
    FoundFile,
    _ReadAhead,
)
from services.gateway.transfers.uploads import UploadRequest, UploadResult
from shared.consensus_calls.client import ReadContext
from shared.contracts.etags import etag_of
from shared.contracts.files import Preconditions
from shared.contracts.metadata import Answer, AnyQuery, CreateBucket, DeleteBucket, DeleteFile, PublishFile
from shared.errors import (
    BucketNotFoundError,
    BucketRecreatedError,
    DataUnavailableError,
    DigestMismatchError,
    FileNotFoundInBucketError,
    InternalError,
    OutcomeUnknownError,
    OverloadedError,
    PayloadTooLargeError,
    PreconditionFailedError,
    QuorumNotReachedError,
    RequestTimeoutError,
)
from shared.placement import read_order
from tests.unit.gateway.conftest import CHUNK_SIZE_BYTES, World
from tests.unit.gateway.fakes import unreachable

pytestmark = pytest.mark.virtual_time

NAME = FileName("default", "a/key")
CLIENT = Client("192.0.2.1")
SIZES = [0, 1, CHUNK_SIZE_BYTES - 1, CHUNK_SIZE_BYTES, CHUNK_SIZE_BYTES + 1, 10 * CHUNK_SIZE_BYTES + 7]


def order_for(world: World, **changes: object) -> UploadRequest:
    order = UploadRequest(
        name=NAME,
        content_type="text/plain",
        user_metadata={"colour": "red"},
        quorums=world.services.quorums,
        preconditions=Preconditions(),
        digests=BodyDigests.announced({}),
        announced_bytes=None,
        client=CLIENT,
    )
    return replace(order, **changes)


async def pieces_of(body: bytes, size_bytes: int = 3000) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size_bytes):
        yield body[start : start + size_bytes]


async def put(world: World, body: bytes, **changes: object) -> UploadResult:
    return await world.services.uploads.put(order_for(world, **changes), pieces_of(body))


class Body(bytearray):
    """Bytes that can be referred to weakly."""


class Received:
    """What a client would have got."""

    def __init__(self) -> None:
        self.confirmed: int | None = None
        self.age_s = 0.0
        self.body = bytearray()

    async def start(self, confirmed: ConfirmedReplicas) -> None:
        assert self.confirmed is None, "the headers go out once"
        self.confirmed, self.age_s = confirmed.count, confirmed.age_s

    async def sink(self, view: memoryview) -> None:
        assert self.confirmed is not None, "no byte before the headers"
        self.body += view


async def get(
    world: World,
    received: Received | None = None,
    *,
    name: FileName = NAME,
    span: ByteSpan | None = None,
    quorums: Quorums | None = None,
) -> Received:
    received = received or Received()
    async with world.services.downloads.open(name, CLIENT) as found, asyncio.TaskGroup() as group:
        await world.services.downloads.send(
            found,
            None if span is None else [span],
            quorums or world.services.quorums,
            start=received.start,
            sink=received.sink,
            group=group,
        )
    return received


async def find(world: World) -> FoundFile:
    async with world.services.downloads.open(NAME, CLIENT) as found:
        return found


async def confirm(world: World, quorums: Quorums | None = None) -> int:
    async with world.services.downloads.open(NAME, CLIENT) as found:
        return await world.services.downloads.confirm(found, quorums or world.services.quorums)


def only(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        assert len(error.exceptions) == 1
        error = error.exceptions[0]
    return error


def published_count(world: World) -> int:
    return sum(isinstance(command, PublishFile) for command in world.metadata.proposed)


async def is_idle(world: World) -> None:
    """Nothing is held any more: no budget, no slot."""
    await world.wait_until(lambda: world.metric("trivet_gateway_inflight_bytes") == 0, "budget given back")
    assert world.metric("trivet_gateway_transfers") == 0


@pytest.mark.parametrize("size_bytes", SIZES)
async def test_a_file_comes_back_whole_with_the_truth_about_it(world, seed, size_bytes) -> None:
    """Bytes, digest, etag, chunk count and durability, at every edge of the chunk size."""
    body = random.Random(seed).randbytes(size_bytes)
    published = await put(world, body)
    version = published.version
    assert published.is_created
    assert version.version == published.log_index
    assert version.content.digest == blake3(body).hexdigest()
    assert version.content.chunk_count == -(-size_bytes // CHUNK_SIZE_BYTES)
    assert version.etag == etag_of(version.content.digest, "text/plain", {"colour": "red"})
    assert version.durability.target == 3
    assert version.durability.acknowledged >= 2
    await is_idle(world)
    received = await get(world)
    assert bytes(received.body) == body
    assert received.confirmed == (2 if size_bytes else 3)
    assert await confirm(world) == 3
    await is_idle(world)


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 1),
        (1, 2),
        (CHUNK_SIZE_BYTES - 1, CHUNK_SIZE_BYTES + 1),
        (5, 3 * CHUNK_SIZE_BYTES),
        (10 * CHUNK_SIZE_BYTES, 10 * CHUNK_SIZE_BYTES + 7),
    ],
)
async def test_a_range_is_exactly_those_bytes(world, seed, start, stop) -> None:
    """And only the chunks that it touches are fetched."""
    body = random.Random(seed).randbytes(SIZES[-1])
    await put(world, body)
    await is_idle(world)
    world.nodes.calls.clear()
    received = await get(world, span=ByteSpan(start, stop))
    assert bytes(received.body) == body[start:stop]
    fetched = sum(count for (what, _), count in world.nodes.calls.items() if what == "get")
    assert fetched == (stop - 1) // CHUNK_SIZE_BYTES - start // CHUNK_SIZE_BYTES + 1


async def test_every_chunk_is_sent_with_the_index_that_the_upload_began_at(world, seed) -> None:
    """The same that the version is published with: below it, what nothing refers to may be collected as garbage."""
    await put(world, random.Random(seed).randbytes(3 * CHUNK_SIZE_BYTES))
    (published,) = [command for command in world.metadata.proposed if isinstance(command, PublishFile)]
    assert len(world.nodes.start_indexes) >= 3 * world.services.quorums.write_quorum
    assert set(world.nodes.start_indexes.values()) == {published.start_index}
    assert 0 < published.start_index < world.metadata.store.last_applied


async def test_equal_chunks_of_a_file_are_sent_once(world) -> None:
    """A gigabyte of zeros costs one chunk per node."""
    await put(world, bytes(50 * CHUNK_SIZE_BYTES))
    await is_idle(world)
    assert sum(count for (what, _), count in world.nodes.calls.items() if what == "put") == 3
    assert len((await get(world)).body) == 50 * CHUNK_SIZE_BYTES


async def test_an_upload_that_breaks_off_publishes_nothing(world, seed) -> None:
    """The old version stays, and nothing is held."""
    old = random.Random(seed).randbytes(2 * CHUNK_SIZE_BYTES)
    await put(world, old)

    async def body() -> AsyncIterator[bytes]:
        yield bytes(3 * CHUNK_SIZE_BYTES + 5)
        raise RequestTimeoutError("gone")

    with pytest.raises(RequestTimeoutError):
        await world.services.uploads.put(order_for(world), body())
    assert published_count(world) == 1
    assert bytes((await get(world)).body) == old
    await is_idle(world)


async def test_a_body_with_another_digest_than_announced_publishes_nothing(world) -> None:
    """Checked over the whole body, of several chunks, before anything is visible."""
    body = bytes(range(256)) * 40
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    await put(world, body, digests=BodyDigests.announced({"content-digest": f"sha-256=:{digest}:"}))
    with pytest.raises(DigestMismatchError):
        await put(world, body[:-1] + b"?", digests=BodyDigests.announced({"content-digest": f"sha-256=:{digest}:"}))
    assert published_count(world) == 1
    await is_idle(world)


async def test_a_body_shorter_than_announced_publishes_nothing(world) -> None:
    """Whoever let it pass: a file that was cut on its way must not look whole."""
    with pytest.raises(InternalError) as caught:
        await put(world, b"half", announced_bytes=8)
    assert caught.value.definite
    assert published_count(world) == 0
    await is_idle(world)


async def test_the_clock_of_a_gateway_follows_the_stamps_of_the_log(world) -> None:
    """Its next stamp is greater than that of every version it has published, whatever its own clock says."""
    published = await put(world, b"x")
    assert world.clock.received[-1] == published.version.stamp.hlc


async def test_a_missed_write_quorum_publishes_nothing(world) -> None:
    """503, definite, and no version."""
    world.nodes.errors |= {"storage-1": unreachable(), "storage-3": unreachable()}
    with pytest.raises(QuorumNotReachedError) as caught:
        await put(world, b"x" * 3 * CHUNK_SIZE_BYTES)
    assert caught.value.definite
    assert published_count(world) == 0
    await is_idle(world)


async def test_a_request_may_ask_for_less_and_the_receipt_says_so(world) -> None:
    """W=1 goes through with one node, and the receipt tells the durability that was reached."""
    world.nodes.errors |= {"storage-1": unreachable(), "storage-3": unreachable()}
    published = await put(world, b"x", quorums=world.services.quorums.for_request("1", None))
    assert published.version.durability.acknowledged == 1
    assert published.version.durability.nodes == ["storage-2"]


@pytest.mark.parametrize("victim", ["storage-1", "storage-2", "storage-3"])
@pytest.mark.parametrize("fault", ["dead", "hung"])
async def test_one_node_down_is_not_noticed(world, seed, victim, fault) -> None:
    """Writes and reads go on, whole, and the read says how many replicas it proved."""
    if fault == "dead":
        world.nodes.errors[victim] = unreachable(victim)
    else:
        world.nodes.hanging.add(victim)
    body = random.Random(seed).randbytes(5 * CHUNK_SIZE_BYTES)
    published = await put(world, body)
    assert victim not in published.version.durability.nodes
    received = await get(world)
    assert bytes(received.body) == body
    assert received.confirmed == 2
    world.nodes.released.set()


async def test_a_dead_node_costs_the_requests_after_the_first_nothing(make_world, seed) -> None:
    """Of many uploads and reads the first one alone meets it: its circuit is open then."""
    world = await make_world(reconnect_base_s=1000, reconnect_limit_s=1000)
    world.nodes.errors["storage-2"] = unreachable("storage-2")
    chance = random.Random(seed)
    for _ in range(10):
        body = chance.randbytes(3000)
        await put(world, body)
        assert (await get(world)).body == body
    assert sum(world.nodes.calls[what, "storage-2"] for what in ("put", "get", "has")) == 1


async def test_bytes_are_served_from_one_replica_and_strict_reads_are_not(world) -> None:
    """By default a verified chunk is enough; a request that asks for R gets 503 instead of headers."""
    await put(world, b"x" * 2 * CHUNK_SIZE_BYTES)
    await is_idle(world)
    world.nodes.errors |= {"storage-1": unreachable(), "storage-2": unreachable()}
    received = await get(world)
    assert received.confirmed == 1
    assert len(received.body) == 2 * CHUNK_SIZE_BYTES
    strict = Received()
    with pytest.raises(BaseExceptionGroup) as caught:
        await get(world, strict, quorums=world.services.quorums.for_request(None, "2"))
    assert isinstance(only(caught.value), QuorumNotReachedError)
    assert strict.confirmed is None
    await is_idle(world)


async def test_a_rotten_replica_confirms_nothing_where_r_is_a_condition(world) -> None:
    """Two of three nodes list the chunk and have lost its bytes: a GET and a HEAD that ask for two replicas are refused."""
    await put(world, b"x" * CHUNK_SIZE_BYTES)
    await is_idle(world)
    world.nodes.rotten |= {"storage-1", "storage-2"}
    for quorum in ("2", "3"):
        quorums = world.services.quorums.for_request(None, quorum)
        received = Received()
        with pytest.raises(BaseExceptionGroup) as caught:
            await get(world, received, quorums=quorums)
        assert isinstance(only(caught.value), QuorumNotReachedError)
        assert received.confirmed is None
        with pytest.raises(QuorumNotReachedError):
            await confirm(world, quorums)
    assert (await get(world)).confirmed is not None, "without a condition it is served as ever"
    await is_idle(world)


async def test_head_counts_the_weakest_chunk_and_may_be_strict(world, seed) -> None:
    """One replica of one chunk is missing: HEAD says so, and with R as a condition it refuses below R only."""
    published = await put(world, random.Random(seed).randbytes(3 * CHUNK_SIZE_BYTES))
    await is_idle(world)
    del world.nodes.of("storage-1")[published.version.content.chunk(1)[0]]
    world.nodes.errors["storage-2"] = unreachable()
    # Without room for repairs, so that the answer stays what it is.
    world.services.downloads._repair._queue |= {(str(number), ""): None for number in range(MAX_QUEUED_REPAIRS)}
    assert await confirm(world) == 1
    assert await confirm(world, world.services.quorums.for_request(None, "1")) == 1
    with pytest.raises(QuorumNotReachedError):
        await confirm(world, world.services.quorums.for_request(None, "2"))


async def test_lost_bytes_before_the_first_one_are_a_clean_error(world) -> None:
    """All replicas of the first chunk are bad: no header goes out."""
    await put(world, b"x" * CHUNK_SIZE_BYTES)
    await is_idle(world)
    world.nodes.spoiled |= {"storage-1", "storage-2", "storage-3"}
    received = Received()
    with pytest.raises(BaseExceptionGroup) as caught:
        await get(world, received)
    assert isinstance(only(caught.value), DataUnavailableError)
    assert received.confirmed is None
    assert not received.body
    await is_idle(world)


async def test_lost_bytes_in_mid_stream_break_off_after_right_bytes_only(world, seed) -> None:
    """What was sent is a prefix of the file; the rest is an error, never wrong or missing bytes with a clean end."""
    body = random.Random(seed).randbytes(20 * CHUNK_SIZE_BYTES)
    published = await put(world, body)
    await is_idle(world)
    lost = published.version.content.chunk(15)[0]
    for chunks in world.nodes.chunks.values():
        chunks.pop(lost, None)
    received = Received()
    with pytest.raises(BaseExceptionGroup) as caught:
        await get(world, received)
    assert isinstance(only(caught.value), DataUnavailableError)
    assert bytes(received.body) == body[: 15 * CHUNK_SIZE_BYTES]
    await is_idle(world)


@pytest.mark.parametrize("fault", ["missing", "corrupt"])
async def test_a_read_repairs_what_it_finds(world, seed, fault) -> None:
    """A replica that is missing or wrong is put back in the background."""
    # So many chunks that storage-1 is certainly the first choice of some.
    body = random.Random(seed).randbytes(40 * CHUNK_SIZE_BYTES)
    published = await put(world, body)
    await is_idle(world)
    first = world.nodes.of("storage-1")
    wanted = dict(first)
    assert len(wanted) == published.version.content.chunk_count
    for digest in wanted:
        first[digest] = b"rotten"
    if fault == "missing":
        first.clear()
    assert bytes((await get(world)).body) == body
    # A download asks R nodes about each chunk; HEAD asks all N.
    await confirm(world)
    if fault == "missing":
        await world.wait_until(lambda: first == wanted, "all replicas repaired")
    else:
        await world.wait_until(lambda: world.metric("trivet_gateway_replicas_repaired_total") > 0, "a repair")
        assert all(data in {b"rotten", wanted[digest]} for digest, data in first.items())
    await is_idle(world)


async def test_chunks_behind_the_first_window_are_checked_when_they_are_reached(world, seed) -> None:
    """A replica that is missing there is put back, although its bytes came from another one."""
    published = await put(world, random.Random(seed).randbytes((2 * CHECK_WINDOW_CHUNKS + 1) * CHUNK_SIZE_BYTES))
    await is_idle(world)
    last, _ = published.version.content.chunk(2 * CHECK_WINDOW_CHUNKS - 1)
    _, second, *_ = read_order(last, (await find(world)).node_map)
    del world.nodes.of(second.id)[last]
    await get(world)
    await world.wait_until(lambda: last in world.nodes.of(second.id), "the replica is put back")
    await is_idle(world)


async def test_a_strict_read_checks_every_chunk_before_the_first_byte(world, seed) -> None:
    """Also behind the first window: what falls short of R there must not be found out in mid-stream."""
    published = await put(world, random.Random(seed).randbytes((CHECK_WINDOW_CHUNKS + 1) * CHUNK_SIZE_BYTES))
    await is_idle(world)
    last, _ = published.version.content.chunk(published.version.content.chunk_count - 1)
    for node_id in ("storage-1", "storage-2"):
        del world.nodes.of(node_id)[last]
    strict = Received()
    with pytest.raises(BaseExceptionGroup) as caught:
        await get(world, strict, quorums=world.services.quorums.for_request(None, "2"))
    assert isinstance(only(caught.value), QuorumNotReachedError)
    assert strict.confirmed is None
    await is_idle(world)


async def test_a_chunk_that_was_sent_is_held_no_longer(world, seed) -> None:
    """However long the file, a download holds what it reads ahead, and gives back what the client has taken."""
    await put(world, random.Random(seed).randbytes(40 * CHUNK_SIZE_BYTES))
    await is_idle(world)
    held: list[float] = []

    class Watching(Received):
        async def sink(self, view: memoryview) -> None:
            if view:
                held.append(world.metric("trivet_gateway_inflight_bytes"))
            await super().sink(view)

    await get(world, Watching())
    assert len(held) == 40
    assert max(held) <= (world.settings.read_ahead_chunks + 1) * CHUNK_SIZE_BYTES


async def test_a_chunk_is_held_until_the_connection_has_taken_all_of_it(world, seed) -> None:
    """What is sent and still lies in this process counts: two hundred slow clients would hold a chunk each beside the budget."""
    await put(world, random.Random(seed).randbytes(100 * CHUNK_SIZE_BYTES))
    await is_idle(world)
    held: list[float] = []

    class Unsent(Received):
        async def sink(self, view: memoryview) -> None:
            if not view:  # the call that waits for what was sent before
                held.append(world.metric("trivet_gateway_inflight_bytes"))
            await super().sink(view)

    await get(world, Unsent())
    assert len(held) == 100
    assert min(held) >= CHUNK_SIZE_BYTES
    await is_idle(world)


async def test_a_chunk_that_was_sent_is_gone_before_the_next_is_waited_for(world, seed, monkeypatch) -> None:
    """While a download waits for budget it holds no bytes that nothing counts: two hundred would be as many chunks."""
    await put(world, random.Random(seed).randbytes(40 * CHUNK_SIZE_BYTES))
    await is_idle(world)
    bodies: list[weakref.ref[Body]] = []
    get_chunk, require_next = world.nodes.get_chunk, _ReadAhead.require_next
    surplus: list[int] = []

    async def fetch(*args: object) -> ReadChunk:
        body = Body((await get_chunk(*args)).data)
        bodies.append(weakref.ref(body))
        return ReadChunk(body)

    async def wait(self: _ReadAhead) -> None:
        for _ in range(5):  # callbacks of what has ended
            await asyncio.sleep(0)
        surplus.append(sum(body() is not None for body in bodies) - len(self._ahead))
        await require_next(self)

    monkeypatch.setattr(world.nodes, "get_chunk", fetch)
    monkeypatch.setattr(_ReadAhead, "require_next", wait)
    await get(world)
    assert len(surplus) >= 40
    assert max(surplus) <= 0


async def test_read_ahead_is_bounded_and_a_slow_client_stops_it(world, seed) -> None:
    """A client that takes nothing holds a few chunks, whatever the size of the file."""
    await put(world, random.Random(seed).randbytes(100 * CHUNK_SIZE_BYTES))
    await is_idle(world)
    world.nodes.calls.clear()
    release = asyncio.Event()

    class Slow(Received):
        async def sink(self, view: memoryview) -> None:
            await release.wait()
            await super().sink(view)

    slow = Slow()
    reading = asyncio.ensure_future(get(world, slow))
    await world.wait_until(lambda: slow.confirmed is not None, "headers")
    for _ in range(50):
        await asyncio.sleep(0)
    fetched = sum(count for (what, _), count in world.nodes.calls.items() if what == "get")
    limit = world.settings.read_ahead_chunks + 1
    assert 1 <= fetched <= limit
    assert world.metric("trivet_gateway_inflight_bytes") <= limit * CHUNK_SIZE_BYTES
    release.set()
    await reading
    assert len(slow.body) == 100 * CHUNK_SIZE_BYTES
    await is_idle(world)


async def test_a_download_past_its_age_is_broken_off(world, seed, monkeypatch) -> None:
    """Its chunks are not kept for it any longer. Nothing more is fetched, and everything is given back."""
    body = random.Random(seed).randbytes(100 * CHUNK_SIZE_BYTES)
    await put(world, body)
    await is_idle(world)
    now_s = 0.0
    monkeypatch.setattr(downloads, "time", SimpleNamespace(monotonic=lambda: now_s))

    class Ageing(Received):
        async def sink(self, view: memoryview) -> None:
            nonlocal now_s
            await super().sink(view)
            now_s += world.settings.max_download_age_s / 10

    received = Ageing()
    with pytest.raises(BaseExceptionGroup) as caught:
        await get(world, received)
    assert isinstance(only(caught.value), RequestTimeoutError)
    assert 0 < len(received.body) < len(body)
    assert body.startswith(received.body)
    await is_idle(world)


async def test_a_client_that_goes_stops_the_fetching(world, seed) -> None:
    """Cancellation of a download cancels its attempts and gives everything back."""
    await put(world, random.Random(seed).randbytes(20 * CHUNK_SIZE_BYTES))
    await is_idle(world)
    world.nodes.hanging |= {"storage-1", "storage-2", "storage-3"}
    reading = asyncio.ensure_future(get(world))
    await world.wait_until(lambda: world.nodes.under_way > 0, "fetching")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    world.nodes.hanging.clear()
    world.nodes.released.set()
    await is_idle(world)


async def test_an_upload_that_is_cancelled_stops_its_fan_out(world) -> None:
    """No attempt of an uncounted chunk goes on."""
    world.nodes.hanging |= {"storage-1", "storage-2", "storage-3"}
    writing = asyncio.ensure_future(put(world, bytes(CHUNK_SIZE_BYTES)))
    await world.wait_until(lambda: world.nodes.under_way == 3, "fan-out")
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await is_idle(world)
    assert published_count(world) == 0


async def test_the_window_bounds_the_chunks_of_one_upload(make_world, seed) -> None:
    """At most `upload_window_chunks` chunks are sent and not yet counted."""
    world = await make_world(upload_window_chunks=2)
    world.nodes.hanging |= {"storage-1", "storage-2", "storage-3"}
    writing = asyncio.ensure_future(put(world, random.Random(seed).randbytes(10 * CHUNK_SIZE_BYTES)))
    await world.wait_until(lambda: world.nodes.under_way == 6, "two chunks on three nodes")
    for _ in range(50):
        await asyncio.sleep(0)
    assert world.nodes.most_under_way == 6
    world.nodes.released.set()
    await writing
    await is_idle(world)


@pytest.mark.parametrize("announced", [True, False])
async def test_a_file_over_the_limit_is_refused_and_one_at_the_limit_is_not(make_world, announced) -> None:
    """With Content-Length before a byte is taken, without it when the limit is passed."""
    world = await make_world(max_file_bytes=3 * CHUNK_SIZE_BYTES)
    limit = 3 * CHUNK_SIZE_BYTES
    await put(world, bytes(limit), announced_bytes=limit if announced else None)
    taken = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(4):
            taken += 1
            yield bytes(CHUNK_SIZE_BYTES)

    with pytest.raises(PayloadTooLargeError):
        await world.services.uploads.put(order_for(world, announced_bytes=limit + 1 if announced else None), body())
    assert taken == (0 if announced else 4)
    assert published_count(world) == 1
    await is_idle(world)


async def test_refusals_come_before_the_first_byte(world) -> None:
    """No bucket, a failed condition, a full house: the body is not touched."""

    async def untouchable() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    async def refused(**changes: object) -> None:
        await world.services.uploads.put(order_for(world, **changes), untouchable())

    with pytest.raises(BucketNotFoundError):
        await refused(name=FileName("nowhere", "k"))
    with pytest.raises(BucketNotFoundError):
        await refused(name=FileName("nowhere", "k"), preconditions=Preconditions(if_match=["*"]))
    with pytest.raises(PreconditionFailedError):
        await refused(preconditions=Preconditions(if_match=["*"]))
    await put(world, b"x")
    with pytest.raises(PreconditionFailedError):
        await refused(preconditions=Preconditions(if_none_match=["*"]))
    await is_idle(world)


async def test_conditions_are_decided_in_the_log_too(world) -> None:
    """A version that appears during the upload makes the condition fail at the end."""

    async def body() -> AsyncIterator[bytes]:
        await put(world, b"first")
        yield b"second"

    with pytest.raises(PreconditionFailedError):
        await world.services.uploads.put(order_for(world, preconditions=Preconditions(if_none_match=["*"])), body())
    assert bytes((await get(world)).body) == b"first"


async def test_a_bucket_made_anew_during_an_upload_is_a_conflict(world) -> None:
    """The publish names the incarnation that it began with."""
    name = FileName("bucket", "k")
    await world.metadata.propose(CreateBucket(bucket="bucket", stamp=world.clock.stamp()))

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        await world.metadata.propose(DeleteBucket(bucket="bucket", stamp=world.clock.stamp()))
        await world.metadata.propose(CreateBucket(bucket="bucket", stamp=world.clock.stamp()))

    with pytest.raises(BucketRecreatedError):
        await world.services.uploads.put(order_for(world, name=name), body())


async def test_an_unknown_outcome_is_passed_on_as_it_is(world) -> None:
    """The gateway never turns a maybe into a no."""
    world.metadata.errors.append(OutcomeUnknownError("lost"))
    with pytest.raises(OutcomeUnknownError) as caught:
        await put(world, b"x")
    assert not caught.value.definite
    await is_idle(world)


async def test_a_missing_file_carries_the_index_that_last_changed_it(world) -> None:
    """0 when it never was, the deletion's index afterwards."""
    with pytest.raises(FileNotFoundInBucketError) as never:
        await find(world)
    assert never.value.facts["version"] == 0
    await put(world, b"x")
    deleted = await world.metadata.propose(DeleteFile(bucket=NAME.bucket, key=NAME.key, stamp=world.clock.stamp()))
    with pytest.raises(FileNotFoundInBucketError) as gone:
        await find(world)
    assert gone.value.facts["version"] == deleted.log_index


async def test_one_transfer_too_many_is_refused_at_once(make_world) -> None:
    """The slot limit, and one past it."""
    world = await make_world(max_concurrent_requests=2)
    gate = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        await gate.wait()

    running = [
        asyncio.ensure_future(world.services.uploads.put(order_for(world, announced_bytes=1), body())) for _ in range(2)
    ]
    await world.wait_until(lambda: world.metric("trivet_gateway_transfers") == 2, "two transfers")
    with pytest.raises(OverloadedError) as caught:
        await put(world, b"y")
    assert caught.value.definite
    gate.set()
    await asyncio.gather(*running)
    await put(world, b"y")
    await is_idle(world)


class SlowFinds:
    """Holds every read of metadata until `gate` opens; counts those under way."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = asyncio.Event()
        self.under_way = self.most_under_way = 0
        self._read = world.metadata.read
        monkeypatch.setattr(world.metadata, "read", self)

    async def __call__(self, query: AnyQuery, **_: object) -> tuple[Answer, ReadContext]:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            async with asyncio.timeout(5):
                await self.gate.wait()
        finally:
            self.under_way -= 1
        return await self._read(query)


async def test_a_file_is_not_looked_up_without_a_slot(make_world, monkeypatch) -> None:
    """GET and HEAD take their slot first: a refused one has not fetched the chunk list of a huge file before."""
    world = await make_world(max_concurrent_requests=2)
    await put(world, b"x")
    slow = SlowFinds(world, monkeypatch)
    running = [asyncio.ensure_future(find(world)) for _ in range(2)]
    await world.wait_until(lambda: slow.under_way == 2, "two look-ups")
    with pytest.raises(OverloadedError):
        await find(world)
    assert slow.most_under_way == 2
    slow.gate.set()
    await asyncio.gather(*running)
    await find(world)
    await is_idle(world)


async def test_look_ups_are_bounded_and_wait_their_turn(make_world, monkeypatch) -> None:
    """More than the limit at once are all answered, never more than the limit at one time."""
    world = await make_world(max_concurrent_requests=3 * MAX_LOOKUPS)
    await put(world, b"x")
    slow = SlowFinds(world, monkeypatch)
    running = [asyncio.ensure_future(find(world)) for _ in range(3 * MAX_LOOKUPS)]
    await world.wait_until(lambda: slow.under_way == MAX_LOOKUPS, "as many look-ups as may be")
    slow.gate.set()
    assert {found.version.content.size_bytes for found in await asyncio.gather(*running)} == {1}
    assert slow.most_under_way == MAX_LOOKUPS
    await is_idle(world)


async def test_a_look_up_without_a_turn_in_time_is_refused(make_world, monkeypatch) -> None:
    """While no leader answers, those who wait are told so in the time that metadata may take."""
    world = await make_world(max_concurrent_requests=2 * MAX_LOOKUPS, consensus_deadline_s=0.05)
    slow = SlowFinds(world, monkeypatch)
    running = [asyncio.ensure_future(find(world)) for _ in range(MAX_LOOKUPS)]
    await world.wait_until(lambda: slow.under_way == MAX_LOOKUPS, "as many look-ups as may be")
    with pytest.raises(OverloadedError):
        await find(world)
    slow.gate.set()
    await asyncio.gather(*running, return_exceptions=True)
    await is_idle(world)


async def test_head_takes_a_slot(make_world) -> None:
    """It asks about every chunk of a file, which is work like any transfer."""
    world = await make_world(max_concurrent_requests=1)
    await put(world, b"x")
    world.nodes.hanging.update(("storage-1", "storage-2", "storage-3"))
    first = asyncio.ensure_future(confirm(world))
    await world.wait_until(lambda: world.metric("trivet_gateway_transfers") == 1, "the slot taken")
    with pytest.raises(OverloadedError):
        await confirm(world)
    world.nodes.hanging.clear()
    world.nodes.released.set()
    assert await first == 3
    await is_idle(world)


async def test_many_uploads_share_the_budget_and_all_end(make_world, seed) -> None:
    """More demand than budget: everyone waits in line and nobody is left behind, and the limit is never passed."""
    world = await make_world(
        chunk_size_bytes=256 * 1024,
        max_inflight_bytes=1536 * 1024,
        max_concurrent_requests=16,
        budget_wait_s=20,
        admission_wait_s=20,
    )
    print(f"seed {seed}")
    rng = random.Random(seed)
    bodies = [rng.randbytes(rng.randrange(1, 1024 * 1024)) for _ in range(12)]
    highest = 0

    def watch(_what: str, _node_id: str) -> None:
        nonlocal highest
        highest = max(highest, int(world.metric("trivet_gateway_inflight_bytes")))

    world.nodes.on_call = watch
    await asyncio.gather(
        *(put(world, body, name=FileName("default", f"k{number}")) for number, body in enumerate(bodies))
    )
    assert 0 < highest <= 1536 * 1024
    await is_idle(world)
