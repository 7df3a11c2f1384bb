"""`POST /v1/chunks/confirm`: a confirmation is a promise of an expected holder, in one epoch, about bytes that it has read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from blake3 import blake3
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.storage.api import build_router
from services.storage.chunk_store import ChunkStore
from services.storage.fast_path import FastPath
from services.storage.incarnation import Incarnation
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk
from services.storage.query_admission import QueryAdmission
from shared.byte_budget import ByteBudget
from shared.contracts.chunks import MAX_CONFIRM_CHUNKS, ConfirmRequest, SurplusChunk
from shared.errors import DiskFullError, OverloadedError, UnavailableError
from shared.roles import Role
from shared.units import MIB
from shared.web.request_metrics import request_metrics
from shared.web.service_app import create_app
from tests.callers import as_caller
from tests.unit.storage.fake_tier import FakeTier

EPOCH = 4
MAX_VERIFY_BYTES = 300


class Holders:
    """Expects what it is told, in the epoch that it is told."""

    def __init__(self) -> None:
        self.epoch: int | None = EPOCH
        self.strangers: set[str] = set()

    def is_expected(self, digest: bytes) -> bool:
        return digest.hex() not in self.strangers


@asynccontextmanager
async def no_lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield


class Node:
    """A node's routes over a tier in memory, unsigned."""

    def __init__(self, holders: Holders | None) -> None:
        self.tier = FakeTier()
        self.holders = holders
        self.budget = ByteBudget(2 * MIB, max_wait_s=0.01)
        self.incarnation = Incarnation(Path("/nowhere"), lambda: None, is_redis_record=False)
        self.incarnation.fence = 7
        self.store = ChunkStore(
            self.tier,
            self.budget,
            StorageMetrics(CollectorRegistry()),
            incarnation=self.incarnation,
            max_chunk_bytes=1000,
            typical_chunk_bytes=100,
            max_verify_bytes=MAX_VERIFY_BYTES,
            holders=holders,
        )
        app = create_app(
            title="Test",
            description="A test.",
            lifespan=no_lifespan,
            readiness=list,
            verifier=None,
            fast_path=lambda app: FastPath(
                QueryAdmission(app, store=self.store), store=self.store, metrics=request_metrics(CollectorRegistry())
            ),
        )
        app.add_routes(build_router(self.store, list))
        transport = httpx.ASGITransport(as_caller(app, Role.STORAGE), raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://node")  # noqa: TID251 - in this process

    async def hold(self, number: int, start_index: int = 5, *, is_verified: bool = True) -> str:
        body = b"%d" % number * 100
        chunk = Chunk(blake3(body).hexdigest(), len(body), (body,))
        await self.tier.put(chunk, start_index)
        if not is_verified:
            self.tier.verified.discard(chunk.digest)
        return chunk.digest

    async def confirm(self, *chunks: tuple[str, int], epoch: int = EPOCH) -> tuple[int | None, list[str]]:
        answer = await self.ask({"epoch": epoch, "chunks": [{"digest": d, "start_index": s} for d, s in chunks]})
        assert answer.status_code == 200
        assert answer.headers["x-trivet-fence"] == "7"
        return answer.json()["epoch"], answer.json()["confirmed"]

    async def ask(self, question: Any) -> httpx.Response:
        return await self.http.post("/v1/chunks/confirm", json=question)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    found = Node(Holders())
    yield found
    await found.http.aclose()
    assert found.budget.used_bytes == 0, "a lease was not given back"


async def test_what_is_held_and_verified_is_confirmed_with_the_larger_start_index(node):
    """Each chunk has a start index of its own; what is not held is left out; of one that is named twice the larger counts."""
    one, two, three = [await node.hold(number) for number in (1, 2, 3)]
    asked = [(three, 9), ("ab" * 32, 8), (one, 4), (two, 6), (one, 7), (three, 1)]
    assert await node.confirm(*asked) == (EPOCH, [three, one, two])
    assert node.tier.recorded == {one: 7, two: 6, three: 9}
    assert await node.confirm() == (EPOCH, [])


async def test_another_epoch_confirms_nothing_and_records_nothing(node):
    """One less and one more; the answer says which epoch the node is in."""
    digest = await node.hold(1)
    for epoch in (EPOCH - 1, EPOCH + 1):
        assert await node.confirm((digest, 9), epoch=epoch) == (EPOCH, [])
    node.holders.epoch = None
    assert await node.confirm((digest, 9)) == (None, [])
    assert node.tier.recorded == {digest: 5}


async def test_a_node_that_does_not_know_what_it_should_hold_confirms_nothing():
    """As every node is until it has read the references."""
    node = Node(None)
    digest = await node.hold(1)
    assert await node.confirm((digest, 9)) == (None, [])
    assert node.tier.recorded == {digest: 5}
    await node.http.aclose()


async def test_only_an_expected_holder_confirms(node):
    """A stand-in that holds the chunk is surplus itself: two of those that confirm each other would lose it."""
    mine, surplus = await node.hold(1), await node.hold(2)
    node.holders.strangers.add(surplus)
    assert await node.confirm((mine, 9), (surplus, 9)) == (EPOCH, [mine])
    assert node.tier.recorded == {mine: 9, surplus: 5}


async def test_an_epoch_that_changes_on_the_way_takes_the_confirmation_back(node, monkeypatch):
    """While bytes are read, or start indexes recorded, the node may learn that another holds the chunk now."""
    for step in ("verify", "record_start_indexes"):
        node.holders.epoch = EPOCH
        digest = await node.hold(1, is_verified=False)
        real = getattr(node.tier, step)

        async def change(asked, real=real):
            node.holders.epoch = EPOCH + 1
            return await real(asked)

        with monkeypatch.context() as patch:
            patch.setattr(node.tier, step, change)
            assert await node.confirm((digest, 9)) == (EPOCH + 1, [])


async def test_unverified_replicas_are_read_first_up_to_a_bound(node):
    """Bytes of 300 are read in one call; the rest is confirmed by the next ones. What is bad is not confirmed, and lost."""
    digests = [await node.hold(number, is_verified=False) for number in range(1, 6)]
    node.tier.bodies[digests[1]] = b"rot" * 33 + b"r"
    asked = [(digest, 9) for digest in digests]
    good = [digests[0], *digests[2:]]
    assert await node.confirm(*asked) == (EPOCH, good[:3])
    assert node.tier.lost == {digests[1]: 5}
    assert node.tier.recorded[digests[4]] == 5, "what is not confirmed gets no start index"
    assert await node.confirm(*asked) == (EPOCH, good)


async def test_one_that_goes_or_goes_bad_while_start_indexes_are_recorded_is_not_confirmed(node, monkeypatch):
    """The answer is about what is held and verified after the start index is durable."""
    kept, deleted, unread = [await node.hold(number) for number in (1, 2, 3)]
    record = node.tier.record_start_indexes

    async def change(start_indexes):
        await node.tier.delete(deleted)
        held = await record(start_indexes)
        node.tier.verified.discard(unread)
        return held

    monkeypatch.setattr(node.tier, "record_start_indexes", change)
    assert await node.confirm((kept, 9), (deleted, 9), (unread, 9)) == (EPOCH, [kept])


@pytest.mark.parametrize("error", [DiskFullError("full"), UnavailableError("the disk failed", definite=False)])
async def test_what_cannot_be_recorded_is_not_confirmed(error, node, monkeypatch):
    """The whole call fails with the error of the tier."""
    digest = await node.hold(1)

    async def refuse(_):
        raise error

    monkeypatch.setattr(node.tier, "record_start_indexes", refuse)
    answer = await node.ask({"epoch": EPOCH, "chunks": [{"digest": digest, "start_index": 9}]})
    assert (answer.status_code, answer.json()["code"]) == (error.status, error.code)


async def test_nothing_is_confirmed_before_anything_may_be_acknowledged(node):
    """A node whose incarnation is not applied may be one that holds less than it believes."""
    digest = await node.hold(1)
    node.incarnation.fence = None
    answer = await node.ask({"epoch": EPOCH, "chunks": [{"digest": digest, "start_index": 9}]})
    assert answer.status_code == 503
    assert node.tier.recorded == {digest: 5}


ONE = {"digest": "ab" * 32, "start_index": 1}


@pytest.mark.parametrize(
    "question",
    [
        {"epoch": EPOCH},
        {"chunks": []},
        {"epoch": EPOCH, "chunks": [], "force": True},
        {"epoch": EPOCH, "chunks": [{**ONE, "size_bytes": 1}]},
        {"epoch": EPOCH, "chunks": [{"digest": "ab" * 32}]},
        {"epoch": EPOCH, "chunks": [{**ONE, "start_index": -1}]},
        {"epoch": EPOCH, "chunks": [{**ONE, "start_index": 2**63}]},
        {"epoch": EPOCH, "chunks": [{**ONE, "start_index": 1.5}]},
        {"epoch": EPOCH, "chunks": [{**ONE, "digest": "AB" * 32}]},
        {"epoch": EPOCH, "chunks": [{**ONE, "digest": "../" + "a" * 61}]},
        {"epoch": EPOCH, "chunks": [{**ONE, "digest": None}]},
        {"epoch": -1, "chunks": []},
        {"epoch": 2**63, "chunks": []},
        {"epoch": None, "chunks": []},
        {"epoch": EPOCH, "chunks": [ONE] * (MAX_CONFIRM_CHUNKS + 1)},
        [],
        "confirm",
        None,
    ],
)
async def test_a_malformed_question_is_refused_as_a_whole(question, node):
    """A definite 400, and nothing is recorded on the good chunks in it."""
    digest = await node.hold(1)
    if isinstance(question, dict) and isinstance(question.get("chunks"), list):
        question = question | {"chunks": [{"digest": digest, "start_index": 9}, *question["chunks"]][-1001:]}
    answer = await node.ask(question)
    assert answer.status_code == 400
    assert answer.json()["definite"] is True
    assert node.tier.recorded == {digest: 5}


async def test_a_thousand_chunks_are_one_question(node):
    """The largest that is permitted."""
    digest = await node.hold(1)
    asked = [(f"{number:064x}", 1) for number in range(MAX_CONFIRM_CHUNKS - 1)]
    assert await node.confirm(*asked, (digest, 1)) == (EPOCH, [digest])


async def test_a_question_without_room_in_memory_is_refused(node):
    """Before it is read: as objects a thousand chunks take several times what crosses the wire."""
    lease = await node.budget.acquire(2 * MIB - 1000)
    answer = await node.ask({"epoch": EPOCH, "chunks": []})
    assert (answer.status_code, answer.json()["code"]) == (503, OverloadedError.code)
    lease.release()


async def test_reading_for_a_confirmation_takes_memory_from_the_budget(node):
    """A chunk that there is no room to read fails the call; no lease is left behind."""
    digest = await node.hold(1, is_verified=False)
    lease = await node.budget.acquire(2 * MIB - 50)
    question = ConfirmRequest(epoch=EPOCH, chunks=[SurplusChunk(digest=digest, start_index=1)])
    with pytest.raises(OverloadedError):
        await node.store.confirm(question)
    lease.release()
