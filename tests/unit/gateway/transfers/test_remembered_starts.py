"""Small uploads begin with what an earlier read said; where that was stale they read and put everything anew."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest
from blake3 import blake3

from services.gateway.semantics.body_digests import BodyDigests
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.idempotency import IdempotencyKey
from services.gateway.transfers.publishing import MAX_ATTEMPTS
from services.gateway.transfers.uploads import UploadResult
from shared.contracts.files import Preconditions
from shared.contracts.metadata import (
    AdmitNode,
    CreateBucket,
    DeleteBucket,
    DrainNode,
    GetBucket,
    GetFile,
    PassTime,
    RemoveNode,
    UpdateNode,
)
from shared.contracts.references import CondemnChunks
from shared.errors import (
    BucketNotFoundError,
    DigestMismatchError,
    DiskFullError,
    IdempotencyKeyReusedError,
    InvalidRequestError,
    LeaderUnavailableError,
    QuorumNotReachedError,
    UnavailableError,
)
from shared.placement import write_order
from shared.units import GIB, KIB
from tests.unit.gateway.conftest import CHUNK_SIZE_BYTES, NODES, World
from tests.unit.gateway.fakes import unreachable
from tests.unit.gateway.transfers.test_replaced_nodes import STAMP, Disks, at_publish, knows_garbage, published
from tests.unit.gateway.transfers.transfer_calls import NAME, get, is_idle, put

PHOTOS = FileName("photos", "x")
ASK_BUCKET = GetBucket(bucket="photos")
FAR_INDEX = 1 << 40

Act = Callable[[World, Disks, bytes], Awaitable[None]]


@pytest.fixture
async def world(make_world) -> World:
    """Four nodes, every rule of garbage in force, and a bucket of our own."""
    world = await make_world(*NODES, "storage-4")
    await knows_garbage(world)
    await world.metadata.propose(CreateBucket(bucket="photos", stamp=STAMP))
    return world


@pytest.fixture
async def disks(world) -> Disks:
    found = Disks(world)
    for node in world.metadata.store.node_map().nodes:
        await found.record(node.id)
    return found


def body_of(seed: int, size_bytes: int = CHUNK_SIZE_BYTES) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


def count_reads(world: World) -> list:
    """The queries that reach consensus from now on."""
    real, queries = world.metadata.read, []

    async def read(query, **options):
        queries.append(query)
        return await real(query, **options)

    world.metadata.read = read
    return queries


async def put_small(world: World, body: bytes, name: FileName = PHOTOS, **changes: object) -> UploadResult:
    return await put(world, body, name=name, announced_bytes=len(body), **changes)


async def warm_up(world: World, seed: int, name: FileName = PHOTOS) -> None:
    """A first upload, which reads."""
    await put_small(world, body_of(seed + 1), FileName(name.bucket, "first"))
    await is_idle(world)
    world.metadata.proposed.clear()


async def is_proved(world: World, digest: str) -> None:
    """Every node that the last publish counts has recorded its start index, or a later one, on the chunk, and holds it."""
    await is_idle(world)
    command = published(world)[-1]
    assert len(command.durability.nodes) >= 2
    for node_id in command.durability.nodes:
        assert digest in world.nodes.chunks[node_id]
        assert world.nodes.start_indexes[node_id, digest] >= command.start_index


@pytest.mark.parametrize("size_bytes", [0, 1, CHUNK_SIZE_BYTES])
async def test_a_small_upload_asks_nothing(world, disks, seed, size_bytes) -> None:
    """After the first one into a bucket: it names the index, the epoch and the incarnation that were read last."""
    await warm_up(world, seed)
    queries = count_reads(world)
    body = body_of(seed, size_bytes)
    receipt = (await put_small(world, body)).version
    assert queries == []
    (command,) = published(world)
    assert 0 < command.start_index < receipt.version - 1
    assert receipt.content.digest == blake3(body).hexdigest()
    if body:
        await is_proved(world, receipt.content.digest)


@pytest.mark.parametrize(
    "changes",
    [
        {"announced_bytes": None},
        {"preconditions": Preconditions(if_none_match=["*"])},
    ],
    ids=["unknown length", "condition"],
)
async def test_every_other_upload_reads_first(world, disks, seed, changes) -> None:
    """What has to be decided before the body is, and what is not wholly in memory."""
    await warm_up(world, seed)
    queries = count_reads(world)
    body = body_of(seed)
    await put(world, body, name=PHOTOS, **({"announced_bytes": len(body)} | changes))
    assert any(isinstance(query, GetBucket | GetFile) for query in queries)


KEY = IdempotencyKey.of({"idempotency-key": "k"}, method="PUT", bucket="photos", key="x")


async def test_a_repeat_under_its_key_asks_nothing_and_gets_the_first_receipt(world, disks, seed) -> None:
    """The log knows the key: it happens once. Under another body the key is refused, and nothing of that is published."""
    await warm_up(world, seed)
    queries = count_reads(world)
    body = body_of(seed)
    first = await put_small(world, body, idempotency_key=KEY)
    again = await put_small(world, body, idempotency_key=KEY)
    assert (queries, again) == ([], first)
    with pytest.raises(IdempotencyKeyReusedError):
        await put_small(world, body_of(seed + 2), idempotency_key=KEY)
    found, _ = await world.metadata.read(GetFile(bucket="photos", key=PHOTOS.key))
    assert found.file.version == first.version.version
    await is_idle(world)


@pytest.mark.parametrize("failure", [unreachable(), DiskFullError("full")], ids=["gone", "full"])
async def test_what_was_done_is_said_to_be_done_where_no_node_takes_it(world, disks, seed, failure) -> None:
    """A repeat needs no node; one with another body is refused for that, and a new request for the nodes."""
    await warm_up(world, seed)
    body = body_of(seed)
    first = await put_small(world, body, idempotency_key=KEY)
    for node in world.metadata.store.node_map().nodes:
        world.nodes.errors[node.id] = failure
    assert await put_small(world, body, idempotency_key=KEY) == first
    with pytest.raises(IdempotencyKeyReusedError):
        await put_small(world, body_of(seed + 2), idempotency_key=KEY)
    other = IdempotencyKey.of({"idempotency-key": "other"}, method="PUT", bucket="photos", key="x")
    with pytest.raises((QuorumNotReachedError, DiskFullError)):
        await put_small(world, body, idempotency_key=other)
    await is_idle(world)


async def test_more_than_one_chunk_reads_first(world, disks, seed) -> None:
    """One byte more."""
    await warm_up(world, seed)
    queries = count_reads(world)
    await put_small(world, body_of(seed, CHUNK_SIZE_BYTES + 1))
    assert queries != []


async def test_it_can_be_switched_off(make_world, seed) -> None:
    """With an age of 0."""
    world = await make_world(start_index_max_age_s=0)
    await put_small(world, body_of(seed + 1), NAME)
    queries = count_reads(world)
    await put_small(world, body_of(seed), NAME)
    assert queries != []


async def test_too_few_nodes_are_never_found_in_memory(world, disks, seed) -> None:
    """An upload that asks for more nodes than are remembered reads, and only the read refuses it."""
    await warm_up(world, seed)
    await world.services.uploads._directory.refresh()
    for node_id in ("storage-4", "storage-3", "storage-2"):
        await world.metadata.propose(RemoveNode(node_id=node_id, is_forced=True, stamp=STAMP))
    await world.services.uploads._directory.refresh()
    queries = count_reads(world)
    with pytest.raises(QuorumNotReachedError):
        await put_small(world, body_of(seed))
    assert queries != []


# --- what is stale --------------------------------------------------------------------------------------------------


def victim_of(world: World, body: bytes) -> str:
    """The node that acknowledges the only chunk of `body` first, and is counted."""
    return write_order(blake3(body).hexdigest(), world.metadata.store.node_map())[0].id


async def make_again(world: World, disks: Disks, body: bytes) -> None:
    await world.metadata.propose(DeleteBucket(bucket="photos", stamp=STAMP))
    await world.metadata.propose(CreateBucket(bucket="photos", stamp=STAMP))


async def remove(world: World, disks: Disks, body: bytes) -> None:
    await world.metadata.propose(RemoveNode(node_id=victim_of(world, body), is_forced=True, stamp=STAMP))


async def drain(world: World, disks: Disks, body: bytes) -> None:
    await world.metadata.propose(DrainNode(node_id=victim_of(world, body), stamp=STAMP))


async def replace_disk(world: World, disks: Disks, body: bytes) -> None:
    await disks.wipe(victim_of(world, body))


async def condemn(world: World, disks: Disks, body: bytes) -> None:
    """And every node has deleted the chunk: what it recorded is below the index of the condemnation."""
    digest = blake3(body)
    await world.metadata.propose(CondemnChunks(digests=digest.digest(), start_indexes=[FAR_INDEX], stamp=STAMP))
    for chunks in world.nodes.chunks.values():
        chunks.pop(digest.hexdigest(), None)


async def raise_horizon(world: World, disks: Disks, body: bytes) -> None:
    """Some other chunk was condemned, and so long ago that it is forgotten."""
    await condemn(world, disks, b"other")
    day_ms, stamp = 86_400_000, STAMP
    for elapsed_ms in (1, day_ms):
        command = PassTime(
            elapsed_ms=elapsed_ms,
            cursor_retention_s=1,
            tombstone_retention_s=1,
            reference_retention_s=1,
            condemned_retention_s=1,
            stamp=stamp,
        )
        await world.metadata.propose(command)


STALE: dict[str, Act] = {
    "bucket made again": make_again,
    "node removed": remove,
    "node drains": drain,
    "node replaced": replace_disk,
    "chunk condemned": condemn,
    "horizon": raise_horizon,
}


@pytest.mark.parametrize("act", STALE.values(), ids=list(STALE))
async def test_what_apply_refuses_as_stale_is_read_and_put_again(world, disks, seed, act) -> None:
    """With a new start index and new puts; the client sees a receipt, and what it counts is there."""
    if act is not make_again:
        await warm_up(world, seed)
    else:
        # An empty bucket can be deleted.
        await put_small(world, b"", FileName("default", "x"))
        await world.services.metadata.read(ASK_BUCKET)
    world.metadata.proposed.clear()
    body = body_of(seed)
    victim = victim_of(world, body)
    at_publish(world, [lambda: act(world, disks, body)])
    queries = count_reads(world)
    receipt = (await put_small(world, body)).version
    first, second = published(world)
    assert second.start_index > first.start_index
    assert queries != []
    if act in (remove, drain):
        assert victim in first.durability.nodes
        assert victim not in second.durability.nodes
    await is_proved(world, receipt.content.digest)


async def test_a_bucket_that_is_gone_is_found_by_a_read(world, disks, seed) -> None:
    """404, definite, after the linearizable read that says so; the refusal of `apply` alone is no answer."""
    await put_small(world, b"", FileName("default", "x"))
    await world.services.metadata.read(ASK_BUCKET)
    await world.metadata.propose(DeleteBucket(bucket="photos", stamp=STAMP))
    queries = count_reads(world)
    with pytest.raises(BucketNotFoundError) as refused:
        await put_small(world, body_of(seed))
    assert refused.value.definite
    assert ASK_BUCKET in queries
    await is_idle(world)


async def test_a_bucket_that_is_gone_is_found_where_no_node_answers(world, disks, seed) -> None:
    """What is remembered refuses nothing, so the puts that fail for it are no answer either."""
    await warm_up(world, seed, NAME)
    await world.services.metadata.read(ASK_BUCKET)
    await world.metadata.propose(DeleteBucket(bucket="photos", stamp=STAMP))
    for node in world.metadata.store.node_map().nodes:
        world.nodes.errors[node.id] = unreachable(node.id)
    with pytest.raises(BucketNotFoundError):
        await put_small(world, body_of(seed))
    await is_idle(world)


async def test_a_bucket_that_is_gone_is_told_before_a_wrong_digest(world, disks, seed) -> None:
    """As to an upload that reads first; with the bucket there, the digest is what is wrong."""
    await warm_up(world, seed, NAME)
    await world.services.metadata.read(ASK_BUCKET)
    wrong = BodyDigests.announced({"content-md5": "AAAAAAAAAAAAAAAAAAAAAA=="})
    body = body_of(seed)
    with pytest.raises(DigestMismatchError):
        await put(world, body, name=PHOTOS, digests=wrong, announced_bytes=len(body))
    await world.metadata.propose(DeleteBucket(bucket="photos", stamp=STAMP))
    with pytest.raises(BucketNotFoundError):
        await put(world, body, name=PHOTOS, digests=wrong, announced_bytes=len(body))
    await is_idle(world)


@pytest.mark.parametrize("failure", [unreachable(), DiskFullError("full")], ids=["gone", "full"])
async def test_nodes_that_came_since_are_found_where_the_remembered_ones_fail(world, disks, seed, failure) -> None:
    """With a read and new puts; the client sees a receipt."""
    await warm_up(world, seed)
    before = world.metadata.store.node_map().nodes
    for number in range(2):
        await world.metadata.propose(AdmitNode(node_id=f"new-{number}", stamp=STAMP))
        await world.metadata.propose(
            UpdateNode(node_id=f"new-{number}", url=f"http://new-{number}", zone="z", capacity_bytes=GIB, stamp=STAMP)
        )
        await disks.record(f"new-{number}")
    for node in before:
        world.nodes.errors[node.id] = failure
    body = body_of(seed)
    receipt = (await put_small(world, body)).version
    (command,) = published(world)
    assert sorted(command.durability.nodes) == ["new-0", "new-1"]
    assert command.epoch == receipt.epoch == world.metadata.store.node_map().epoch
    await is_proved(world, receipt.content.digest)


async def test_remembered_nodes_that_are_still_the_nodes_are_not_tried_twice(world, disks, seed) -> None:
    """Then the read changes nothing, and the client is told at once."""
    await warm_up(world, seed)
    for node in world.metadata.store.node_map().nodes:
        world.nodes.errors[node.id] = DiskFullError("full")
    world.nodes.calls.clear()
    with pytest.raises(DiskFullError):
        await put_small(world, body_of(seed))
    once = dict(world.nodes.calls)
    await world.services.metadata.read(ASK_BUCKET)
    world.nodes.calls.clear()
    with pytest.raises(DiskFullError):
        await put(world, body_of(seed), name=PHOTOS)
    assert once == dict(world.nodes.calls)
    await is_idle(world)


async def test_a_bucket_that_came_back_after_the_refusal_takes_the_file(world, disks, seed) -> None:
    """The refusal was of the attempt: the read finds the new bucket, and no 404 is given."""
    await put_small(world, b"", FileName("default", "x"))
    await world.services.metadata.read(ASK_BUCKET)
    await world.metadata.propose(DeleteBucket(bucket="photos", stamp=STAMP))
    real = world.metadata.read

    async def read(query, **options):
        world.metadata.read = real
        await world.metadata.propose(CreateBucket(bucket="photos", stamp=STAMP))
        return await real(query, **options)

    world.metadata.read = read
    receipt = (await put_small(world, body_of(seed))).version
    first, second = published(world)[-2:]
    assert second.incarnation > first.incarnation
    await is_proved(world, receipt.content.digest)


async def test_an_index_that_the_log_has_not_reached_is_read_anew(world, disks, seed) -> None:
    """It was remembered of another cluster at the same addresses, whose log went further."""
    await warm_up(world, seed)
    recent = world.services.uploads._recent
    recent._newest = type(recent._newest)(FAR_INDEX, 1, recent._newest.epoch, 0, recent._newest.cluster_id)
    receipt = (await put_small(world, body_of(seed))).version
    first, second = published(world)
    assert (first.start_index, second.start_index < receipt.version) == (FAR_INDEX, True)
    assert recent.position("photos").log_index < receipt.version


async def test_what_another_cluster_said_is_used_no_more(world, disks, seed) -> None:
    """From the first answer of the restored one on, whatever that answer is to."""
    await warm_up(world, seed)
    real = world.metadata.read

    async def restored(query, **options):
        answer, context = await real(query, **options)
        return answer, type(context)(context.log_index, context.term, context.epoch, context.hlc, "restored")

    world.metadata.read = restored
    await world.services.uploads._directory.refresh()
    queries = count_reads(world)
    await put_small(world, body_of(seed))
    assert ASK_BUCKET in queries
    assert len(published(world)) == 1


async def test_an_attempt_without_a_read_takes_none_away(world, disks, seed) -> None:
    """The bound of attempts holds for those that read."""
    await warm_up(world, seed)
    body = body_of(seed)
    victim = victim_of(world, body)
    at_publish(world, [lambda: disks.wipe(victim)] * (MAX_ATTEMPTS + 5))
    with pytest.raises(UnavailableError) as refused:
        await put_small(world, body)
    assert len(published(world)) == MAX_ATTEMPTS + 1
    assert refused.value.definite
    await is_idle(world)


async def test_a_refusal_that_a_read_does_not_change_is_given(world, disks, seed) -> None:
    """After one more attempt; an unreachable leader is told as it is, and nothing is tried again for it."""
    await warm_up(world, seed)
    world.metadata.errors += [InvalidRequestError("first"), InvalidRequestError("second")]
    with pytest.raises(InvalidRequestError, match="second"):
        await put_small(world, body_of(seed))
    assert len(published(world)) == 2
    world.metadata.errors.append(LeaderUnavailableError("none"))
    with pytest.raises(LeaderUnavailableError):
        await put_small(world, body_of(seed))
    assert len(published(world)) == 3
    await is_idle(world)


async def test_a_chunk_too_long_to_be_kept_comes_from_a_replica(make_world, seed) -> None:
    """The memory of a body that is not small was given back: it is fetched, verified, and put again."""
    world = await make_world(chunk_size_bytes=256 * KIB)
    found = Disks(world)
    for node in world.metadata.store.node_map().nodes:
        await found.record(node.id)
    await put_small(world, b"first", NAME)
    for size_bytes, fetches in ((64 * KIB, 0), (64 * KIB + 1, 1)):
        await is_idle(world)
        world.nodes.calls.clear()
        body = body_of(seed + size_bytes, size_bytes)
        victim = victim_of(world, body)
        at_publish(world, [lambda victim=victim: found.wipe(victim)])
        await put_small(world, body, NAME)
        # A miss of the wiped node asks the next one as well.
        asked = sum(count for (what, _), count in world.nodes.calls.items() if what == "get")
        assert (asked > 0) == (fetches > 0)
        assert bytes((await get(world)).body) == body
