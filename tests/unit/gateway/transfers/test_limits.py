"""Quotas that are known early, and the pace of a principal, over fake nodes and the real state machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.gateway.access.rate_limits import BURST_S, BodyPace
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.admission import Client
from shared.contracts.objects import BucketSettings, PutBucketSettings
from shared.errors import InvalidRequestError, QuotaExceededError
from shared.units import KIB, MIB
from tests.unit.gateway.conftest import World
from tests.unit.gateway.transfers.test_multipart import begin, part_request, put_part
from tests.unit.gateway.transfers.transfer_calls import NAME, Received, order_for, pieces_of, put, send_file

pytestmark = pytest.mark.virtual_time

CHUNK = 4 * KIB
ANNA = "1a" * 32


@pytest.fixture
async def world(make_world) -> World:
    world = await make_world(chunk_size_bytes=CHUNK)
    await world.metadata.upgrade(world.clock)
    return world


async def set_to(world: World, **settings: Any) -> None:
    stamp = world.clock.stamp()
    await world.metadata.propose(
        PutBucketSettings(bucket=NAME.bucket, settings=BucketSettings(**settings), stamp=stamp)
    )


async def untouched() -> AsyncIterator[bytes]:
    pytest.fail("the body is asked for")
    yield b""


async def try_put(world: World, size_bytes: int, name: FileName = NAME, **changes: Any) -> None:
    """A body of so many bytes that nobody may ask for."""
    await world.services.uploads.put(order_for(world, name=name, announced_bytes=size_bytes, **changes), untouched())


# --- quotas ---------------------------------------------------------------------------------------------------------


async def test_a_long_body_without_room_is_not_asked_for(world) -> None:
    """It is refused as the log would refuse it, and nothing was proposed."""
    await set_to(world, quota_bytes=5 * CHUNK)
    proposed = len(world.metadata.proposed)
    with pytest.raises(QuotaExceededError) as refusal:
        await try_put(world, 5 * CHUNK + 1)
    assert refusal.value.facts == {
        "of": "bucket",
        "unit": "bytes",
        "limit": 5 * CHUNK,
        "used": 0,
        "needed": 5 * CHUNK + 1,
    }
    assert len(world.metadata.proposed) == proposed
    assert world.metric("trivet_gateway_early_quota_refusals_total") == 1
    await put(world, bytes(5 * CHUNK), announced_bytes=5 * CHUNK)


async def test_a_short_body_is_asked_for_and_refused_by_the_log(world) -> None:
    """One chunk costs less than a question."""
    await set_to(world, quota_bytes=1)
    with pytest.raises(QuotaExceededError):
        await put(world, bytes(CHUNK), announced_bytes=CHUNK)
    assert world.metric("trivet_gateway_early_quota_refusals_total") == 0


async def test_what_a_body_replaces_makes_room_for_it(world) -> None:
    """Where no versions are kept; where they are it stays, and the body is not asked for."""
    await put(world, bytes(4 * CHUNK), announced_bytes=4 * CHUNK)
    await set_to(world, quota_bytes=5 * CHUNK, quota_files=1)
    await put(world, bytes(5 * CHUNK), announced_bytes=5 * CHUNK)
    with pytest.raises(QuotaExceededError):
        await try_put(world, 5 * CHUNK + 1)
    with pytest.raises(QuotaExceededError):
        await try_put(world, 2 * CHUNK, FileName(NAME.bucket, "another"))
    await set_to(world, quota_bytes=9 * CHUNK, versioning="enabled")
    with pytest.raises(QuotaExceededError):
        await try_put(world, 5 * CHUNK)


@pytest.mark.parametrize(
    "settings", [{"versioning": "suspended"}, {"versioning": "enabled", "superseded_retention_s": 0}]
)
async def test_what_is_not_known_here_the_log_decides(world, settings) -> None:
    """A null version may go, or the current one: the body is taken, and accepted where it fits."""
    await put(world, bytes(4 * CHUNK), announced_bytes=4 * CHUNK)
    await set_to(world, quota_bytes=5 * CHUNK, **settings)
    await put(world, bytes(5 * CHUNK), announced_bytes=5 * CHUNK)


async def test_a_member_that_does_not_know_the_question_stops_no_upload(world, monkeypatch) -> None:
    """It is a hint."""
    await set_to(world, quota_bytes=CHUNK)
    read = world.metadata.read

    async def refuse(query: Any, **options: Any) -> Any:
        if query.kind == "get_usage":
            raise InvalidRequestError("unknown")
        return await read(query, **options)

    monkeypatch.setattr(world.metadata, "read", refuse)
    with pytest.raises(QuotaExceededError):
        await put(world, bytes(2 * CHUNK), announced_bytes=2 * CHUNK)


async def test_a_long_part_without_room_is_not_asked_for(world) -> None:
    """Room is what the bucket has and the part of that number."""
    upload = await begin(world.services)
    await put_part(world, upload, 1, bytes(3 * CHUNK), announced_bytes=3 * CHUNK)
    await set_to(world, quota_bytes=5 * CHUNK)
    for number, size_bytes in ((2, 3 * CHUNK), (1, 6 * CHUNK)):
        with pytest.raises(QuotaExceededError):
            await world.services.multipart.put(
                part_request(world, upload, number, announced_bytes=size_bytes), untouched()
            )
    await put_part(world, upload, 1, bytes(5 * CHUNK), announced_bytes=5 * CHUNK)


# --- pace -----------------------------------------------------------------------------------------------------------


def paced(bytes_per_s: int) -> Client:
    return Client("192.0.2.1", ANNA, BodyPace(bytes_per_s, time.monotonic))


async def test_an_upload_comes_at_the_pace_of_its_principal(world) -> None:
    """After the first second's worth; at the same time another principal's comes at once."""
    began_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(
            world.services.uploads.put(order_for(world, client=paced(10_000)), pieces_of(bytes(60_000), 1000))
        )
        await put(world, bytes(60_000), name=FileName(NAME.bucket, "fast"))
        assert time.monotonic() - began_s < 1
    assert slow.result().version.content.size_bytes == 60_000
    assert 60_000 / 10_000 - BURST_S - 0.2 <= time.monotonic() - began_s <= 60_000 / 10_000


async def test_downloads_of_one_principal_share_its_pace(world) -> None:
    """Two of them take as long together as one of twice the length; the first bytes come at once."""
    await put(world, bytes(40_000))
    client, began_s = paced(10_000), time.monotonic()
    first_s: list[float] = []

    class Timed(Received):
        async def sink(self, view: memoryview) -> None:
            if view and not self.body:
                first_s.append(time.monotonic() - began_s)
            await super().sink(view)

    async def get() -> None:
        received = Timed()
        async with world.services.downloads.open(NAME, client) as found, asyncio.TaskGroup() as group:
            await send_file(
                world, found, None, world.services.quorums, start=received.start, sink=received.sink, group=group
            )
        assert bytes(received.body) == bytes(40_000)

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(get())
    assert max(first_s) < 1
    assert 80_000 / 10_000 - BURST_S - 0.6 <= time.monotonic() - began_s <= 80_000 / 10_000
    assert client.pace is not None
    assert client.pace.waited_s > 0


async def test_a_principal_without_a_pace_waits_for_nothing(world) -> None:
    """Not a turn of the clock."""
    began_s = time.monotonic()
    await put(world, bytes(MIB))
    assert time.monotonic() - began_s < 0.1
