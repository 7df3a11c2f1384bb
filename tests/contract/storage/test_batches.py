"""A batch gives what the single calls give, whatever tier answers and whatever is wrong with it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
from blake3 import blake3
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError

from services.storage.api import build_router
from services.storage.chunk_store import ChunkStore
from services.storage.fast_path import FastPath
from services.storage.incarnation import Incarnation
from services.storage.metrics import StorageMetrics
from services.storage.redis_node import batcher
from shared.byte_budget import ByteBudget
from shared.contracts.chunk_batches import (
    BATCH_PATH,
    MAX_BATCH_BYTES,
    MAX_BATCHED_CHUNK_BYTES,
    BatchAnswer,
    BatchItem,
    BatchRequest,
    Failed,
    Found,
    GetItem,
    HasItem,
    Held,
    PutItem,
    Stored,
    cut_bodies,
    encode_head,
    join_frame,
    split_frame,
)
from shared.errors import DiskFullError
from shared.peer_calls.request_signing import BODY_DIGEST_HEADER
from shared.roles import Role
from shared.units import MIB
from shared.web.request_metrics import request_metrics
from shared.web.service_app import create_app
from tests.callers import as_caller
from tests.chance import random_bytes
from tests.integration.storage.support import poll

Step = tuple[BatchItem, bytes]
"""An item and the bytes that go with it, if it is a put."""


@asynccontextmanager
async def no_lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield


class Calls:
    """Single calls and batches over one tier, unsigned, in this process."""

    def __init__(self, tier: Any) -> None:
        self.budget = ByteBudget(32 * MIB)
        metrics = StorageMetrics(CollectorRegistry())
        incarnation = Incarnation(Path("/nowhere"), lambda: None, is_redis_record=False)
        incarnation.fence = 7
        limits = {"max_chunk_bytes": MIB, "typical_chunk_bytes": MIB}
        store = ChunkStore(tier, self.budget, metrics, incarnation=incarnation, **limits)
        app = create_app(
            title="Test",
            description="A test.",
            lifespan=no_lifespan,
            readiness=list,
            verifier=None,
            fast_path=partial(FastPath, store=store, metrics=request_metrics(CollectorRegistry())),
        )
        app.add_routes(build_router(store, list))
        transport = httpx.ASGITransport(as_caller(app, Role.GATEWAY), raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://node")  # noqa: TID251 - in this process

    async def one_by_one(self, steps: Sequence[Step]) -> list[object]:
        return [await self._single(item, body) for item, body in steps]

    async def _single(self, item: BatchItem, body: bytes) -> object:
        path = f"/v1/chunks/{item.digest.hex()}"
        if isinstance(item, PutItem):
            answer = await self.http.put(f"{path}?start_index={item.start_index}", content=body)
        elif isinstance(item, GetItem):
            answer = await self.http.get(path)
        else:
            question = {"digests": [item.digest.hex()], "start_index": item.start_index, "verify": item.verify}
            answer = await self.http.post("/v1/chunks/has", json=question)
        if not answer.is_success:
            return _told(answer.json())
        assert answer.headers["x-trivet-fence"] == "7"
        if isinstance(item, PutItem):
            assert answer.status_code == (201 if answer.json()["created"] else 200)
            return Stored(answer.json()["created"])
        if isinstance(item, GetItem):
            return answer.content
        return Held(*[bool(answer.json()[name]) for name in ("present", "verified")])

    async def results(self, items: Sequence[BatchItem]) -> list[object]:
        """As they stand in the head of the answer."""
        head = encode_head(BatchRequest(list(items)))
        answer = await self.http.post(BATCH_PATH, content=head, headers={BODY_DIGEST_HEADER: blake3(head).hexdigest()})
        return list(split_frame(answer.content, BatchAnswer)[1].results)

    async def together(self, steps: Sequence[Step]) -> list[object]:
        head = encode_head(BatchRequest([item for item, _ in steps]))
        frame = join_frame(head, [body for item, body in steps if isinstance(item, PutItem)])
        headers = {BODY_DIGEST_HEADER: blake3(head).hexdigest()}
        answer = await self.http.post(BATCH_PATH, content=frame, headers=headers)
        assert answer.status_code == 200
        _, found, rest = split_frame(answer.content, BatchAnswer)
        assert found.fence == 7
        bodies = iter(cut_bodies(rest, [result.size_bytes for result in found.results if isinstance(result, Found)]))
        return [self._result(result, bodies) for result in found.results]

    def _result(self, result: object, bodies: Any) -> object:
        if isinstance(result, Failed):
            return _told(result.problem)
        return bytes(next(bodies)) if isinstance(result, Found) else result


def _told(problem: dict[str, Any]) -> tuple[object, ...]:
    """What is said of an error, but for the name of the chunk."""
    return tuple(
        (name, value) for name, value in sorted(problem.items()) if name not in {"digest", "instance", "used_bytes"}
    )


def put(body: bytes, start_index: int, sent: bytes | None = None) -> Step:
    sent = body if sent is None else sent
    return PutItem(blake3(body).digest(), len(sent), start_index), sent


def get(body: bytes) -> Step:
    return GetItem(blake3(body).digest()), b""


def has(body: bytes, start_index: int | None = None, *, verify: bool = False) -> Step:
    return HasItem(blake3(body).digest(), start_index, verify), b""


def bodies_of(*sizes_bytes: int) -> list[bytes]:
    return [random_bytes(size_bytes) for size_bytes in sizes_bytes]


def named(answers: Sequence[object], bodies: Sequence[bytes]) -> list[object]:
    """Bytes by their place in `bodies`, so that two sets of chunks can be compared."""
    return [bodies.index(answer) if isinstance(answer, bytes) else answer for answer in answers]


@pytest.fixture
async def calls(bench) -> AsyncIterator[Calls]:
    found = Calls(bench.tier)
    yield found
    await found.http.aclose()
    assert found.budget.used_bytes == 0, "a lease was not given back"


async def test_a_batch_gives_what_the_single_calls_give(bench, calls) -> None:
    """New, known, wrong and absent chunks, and those named twice, in puts, gets and has; start indexes too."""
    told = []
    for way in (calls.one_by_one, calls.together):
        bodies = bodies_of(3000, 17, MAX_BATCHED_CHUNK_BYTES, 5000, 4096)
        small, other, largest, absent, twice = bodies
        steps = [
            [put(small, 5), put(other, 7), put(absent, 1, sent=b"other bytes"), put(largest, 2), put(twice, 3)],
            [put(small, 3), put(other, 8), put(twice, 9), put(twice, 4), put(b"", 0)],
            [get(small), get(absent), get(other), get(largest), get(small), get(b"")],
            [has(small), has(absent), has(small, 20), has(largest, 1), has(absent, 3), has(twice, verify=True)],
            [get(twice), has(other), put(small, 30), get(absent)],
        ]
        answers = named([answer for step in steps for answer in await way(step)], [*bodies, b""])
        indexes = [bench.start_index_of(blake3(body).hexdigest()) for body in (small, other, largest, twice)]
        told.append((answers, indexes))
        await bench.tier.delete(blake3(b"").hexdigest())  # there is only one such chunk
    assert told[0] == told[1]
    assert told[0][1] == [30, 8, 2, 9]
    assert told[0][0][10:16:2] == [0, 1, 0]


async def test_a_get_says_the_start_index_when_it_is_asked(bench, calls) -> None:
    """The largest that was recorded, with the bytes, alone and in a batch; nothing about it otherwise."""
    small, large = bodies_of(3000, 200_000)
    for body, start_index in ((small, 5), (small, 8), (large, 6)):
        await calls.one_by_one([put(body, start_index)])
    for body, start_index in ((small, "8"), (large, "6")):
        path = f"/v1/chunks/{blake3(body).hexdigest()}"
        answer = await calls.http.get(path, params={"with_start_index": "true"})
        assert (answer.content, answer.headers["x-trivet-start-index"]) == (body, start_index)
        assert "x-trivet-start-index" not in (await calls.http.get(path)).headers
    name = blake3(small).digest()
    absent = GetItem(bytes(32), with_start_index=True)
    answers = await calls.results([GetItem(name, with_start_index=True), GetItem(name), absent])
    assert answers[:2] == [Found(3000, 8), Found(3000)]
    assert isinstance(answers[2], Failed)
    assert answers[2].problem["code"] == "chunk_not_found"


async def test_a_chunk_that_goes_between_body_and_start_index_is_not_found(bench, calls, monkeypatch) -> None:
    """Who pulled it without its start index would be free to delete what others count on."""
    (body,) = bodies_of(3000)
    await calls.one_by_one([put(body, 5)])

    async def none_of(_: object) -> dict[str, int]:
        return {}

    monkeypatch.setattr(bench.tier, "start_indexes", none_of)
    (failed,) = await calls.results([GetItem(blake3(body).digest(), with_start_index=True)])
    assert isinstance(failed, Failed)
    assert failed.problem["code"] == "chunk_not_found"
    answer = await calls.http.get(f"/v1/chunks/{blake3(body).hexdigest()}", params={"with_start_index": "true"})
    assert (answer.status_code, answer.json()["code"]) == (404, "chunk_not_found")


def test_frames_of_a_version_without_start_indexes_are_read() -> None:
    """Its gets and its answers have no such field; this version's get has one more than it knows, which it passes over."""
    old_get = msgspec.msgpack.encode({"items": [["get", bytes(32)]]})
    old_answer = msgspec.msgpack.encode({"results": [["get", 7]], "fence": 1})
    for raw, kind, expected in (
        (old_get, BatchRequest, BatchRequest([GetItem(bytes(32))])),
        (old_answer, BatchAnswer, BatchAnswer([Found(7)], 1)),
    ):
        assert split_frame(len(raw).to_bytes(4, "big") + raw, kind)[1] == expected

    class OldGet(msgspec.Struct, frozen=True, array_like=True, tag="get"):
        digest: bytes

    new_get = msgspec.msgpack.encode(GetItem(bytes(32), with_start_index=True))
    assert msgspec.msgpack.decode(new_get, type=OldGet) == OldGet(bytes(32))


async def test_a_bad_replica_is_quarantined_from_a_batch_too(bench) -> None:
    """It fails alone and is lost from then on; a put in a batch makes it whole again."""
    told = []
    for is_batch in (False, True):
        bodies = bodies_of(3000, 3000, 2000)
        good, bad, replaced = bodies
        for body in bodies:
            await Calls(bench.tier).together([put(body, 6)])
        tier = await bench.reopen()  # what was kept in memory is gone, so that the damaged replica is what is left
        calls = Calls(tier)
        way = calls.together if is_batch else calls.one_by_one
        for body in (bad, replaced):
            bench.damage(blake3(body).hexdigest())
        answers = await way([get(good), put(replaced, 2), get(bad)])
        answers += await way([get(bad), has(bad), get(replaced), has(good)])
        told.append(named(answers, bodies))
        lost = [found.digest for found in await tier.list_lost("", 10)]
        assert blake3(bad).hexdigest() in lost
        assert bench.start_index_of(blake3(replaced).hexdigest()) == 6
        await calls.http.aclose()
    assert told[0] == told[1]


async def test_a_full_node_refuses_what_is_new_alone(bench, calls, monkeypatch) -> None:
    """What is held is acknowledged and read beside it, where that needs no room."""
    told = []
    for way in (calls.one_by_one, calls.together):
        held, new = bodies = bodies_of(3000, 3000)
        assert await way([put(held, 1)]) == [Stored(created=True)]
        await bench.tier.has([blake3(held).hexdigest()], 1)  # in tiered: moves it to disk
        with monkeypatch.context() as patch:
            make_full(bench, patch)
            await bench.tier.statuses()  # measures
            told.append(named(await way([put(held, 1), put(new, 1), get(held), has(new)]), bodies))
    assert told[0] == told[1]
    assert ("code", DiskFullError.code) in told[0][1]


def make_full(bench, patch) -> None:
    """Until the patch ends."""
    if bench.kind == "fake":
        patch.setattr(bench.tier, "put_error", DiskFullError("full"))
    elif bench.kind == "redis":

        async def refuse(*_: object, **__: object) -> None:
            raise OutOfMemoryError

        patch.setattr(batcher, "put_recorded", refuse)
    else:
        full = SimpleNamespace(f_blocks=100, f_frsize=4096, f_bfree=1, f_bavail=1, f_files=0, f_ffree=0, f_favail=0)
        patch.setattr(os, "statvfs", lambda _: full)


async def test_a_redis_that_fails_fails_what_a_single_call_fails(bench, calls, monkeypatch) -> None:
    """In tiered the disk takes the puts; where Redis is the record they are refused, and not definitely."""
    told = []
    for way in (calls.one_by_one, calls.together):
        await poll(lambda: bench.tier.reasons_against_writes() == [])
        bodies = bodies_of(3000)
        with monkeypatch.context() as patch:

            async def fail(*_: object, **__: object) -> None:
                raise RedisConnectionError

            for call in ("put_recorded", "put_buffered"):
                patch.setattr(batcher, call, fail)
            answers = await way([put(bodies[0], 4)])
        await poll(lambda: bench.tier.reasons_against_writes() == [])
        answers += await way([get(bodies[0]), has(bodies[0], 4)])
        told.append(named(answers, bodies))
    assert told[0] == told[1]
    assert (told[0][0] == Stored(created=True)) is (bench.kind != "redis")


async def test_what_does_not_fit_into_a_batch_is_refused_alone(calls) -> None:
    """A chunk above the limit, in a put or a get, and a get whose answer would be too long; the single call takes it."""
    large = random_bytes(MAX_BATCHED_CHUNK_BYTES + 1)
    assert await calls.one_by_one([put(large, 1)]) == [Stored(created=True)]
    answers = await calls.together([put(large, 1), get(large), has(large)])
    assert [("status", 413) in answer for answer in answers[:2]] == [True, True]
    assert answers[2] == Held(present=True, verified=True)
    count = MAX_BATCH_BYTES // MAX_BATCHED_CHUNK_BYTES
    bodies = bodies_of(*[MAX_BATCHED_CHUNK_BYTES] * count, 1)
    await calls.together([put(body, 1) for body in bodies[:count]])
    await calls.together([put(bodies[count], 1)])
    answers = await calls.together([get(body) for body in bodies])
    assert answers[:count] == bodies[:count]
    assert ("status", 413) in answers[count]
