"""Uploads and downloads of a world in memory, as routes make them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

from services.gateway.replicas.quorum import Quorums
from services.gateway.semantics.body_digests import BodyDigests
from services.gateway.semantics.byte_ranges import ByteSpan
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.admission import Client
from services.gateway.transfers.downloads import (
    ConfirmedReplicas,
    FoundFile,
)
from services.gateway.transfers.uploads import UploadRequest, UploadResult
from shared.contracts.files import Preconditions
from shared.contracts.metadata import PublishFile
from tests.unit.gateway.conftest import World

NAME = FileName("default", "a/key")
CLIENT = Client("192.0.2.1")


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


async def send_file(
    world: World,
    found: FoundFile,
    spans: Sequence[ByteSpan] | None,
    quorums: Quorums,
    *,
    start: Callable[[ConfirmedReplicas], Awaitable[None]],
    sink: Callable[[memoryview], Awaitable[None]],
    group: asyncio.TaskGroup,
) -> None:
    """As a route does: what was confirmed first, then the bytes."""
    async with world.services.downloads.read(found, spans, quorums, group) as reading:
        await start(reading.confirmed)
        async for view in reading.pieces:
            await sink(view)


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
        await send_file(
            world,
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
