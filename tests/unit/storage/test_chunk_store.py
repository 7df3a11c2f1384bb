from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blake3 import blake3
from prometheus_client import CollectorRegistry

from services.storage.chunk_store import ChunkStore
from services.storage.incarnation import Incarnation
from services.storage.metrics import StorageMetrics
from shared.byte_budget import ByteBudget
from shared.errors import (
    ChunkCorruptError,
    ChunkNotFoundError,
    DigestMismatchError,
    DiskFullError,
    InvalidNameError,
    PayloadTooLargeError,
)
from tests.unit.storage.fake_tier import FakeTier


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class Bench:
    def __init__(self) -> None:
        self.tier = FakeTier()
        self.budget = ByteBudget(10_000, max_wait_s=0.01)
        self.registry = CollectorRegistry()
        self.store = ChunkStore(
            self.tier,
            self.budget,
            StorageMetrics(self.registry),
            incarnation=Incarnation(Path("/nowhere"), lambda: None, is_redis_record=False),
            max_chunk_bytes=1000,
            typical_chunk_bytes=100,
            max_verify_bytes=300,
        )

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0


@pytest.fixture
def bench():
    found = Bench()
    yield found
    assert found.budget.used_bytes == 0, "a lease was not given back"


async def test_a_chunk_of_the_largest_size_is_taken_and_one_byte_more_is_not(bench):
    """The limit holds for announced and for unannounced lengths."""
    body = bytes(1000)
    digest = blake3(body).hexdigest()
    assert (await bench.store.put(digest, stream(body[:400], body[400:]), None, 0)).size_bytes == 1000
    for announced in (1001, None):
        with pytest.raises(PayloadTooLargeError):
            await bench.store.put(digest, stream(bytes(1001)), announced, 0)
    assert bench.counted("trivet_storage_puts_total", tier="fake", outcome="created") == 1


async def test_wrong_bytes_never_reach_the_tier(bench):
    """A body that does not hash to its name is refused, whatever was announced."""
    digest = blake3(b"right").hexdigest()
    with pytest.raises(DigestMismatchError):
        await bench.store.put(digest, stream(b"wrong"), 5, 0)
    with pytest.raises(DigestMismatchError):
        await bench.store.put(digest, stream(), 5, 0)
    with pytest.raises(InvalidNameError):
        await bench.store.put("../x", stream(b"right"), 5, 0)
    assert bench.tier.bodies == {}


async def test_what_the_tier_refuses_is_passed_on_and_counted(bench):
    """Typed errors of the tier reach the caller; memory is given back."""
    bench.tier.put_error = DiskFullError("full")
    with pytest.raises(DiskFullError):
        await bench.store.put(blake3(b"x").hexdigest(), stream(b"x"), 1, 0)
    assert bench.counted("trivet_storage_puts_total", tier="none", outcome="disk_full") == 1
    assert bench.store.reasons_against_writes() == ["full"]


async def test_a_node_without_room_says_so_until_there_is_room(bench):
    """In its status, in what /readyz names, and as a metric; nothing has to be restarted."""
    assert bench.store.is_accepting_writes()
    assert bench.counted("trivet_storage_full") == 0
    bench.tier.full = "There is no room."
    assert not bench.store.is_accepting_writes()
    assert bench.store.degradations() == ["new chunks are refused: There is no room."]
    assert bench.store.reasons_against_writes() == [], "it still serves, so /readyz must not say 503"
    assert bench.counted("trivet_storage_full") == 1
    bench.tier.full = None
    assert bench.store.is_accepting_writes()


async def test_a_body_is_counted_until_it_is_released(bench):
    """A read occupies the budget with its true size until its sender is done; failed reads occupy nothing."""
    body = bytes(700)
    digest = blake3(body).hexdigest()
    await bench.store.put(digest, stream(body), 700, 0)
    leased = await bench.store.get(digest)
    assert leased.body == body
    assert bench.budget.used_bytes == 700
    leased.lease.release()
    bench.tier.bodies[digest] = b"rot"
    with pytest.raises(ChunkCorruptError):
        await bench.store.get(digest)
    with pytest.raises(ChunkNotFoundError):
        await bench.store.get(digest)
    for outcome in ("ok", "corrupt", "absent"):
        assert bench.counted("trivet_storage_gets_total", outcome=outcome) == 1


async def test_has_answers_in_the_order_asked(bench):
    """The subset keeps its order, and a wrong name is refused as a whole."""
    digests = []
    for name in (b"a", b"b", b"c"):
        digests.append(blake3(name).hexdigest())
        await bench.store.put(digests[-1], stream(name), 1, 0)
    asked = [digests[2], "00" * 32, digests[0]]
    assert (await bench.store.has(asked, None)).present == [digests[2], digests[0]]
    with pytest.raises(InvalidNameError):
        await bench.store.has([*asked, "nonsense"], None)
    await bench.store.delete(digests[0])
    with pytest.raises(ChunkNotFoundError):
        await bench.store.delete(digests[0])


async def test_a_page_of_the_inventory_says_where_the_next_one_begins(bench):
    """A full page may have a next one; one that is not full is the last, and has none."""
    digests = []
    for number in range(3):
        body = bytes([number]) * 10
        digests.append(blake3(body).hexdigest())
        await bench.store.put(digests[-1], stream(body), None, 0)
    digests.sort()
    page = await bench.store.inventory("", "", 2)
    assert ([chunk.digest for chunk in page.chunks], page.next_after) == (digests[:2], digests[1])
    last = await bench.store.inventory("", digests[1], 2)
    assert ([chunk.digest for chunk in last.chunks], last.next_after) == (digests[2:], None)


async def test_has_says_which_replicas_are_verified(bench):
    """Asked to verify, the node reads those that are not, up to its bound; a bad one is not reported."""
    bodies = [bytes([number]) * 100 for number in range(5)]
    digests = [blake3(body).hexdigest() for body in bodies]
    for digest, body in zip(digests, bodies, strict=True):
        await bench.store.put(digest, stream(body), 100, 0)
    assert (await bench.store.has(digests, None)).verified == digests
    bench.tier.verified.clear()
    assert (await bench.store.has(digests, None)).verified == []
    bench.tier.bodies[digests[1]] = b"rot"
    answer = await bench.store.has(digests, None, verify=True)
    assert answer.present == [digests[0], *digests[2:]]
    assert answer.verified == [digests[0], digests[2], digests[3]]
