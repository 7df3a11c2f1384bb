"""Single bodies that one entry of the log cannot hold: logged part by part, and one file in the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from blake3 import blake3

from services.gateway.main import assemble
from services.gateway.semantics.body_digests import BodyDigests
from services.gateway.transfers import uploads
from services.gateway.transfers.idempotency import IdempotencyKey
from shared.contracts.etags import etag_of
from shared.contracts.files import Preconditions
from shared.contracts.metadata import PublishFile
from shared.contracts.uploads import AbortUpload, BeginUpload, CompleteUpload, GetUpload, ListUploads, PutPart
from shared.errors import (
    ChunkCondemnedError,
    DigestMismatchError,
    InvalidRequestError,
    PreconditionFailedError,
    QuorumNotReachedError,
    UpgradeUnfinishedError,
    UploadNotFoundError,
)
from tests.unit.gateway.conftest import CHUNK_SIZE_BYTES, NODES, World
from tests.unit.gateway.fakes import unreachable
from tests.unit.gateway.transfers.transfer_calls import NAME, get, is_idle, order_for, pieces_of, put

pytestmark = pytest.mark.virtual_time

SEAL = 3
"""Chunks of a part here."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch) -> None:
    """Or the bodies would have gigabytes."""
    monkeypatch.setattr(uploads, "SEAL_CHUNKS", SEAL)


@pytest.fixture
async def world(make_world) -> World:
    world = await make_world()
    await world.metadata.upgrade(world.clock)
    return world


def proposed(world: World, kind: type) -> list:
    return [command for command in world.metadata.proposed if isinstance(command, kind)]


async def is_aborted(world: World) -> None:
    """The upload behind the body is gone, and no file came of it."""
    await world.wait_until(lambda: bool(proposed(world, AbortUpload)), "an abort")
    (begun,) = proposed(world, BeginUpload)
    upload = proposed(world, AbortUpload)[0].upload
    answer, _ = await world.metadata.read(GetUpload(upload=upload, nonce=begun.nonce))
    assert answer.upload is None
    await is_idle(world)


@pytest.mark.parametrize("chunks", [SEAL, SEAL + 1, 2 * SEAL, 4 * SEAL + 2])
@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_of_any_length_becomes_a_file(chunks, announced, world, seed) -> None:
    """Up to a part it is one list; beyond, pieces. Bytes, digest and entity tag are the same either way."""
    body = random.Random(seed).randbytes(chunks * CHUNK_SIZE_BYTES - 7)
    published = await put(world, body, announced_bytes=len(body) if announced else None)
    content, digest = published.version.content, blake3(body).hexdigest()
    assert (await get(world)).body == body
    assert (content.size_bytes, content.digest, content.chunk_count) == (len(body), digest, chunks)
    assert published.version.etag == etag_of(digest, "text/plain", {"colour": "red"})
    assert (content.composition is None) == (chunks <= SEAL)
    assert [len(part.content.chunk_digests) // 32 for part in proposed(world, PutPart)] == (
        [] if chunks <= SEAL else [min(SEAL, chunks - at) for at in range(0, chunks, SEAL)]
    )
    assert not proposed(world, AbortUpload)
    await is_idle(world)


async def test_such_an_upload_is_in_no_list(world) -> None:
    """Of the uploads of clients: it is none."""
    listed = []

    async def body() -> AsyncIterator[bytes]:
        for _ in range(SEAL + 2):
            yield bytes(CHUNK_SIZE_BYTES)
        answer, _ = await world.metadata.read(ListUploads(bucket=NAME.bucket))
        listed.append(answer.uploads)

    await world.services.uploads.put(order_for(world), body())
    assert listed == [[]]


async def test_a_body_that_breaks_off_leaves_nothing(world) -> None:
    """The file is as it was, and the parts are given up at once."""
    await put(world, b"before")

    async def broken() -> AsyncIterator[bytes]:
        yield bytes(2 * SEAL * CHUNK_SIZE_BYTES)
        yield bytes(1)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await world.services.uploads.put(order_for(world), broken())
    await is_aborted(world)
    assert (await get(world)).body == b"before"


async def test_a_client_that_goes_leaves_nothing(world) -> None:
    """Cancelled in the middle of the body."""

    async def hanging() -> AsyncIterator[bytes]:
        yield bytes((SEAL + 1) * CHUNK_SIZE_BYTES)
        yield bytes(1)
        await asyncio.Event().wait()

    putting = asyncio.ensure_future(world.services.uploads.put(order_for(world), hanging()))
    await world.wait_until(lambda: bool(proposed(world, PutPart)), "a part")
    putting.cancel()
    await asyncio.gather(putting, return_exceptions=True)
    await is_aborted(world)


async def test_a_digest_is_checked_before_the_file_is_there(world) -> None:
    """Of all parts together."""
    digests = BodyDigests.announced({"content-md5": "XUFAKrxLKna5cZ2REBfFkg=="})
    with pytest.raises(DigestMismatchError):
        await put(world, bytes(3 * SEAL * CHUNK_SIZE_BYTES), digests=digests)
    assert not proposed(world, CompleteUpload)
    await is_aborted(world)


async def test_conditions_are_decided_when_all_of_it_has_come(world) -> None:
    """What was there at the beginning may be another version by then."""
    first = await put(world, b"first")

    async def body() -> AsyncIterator[bytes]:
        yield bytes((SEAL + 1) * CHUNK_SIZE_BYTES)
        await put(world, b"meanwhile")

    held = Preconditions(if_match=[first.version.etag])
    with pytest.raises(PreconditionFailedError):
        await world.services.uploads.put(order_for(world, preconditions=held), body())
    assert (await get(world)).body == b"meanwhile"
    await is_aborted(world)


async def test_a_refused_part_is_put_again_without_the_client(world, seed) -> None:
    """The body is sent once; the other parts stay as they are."""
    body = random.Random(seed).randbytes(3 * SEAL * CHUNK_SIZE_BYTES)
    real, refusals = world.metadata.propose, [ChunkCondemnedError("condemned")]

    async def propose(command, **options):
        if isinstance(command, PutPart) and command.number == 2 and refusals:
            world.metadata.errors.append(refusals.pop())
        return await real(command, **options)

    world.metadata.propose = propose
    await put(world, body)
    assert [part.number for part in proposed(world, PutPart)] == [1, 2, 2, 3]
    assert (await get(world)).body == body


async def test_a_part_without_its_quorum_ends_the_upload(world) -> None:
    """Definite: no file came of it."""

    async def body() -> AsyncIterator[bytes]:
        yield bytes((SEAL + 1) * CHUNK_SIZE_BYTES)
        world.nodes.errors = {node: unreachable(node) for node in NODES}
        yield random.Random(1).randbytes(SEAL * CHUNK_SIZE_BYTES)

    with pytest.raises(QuorumNotReachedError) as refused:
        await world.services.uploads.put(order_for(world), body())
    assert refused.value.definite
    await is_aborted(world)


async def test_a_slow_body_is_logged_before_its_chunks_are_collected(world, seed) -> None:
    """By half of the grace each chunk has an entry that refers to it, however few there are."""
    body = random.Random(seed).randbytes(3 * CHUNK_SIZE_BYTES)

    async def slow() -> AsyncIterator[bytes]:
        for at in range(3):
            yield body[at * CHUNK_SIZE_BYTES : (at + 1) * CHUNK_SIZE_BYTES]
            await asyncio.sleep(world.settings.gc_grace_s / 2 + 1)

    await world.services.uploads.put(order_for(world), slow())
    assert len(proposed(world, PutPart)) == 3
    assert (await get(world)).body == body


async def test_what_is_held_of_a_body_does_not_grow(world, monkeypatch) -> None:
    """Neither the digests that are not logged yet nor the writes."""
    most = 0
    add = uploads.ChunkSender.add

    async def watched(self, held, **options):
        nonlocal most
        await add(self, held, **options)
        most = max(most, len(self.writes), self.chunk_count)

    monkeypatch.setattr(uploads.ChunkSender, "add", watched)
    await put(world, random.Random(1).randbytes(20 * SEAL * CHUNK_SIZE_BYTES))
    assert most == SEAL


async def test_a_duplicate_gets_the_first_receipt(world, seed) -> None:
    """After the first one, and beside it at another gateway: one version, and the other's parts are given up."""
    body = random.Random(seed).randbytes(3 * SEAL * CHUNK_SIZE_BYTES)
    key = IdempotencyKey.of({"idempotency-key": "k"}, method="PUT", bucket=NAME.bucket, key=NAME.key)
    other, _, _ = assemble(
        world.settings, world.metadata, world.nodes, world.clock, tasks=world.tasks, repair_tasks=world.tasks
    )
    order = order_for(world, idempotency_key=key)
    first, second = await asyncio.gather(
        world.services.uploads.put(order, pieces_of(body)), other.uploads.put(order, pieces_of(body))
    )
    assert first.version == second.version
    third = await world.services.uploads.put(order, pieces_of(body))
    assert third.version == first.version
    await world.wait_until(lambda: len(proposed(world, AbortUpload)) == 1, "the parts that nobody needs are given up")
    assert proposed(world, AbortUpload)[0].upload != first.version.content.composition
    assert (await get(world)).body == body


async def test_an_upload_that_expired_under_its_body_is_refused(world) -> None:
    """Nothing is published; the client learns it at the next part."""

    async def body() -> AsyncIterator[bytes]:
        yield bytes((SEAL + 1) * CHUNK_SIZE_BYTES)
        (begun,) = proposed(world, BeginUpload)
        upload = proposed(world, PutPart)[0].upload
        await world.metadata.propose(AbortUpload(upload=upload, nonce=begun.nonce, stamp=world.clock.stamp()))
        yield bytes(2 * SEAL * CHUNK_SIZE_BYTES)

    with pytest.raises(UploadNotFoundError):
        await world.services.uploads.put(order_for(world), body())


@pytest.mark.parametrize("refusal", [UpgradeUnfinishedError("not yet"), InvalidRequestError("what is that?")])
async def test_a_cluster_that_knows_no_parts_yet_takes_one_list(refusal, world, seed) -> None:
    """While it is upgraded, files that it took before are taken still; it is asked once per body."""
    real = world.metadata.propose

    async def propose(command, **options):
        if isinstance(command, BeginUpload):
            world.metadata.errors.append(refusal)
        return await real(command, **options)

    world.metadata.propose = propose
    body = random.Random(seed).randbytes(4 * SEAL * CHUNK_SIZE_BYTES)
    published = await put(world, body)
    assert published.version.content.composition is None
    assert (len(proposed(world, PublishFile)), len(proposed(world, BeginUpload))) == (1, 1)
    assert (await get(world)).body == body
