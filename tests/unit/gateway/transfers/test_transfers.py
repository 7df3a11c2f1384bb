"""Whole files in and out of the real parts, over fake nodes and the real state machine."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
from collections.abc import AsyncIterator

import pytest
from blake3 import blake3

from services.gateway.semantics.body_digests import BodyDigests
from services.gateway.semantics.byte_ranges import ByteSpan
from services.gateway.semantics.raw_names import FileName
from shared.contracts.etags import etag_of
from shared.contracts.files import Preconditions
from shared.contracts.metadata import CreateBucket, DeleteBucket, DeleteFile, PublishFile
from shared.errors import (
    BucketNotFoundError,
    BucketRecreatedError,
    DigestMismatchError,
    FileNotFoundInBucketError,
    InternalError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    PreconditionFailedError,
    QuorumNotReachedError,
    RequestTimeoutError,
)
from tests.unit.gateway.conftest import CHUNK_SIZE_BYTES
from tests.unit.gateway.fakes import unreachable
from tests.unit.gateway.transfers.transfer_calls import (
    NAME,
    confirm,
    find,
    get,
    is_idle,
    order_for,
    published_count,
    put,
)

pytestmark = pytest.mark.virtual_time
SIZES = [0, 1, CHUNK_SIZE_BYTES - 1, CHUNK_SIZE_BYTES, CHUNK_SIZE_BYTES + 1, 10 * CHUNK_SIZE_BYTES + 7]


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
