"""What a read proves about replicas, what it serves when some are bad or gone, and what it repairs."""

from __future__ import annotations

import random

import pytest

from services.gateway.replicas.repair import MAX_QUEUED_REPAIRS
from services.gateway.transfers.downloads import (
    CHECK_WINDOW_CHUNKS,
)
from shared.errors import (
    DataUnavailableError,
    QuorumNotReachedError,
)
from shared.placement import read_order
from tests.unit.gateway.conftest import CHUNK_SIZE_BYTES
from tests.unit.gateway.fakes import unreachable
from tests.unit.gateway.transfers.transfer_calls import Received, confirm, find, get, is_idle, only, put

pytestmark = pytest.mark.virtual_time


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


async def test_replicas_that_were_not_read_lately_are_read_where_r_is_a_condition(world) -> None:
    """After a restart a node has verified nothing: it is asked to, and the read is not refused."""
    await put(world, b"x" * CHUNK_SIZE_BYTES)
    await is_idle(world)
    world.nodes.unread |= {"storage-1", "storage-2", "storage-3"}
    quorums = world.services.quorums.for_request(None, "3")
    assert (await get(world, quorums=quorums)).confirmed == 3
    await confirm(world, quorums)


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
