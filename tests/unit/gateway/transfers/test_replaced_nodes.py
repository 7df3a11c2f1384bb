"""An upload whose publish is refused, because a node that it counts lost its disk meanwhile, is attempted anew."""

from __future__ import annotations

import random

import pytest
from blake3 import blake3

from services.gateway.transfers.idempotency import IdempotencyKey
from services.gateway.transfers.publishing import MAX_ATTEMPTS
from shared.contracts.cluster import NodeRun
from shared.contracts.metadata import (
    AnnounceMember,
    CreateBucket,
    DeleteBucket,
    DrainNode,
    GetFile,
    PublishFile,
    RaiseEntryVersion,
    RecordRun,
    RemoveNode,
)
from shared.contracts.references import CondemnChunks
from shared.contracts.time import ClockState, Stamp
from shared.errors import BucketRecreatedError, DataUnavailableError, QuorumNotReachedError, UnavailableError
from tests.unit.gateway.conftest import CHUNK_SIZE_BYTES, NODES, World
from tests.unit.gateway.fakes import unreachable
from tests.unit.gateway.transfers.transfer_calls import NAME, get, is_idle, put

pytestmark = pytest.mark.virtual_time

VICTIM, OTHER, THIRD = NODES
STAMP = Stamp(hlc=1 << 32, state=ClockState.LOGICAL)


class Disks:
    """The disks of a world's nodes: recorded in the log, and replaced by empty ones."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._made = 0

    async def record(self, node_id: str) -> None:
        """A heartbeat of a run that has a disk of its own."""
        self._made += 1
        run = NodeRun(disk_id=f"{self._made:032x}", counter=1, boot_id=f"{self._made:032x}")
        outcome = await self._world.metadata.propose(RecordRun(node_id=node_id, run=run, stamp=STAMP))
        self._world.nodes.fences[node_id] = outcome.result.fence

    async def wipe(self, node_id: str) -> None:
        """The node comes back under its name with nothing."""
        self._world.nodes.chunks[node_id] = {}
        await self.record(node_id)


@pytest.fixture
async def disks(world: World) -> Disks:
    found = Disks(world)
    for node in world.metadata.store.node_map().nodes:
        await found.record(node.id)
    return found


def at_publish(world: World, acts: list) -> None:
    """Before each publish reaches the log, await the next of `acts`."""
    real = world.metadata.propose

    async def propose(command, **options):
        if isinstance(command, PublishFile) and acts:
            await acts.pop(0)()
        return await real(command, **options)

    world.metadata.propose = propose


def published(world: World) -> list[PublishFile]:
    return [command for command in world.metadata.proposed if isinstance(command, PublishFile)]


def body_of(seed: int) -> bytes:
    return random.Random(seed).randbytes(5 * CHUNK_SIZE_BYTES + 3)


async def test_a_node_wiped_in_mid_upload_is_made_good_before_the_receipt(world, disks, seed) -> None:
    """Every chunk is put again with a new start index; what the receipt counts is there, the other nodes gone or not."""
    body = body_of(seed)
    at_publish(world, [lambda: disks.wipe(VICTIM)])
    receipt = (await put(world, body)).version
    first, second = published(world)
    assert second.start_index > first.start_index
    assert second.fences == {node_id: world.nodes.fences[node_id] for node_id in second.durability.nodes}
    for digest in (receipt.content.chunk(index)[0] for index in range(receipt.content.chunk_count)):
        assert len(world.nodes.holders(digest)) >= receipt.durability.acknowledged >= 2
    await is_idle(world)
    assert bytes((await get(world)).body) == body


async def test_the_only_other_holder_dies_after_the_receipt(world, disks, seed) -> None:
    """The file of an acknowledged upload is read although the disk of one holder was lost during it, and another one later."""
    body = body_of(seed)
    world.nodes.errors[THIRD] = unreachable(THIRD)  # so each chunk is on the victim and on one more
    at_publish(world, [lambda: disks.wipe(VICTIM)])
    await put(world, body)
    world.nodes.errors[OTHER] = unreachable(OTHER)
    assert bytes((await get(world)).body) == body


async def test_a_chunk_that_no_node_holds_any_more_ends_the_upload(world, disks, seed) -> None:
    """503, definite, with Retry-After, and nothing is published."""

    async def wipe_all() -> None:
        for node_id in NODES:
            await disks.wipe(node_id)

    at_publish(world, [wipe_all])
    with pytest.raises(DataUnavailableError) as refused:
        await put(world, body_of(seed))
    assert refused.value.definite
    assert refused.value.retry_after_s
    answer, _ = await world.metadata.read(GetFile(bucket=NAME.bucket, key=NAME.key))
    assert answer.file is None
    await is_idle(world)


async def test_a_quorum_that_is_missed_the_second_time_ends_the_upload(world, disks, seed) -> None:
    """Acknowledgements of the first attempt are not counted with those of the second."""

    async def wipe_and_kill() -> None:
        await disks.wipe(VICTIM)
        world.nodes.errors |= {VICTIM: unreachable(VICTIM), THIRD: unreachable(THIRD)}

    at_publish(world, [wipe_and_kill])
    with pytest.raises(QuorumNotReachedError) as refused:
        await put(world, body_of(seed))
    assert refused.value.definite
    await is_idle(world)


async def test_attempts_are_bounded(world, disks, seed) -> None:
    """A cluster whose disks go as fast as they are written to is told so: 503, definite, with Retry-After."""
    at_publish(world, [lambda: disks.wipe(VICTIM)] * (MAX_ATTEMPTS + 5))
    with pytest.raises(UnavailableError) as refused:
        await put(world, body_of(seed))
    assert len(published(world)) == MAX_ATTEMPTS
    assert refused.value.definite
    assert refused.value.retry_after_s
    await is_idle(world)


async def test_a_removed_node_makes_a_new_attempt_as_well(make_world, seed) -> None:
    """Also without fences, by the epoch in which the upload began."""
    world = await make_world(*NODES, "storage-4")
    body = body_of(seed)

    async def remove() -> None:
        await world.metadata.propose(RemoveNode(node_id=VICTIM, stamp=STAMP))

    at_publish(world, [remove])
    receipt = (await put(world, body)).version
    assert VICTIM not in receipt.durability.nodes
    assert len(published(world)) == 2


async def knows_garbage(world: World) -> None:
    """Entries of version 3 are in force."""
    await world.metadata.propose(AnnounceMember(member_id="consensus-1", entry_version=3, stamp=STAMP))
    await world.metadata.propose(RaiseEntryVersion(entry_version=3, stamp=STAMP))


async def test_a_node_that_drains_by_now_makes_a_new_attempt(make_world, seed) -> None:
    """What it acknowledged counts no more: its chunks are put to others."""
    world = await make_world(*NODES, "storage-4")
    await knows_garbage(world)

    async def drain() -> None:
        await world.metadata.propose(DrainNode(node_id=VICTIM, stamp=STAMP))

    at_publish(world, [drain])
    receipt = (await put(world, body_of(seed))).version
    assert VICTIM not in receipt.durability.nodes
    assert len(published(world)) == 2


async def test_a_chunk_that_was_condemned_meanwhile_is_put_again(world, disks, seed) -> None:
    """With a start index above the condemnation: no node deletes it any more."""
    await knows_garbage(world)

    async def condemn() -> None:
        digests = published_digests[:32]
        await world.metadata.propose(CondemnChunks(digests=digests, start_indexes=[1 << 40], stamp=STAMP))

    body = body_of(seed)
    published_digests = blake3(body[:CHUNK_SIZE_BYTES]).digest()
    at_publish(world, [condemn])
    receipt = (await put(world, body)).version
    first, second = published(world)
    assert second.start_index > first.start_index
    assert receipt.version > second.start_index
    assert bytes((await get(world)).body) == body


async def test_a_later_attempt_keeps_the_bucket_in_which_the_upload_began(world, disks, seed) -> None:
    """A bucket that is deleted and made again meanwhile is a conflict, as it is without another attempt."""
    await world.metadata.propose(CreateBucket(bucket="photos", stamp=STAMP))

    async def wipe_and_recreate() -> None:
        await disks.wipe(VICTIM)
        await world.metadata.propose(DeleteBucket(bucket="photos", stamp=STAMP))
        await world.metadata.propose(CreateBucket(bucket="photos", stamp=STAMP))

    at_publish(world, [wipe_and_recreate])
    with pytest.raises(BucketRecreatedError):
        await put(world, body_of(seed), name=type(NAME)("photos", "x"))


async def test_a_bucket_made_again_between_two_attempts_is_a_conflict(world, disks, seed) -> None:
    """The later one reads the new bucket, and does not put the file there: its upload began in the old one."""
    await world.metadata.propose(CreateBucket(bucket="photos", stamp=STAMP))
    real = world.metadata.read

    async def read(query, **options):
        if published(world):
            world.metadata.read = real
            await world.metadata.propose(DeleteBucket(bucket="photos", stamp=STAMP))
            await world.metadata.propose(CreateBucket(bucket="photos", stamp=STAMP))
        return await real(query, **options)

    world.metadata.read = read
    at_publish(world, [lambda: disks.wipe(VICTIM)])
    with pytest.raises(BucketRecreatedError):
        await put(world, body_of(seed), name=type(NAME)("photos", "x"))
    assert len(published(world)) == 2


async def test_the_receipt_of_a_later_attempt_stands_under_the_clients_key(world, disks, seed) -> None:
    """The refused attempt does not: a duplicate of the request gets the receipt."""
    key = IdempotencyKey.of({"idempotency-key": "k"}, method="PUT", bucket=NAME.bucket, key=NAME.key)
    body = body_of(seed)
    at_publish(world, [lambda: disks.wipe(VICTIM)])
    first = await put(world, body, idempotency_key=key)
    again = await put(world, body, idempotency_key=key)
    assert again == first
    assert len(published(world)) == 2


async def test_a_node_that_does_not_know_that_it_was_replaced_is_passed_over(world, disks, seed) -> None:
    """It goes on acknowledging under its old fence; the second attempt counts the others."""

    async def supersede() -> None:
        fence = world.nodes.fences[VICTIM]
        await disks.record(VICTIM)
        world.nodes.fences[VICTIM] = fence

    at_publish(world, [supersede])
    receipt = (await put(world, body_of(seed))).version
    assert set(receipt.durability.nodes) == {OTHER, THIRD}
    assert len(published(world)) == 2
