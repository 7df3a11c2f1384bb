"""A storage node and its Redis under faults (docs/faults.md, "Disk and Redis"): what was acknowledged is there, and is right."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from shared.cluster_keys import derive_peer_keys
from shared.errors import (
    ChunkCorruptError,
    ChunkNotFoundError,
    DiskFullError,
    OverloadedError,
    PeerUnreachableError,
    TrivetError,
    UnavailableError,
)
from shared.peer_calls.request_signing import BODY_DIGEST_HEADER, EMPTY_BODY_DIGEST, RequestSigner, parse_challenge
from shared.roles import Role
from shared.units import MIB
from tests.chance import draw_seed, random_bytes
from tests.integration.storage.support import (
    REDIS_PASSWORD,
    SECRET,
    ChunkClient,
    RedisServer,
    StorageProcess,
    digest_of,
    poll,
    wait_until,
)

SLOW_READERS = 30


def make_body(source: random.Random) -> bytes:
    """Mostly small chunks, every fourth a large one."""
    return source.randbytes(source.choice([1, 1000, 4096, 300_000]))


PATIENT = {"TRIVET_REDIS_DEADLINE_MS": "5000"}
"""For tests about what Redis has acknowledged: a busy test machine is no hung Redis."""


class Load:
    """Workers that put chunks and read back what was acknowledged, until told to stop."""

    def __init__(self, client: ChunkClient, workers: int = 6) -> None:
        self.seed = draw_seed()
        print(f"seed {self.seed}")
        self.client = client
        self.workers = workers
        self.acknowledged: dict[str, int] = {}
        self.failures: list[TrivetError] = []
        self.wrong: list[str] = []
        self.slowest_s = 0.0
        self.stopping = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self.workers):
                group.create_task(self._work(random.Random(self.seed + number)))

    async def _work(self, source: random.Random) -> None:
        while not self.stopping:
            began = time.monotonic()
            try:
                await self._step(source)
            except TrivetError as error:
                self.failures.append(error)
                if isinstance(error, PeerUnreachableError):
                    return
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    async def _step(self, source: random.Random) -> None:
        body = make_body(source)
        stored = await self.client.put(body)
        self.acknowledged[str(stored["digest"])] = len(body)
        digest = source.choice(list(self.acknowledged))
        if digest_of(await self.client.get(digest)) != digest:
            self.wrong.append(digest)

    async def wait_for_more(self, count: int) -> None:
        """Until `count` more chunks were acknowledged, or everything failed."""
        target = len(self.acknowledged) + count
        await poll(lambda: len(self.acknowledged) >= target or self.failures, 60)


async def assert_all_there(client: ChunkClient, digests: dict[str, int]) -> None:
    assert len(digests) > 0
    present = await client.has(list(digests))
    assert set(present) == set(digests)
    for digest in digests:
        assert digest_of(await client.get(digest)) == digest


async def until_redis_is(client: ChunkClient, *, available: bool) -> None:
    async def has_come() -> bool:
        tiers = {tier["name"]: tier for tier in (await client.status())["tiers"]}
        return tiers["redis"]["is_available"] is available

    await poll(has_come)


async def until_flushed(redis: Redis) -> None:
    async def is_empty() -> bool:
        return await redis.zcard("trivet:record") == 0

    await poll(is_empty)


@pytest.mark.parametrize("mode", ["disk", "tiered", "redis"])
async def test_what_was_acknowledged_survives_kill_9_of_node_and_redis(mode, start_node, redis, client_of):
    """After SIGKILL of everything in mid-load and a restart, every acknowledged chunk is read back whole."""
    node = start_node(mode=mode, redis=redis)
    load = Load(client_of(node))
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        await load.wait_for_more(150)
        node.kill()
        redis.kill()
        load.stopping = True
    redis.start()
    node.start()
    await assert_all_there(client_of(node), load.acknowledged)


async def test_buffered_chunks_are_found_in_redis_after_a_restart(start_node, redis, client_of):
    """With a flush that never comes, a killed node still has every chunk, because Redis has them."""
    node = start_node(mode="tiered", redis=redis, extra={**PATIENT, "TRIVET_FLUSH_INTERVAL_S": "3600"})
    client = client_of(node)
    bodies = [random_bytes(2000) for _ in range(100)]
    stored = await asyncio.gather(*(client.put(body, start_index=number) for number, body in enumerate(bodies)))
    assert {answer["tier"] for answer in stored} == {"redis"}
    node.kill()
    node.start()
    client = client_of(node)
    await assert_all_there(client, {digest_of(body): len(body) for body in bodies})
    assert "moved acknowledged chunks from redis to disk" in node.log.read_text()
    redis.kill()
    await assert_all_there(client, {digest_of(body): len(body) for body in bodies})


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "hung"])
async def test_a_dead_or_hung_redis_fails_no_request(number, start_node, redis, client_of):
    """Redis dies or hangs in mid-load: no write and no read fails or takes long; it is used again when it is back."""
    node = start_node(mode="tiered", redis=redis)
    client = client_of(node)
    load = Load(client)
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        await load.wait_for_more(60)
        redis.signal(number)
        await load.wait_for_more(120)
        if number == signal.SIGKILL:
            redis.kill()
            redis.start()
        else:
            redis.signal(signal.SIGCONT)
        await until_redis_is(client, available=True)
        await load.wait_for_more(60)
        load.stopping = True
    assert load.failures == []
    assert load.wrong == []
    assert load.slowest_s < 2
    redis.kill()
    await assert_all_there(client, load.acknowledged)


@pytest.mark.parametrize("mode", ["redis", "tiered"])
async def test_a_node_whose_redis_does_not_answer_never_says_that_it_is_empty(mode, start_node, redis, client_of):
    """Chunks that only Redis has are counted while it answers, and unknown after a restart without it."""
    node = start_node(mode=mode, redis=redis, extra=PATIENT | {"TRIVET_FLUSH_INTERVAL_S": "3600"})
    client = client_of(node)
    await until_redis_is(client, available=True)
    bodies = [random_bytes(3000) for _ in range(3)]
    for body in bodies:
        await client.put(body)
    digest = digest_of(bodies[0])
    status = await client.status()
    assert status["chunk_count"] == 3
    assert [tier["sole_chunk_count"] for tier in status["tiers"]] == ([3] if mode == "redis" else [0, 3])
    redis.kill()
    node.kill()
    node.start()
    restarted = await client_of(node).status()
    assert restarted["chunk_count"] is None
    # What it can hold is remembered: a node that told 0 would lose its weight in placement.
    assert restarted["capacity_bytes"] == status["capacity_bytes"] > 0
    client = client_of(node)
    for ask in (client.get, lambda digest: client.has([digest]), lambda digest: client.has([digest], 7)):
        with pytest.raises(UnavailableError):
            await ask(digest)
    for path in ("/v1/chunks", "/v1/partitions", "/v1/partitions/00"):
        with pytest.raises(UnavailableError):
            await client.ask(path)
    if mode == "tiered":
        # What is on disk is served as ever, and writes go on.
        on_disk = random_bytes(4000)
        assert (await client.put(on_disk))["tier"] == "disk"
        assert await client.get(digest_of(on_disk)) == on_disk
        assert await client.has([digest_of(on_disk)], 7) == [digest_of(on_disk)]
    redis.start()
    await until_redis_is(client, available=True)
    await assert_all_there(client, {digest_of(body): len(body) for body in bodies})
    with pytest.raises(ChunkNotFoundError):
        await client.get("ab" * 32)


async def test_an_emptied_redis_loses_nothing_while_the_node_lives(start_node, redis, client_of):
    """Chunks that only Redis had acknowledged are still read, and reach the disk, when Redis is emptied at once."""
    node = start_node(mode="tiered", redis=redis, extra={**PATIENT, "TRIVET_FLUSH_INTERVAL_S": "3"})
    client = client_of(node)
    bodies = [random_bytes(3000) for _ in range(50)]
    stored = await asyncio.gather(*(client.put(body) for body in bodies))
    assert {answer["tier"] for answer in stored} == {"redis"}
    async with Redis.from_url(redis.url, password=REDIS_PASSWORD) as stranger:
        await stranger.flushall()
    digests = {digest_of(body): len(body) for body in bodies}
    await assert_all_there(client, digests)
    wait_until(lambda: "redis was emptied" in node.log.read_text(), "the loss is noticed")
    assert await client.has(list(digests), start_index=7) == list(digests)  # moves what is not on disk yet
    node.kill()
    redis.kill()
    node.start()
    await assert_all_there(client_of(node), digests)


async def test_a_deletion_that_redis_did_not_hear_is_not_acknowledged(start_node, redis, client_of):
    """The record of a dead Redis would bring the chunk back after a crash, so the answer is "unknown" and not "deleted"."""
    node = start_node(mode="tiered", redis=redis, extra=PATIENT | {"TRIVET_FLUSH_INTERVAL_S": "3600"})
    client = client_of(node)
    body, flushed = random_bytes(3000), random_bytes(100_000)
    await client.put(body)
    await client.put(flushed)
    redis.kill()
    for _ in range(2):  # "not found" at the second time would be believed
        with pytest.raises(UnavailableError) as caught:
            await client.delete(digest_of(body))
        assert not caught.value.definite
    await client.delete(digest_of(flushed))  # its record is on disk alone
    node.kill()
    redis.start()
    node.start()
    assert await client_of(node).has([digest_of(body), digest_of(flushed)]) == [digest_of(body)]


async def test_a_full_redis_costs_no_write(tmp_path, start_node, client_of):
    """Far more than Redis' memory goes in and comes out; Redis stays below its limit."""
    redis = RedisServer(tmp_path / "small-redis", maxmemory="8mb")
    redis.start()
    try:
        node = start_node(mode="tiered", redis=redis, extra={"TRIVET_REDIS_LIMIT_BYTES": str(64 * MIB)})
        client = client_of(node)
        bodies = [random_bytes(60_000) for _ in range(400)]
        for start in range(0, len(bodies), 8):
            await asyncio.gather(*(client.put(body) for body in bodies[start : start + 8]))
        await assert_all_there(client, {digest_of(body): len(body) for body in bodies})
        async with Redis.from_url(redis.url, password=REDIS_PASSWORD) as stranger:
            memory = await stranger.info("memory")
        assert memory["used_memory"] <= 8.5 * MIB
    finally:
        redis.kill()


async def test_flushed_chunks_leave_redis_before_its_limit(start_node, redis, client_of):
    """The node itself keeps Redis below the limit it was given, least recently used first."""
    limit = {**PATIENT, "TRIVET_REDIS_LIMIT_BYTES": str(4 * MIB), "TRIVET_WRITE_BEHIND_BYTES": str(2 * MIB)}
    node = start_node(mode="tiered", redis=redis, extra=limit)
    client = client_of(node)
    bodies = [random_bytes(20_000) for _ in range(400)]
    for start in range(0, len(bodies), 8):
        await asyncio.gather(*(client.put(body) for body in bodies[start : start + 8]))
    async with Redis.from_url(redis.url, password=REDIS_PASSWORD) as stranger:
        await until_flushed(stranger)
        async with asyncio.timeout(30):  # what was flushed last leaves a moment later
            while len(keys := [key async for key in stranger.scan_iter(match="trivet:chunk:*")]) > 2 * MIB // 20_000:  # noqa: ASYNC110 another process
                await asyncio.sleep(0.05)
        assert keys
    await assert_all_there(client, {digest_of(body): len(body) for body in bodies})


async def test_a_wrong_copy_in_redis_is_never_served(start_node, redis, client_of):
    """A byte changed inside Redis is noticed, and the disk answers."""
    node = start_node(mode="tiered", redis=redis, extra={**PATIENT, "TRIVET_FLUSH_INTERVAL_S": "0.05"})
    client = client_of(node)
    body = random_bytes(5000)
    digest = digest_of(body)
    await client.put(body)
    async with Redis.from_url(redis.url, password=REDIS_PASSWORD) as stranger:
        await until_flushed(stranger)
        await stranger.setrange(f"trivet:chunk:{digest}", 100, b"wrong bytes")
    assert await client.get(digest) == body
    assert await client.metric("trivet_storage_corrupt_total") == 1
    assert await client.get(digest) == body


async def test_a_wrong_chunk_in_the_record_is_refused_in_mode_redis(start_node, redis, client_of):
    """Where Redis is the record, a changed byte gives chunk_corrupt once, and room for a good replica afterwards."""
    node = start_node(mode="redis", redis=redis)
    client = client_of(node)
    body = random_bytes(5000)
    await client.put(body)
    async with Redis.from_url(redis.url, password=REDIS_PASSWORD) as stranger:
        await stranger.setrange(f"trivet:chunk:{digest_of(body)}", 100, b"wrong bytes")
    with pytest.raises(ChunkCorruptError):
        await client.get(digest_of(body))
    assert await client.has([digest_of(body)]) == []
    assert (await client.put(body))["created"] is True
    assert await client.get(digest_of(body)) == body


@pytest.mark.parametrize("size_bytes", [4096, 500_000], ids=["packed", "file"])
async def test_a_flipped_bit_on_disk_is_refused_then_healed(size_bytes, start_node, client_of):
    """One flipped bit gives 503 chunk_corrupt and never a wrong byte; the replica is gone, and a put brings it back."""
    node = start_node(mode="disk")
    client = client_of(node)
    body, other = random_bytes(size_bytes), random_bytes(size_bytes)
    digest = digest_of(body)
    await client.put(body)
    await client.put(other)
    node.stop()  # an orderly end leaves no write-ahead log: its own checksums would hide the flipped bit from ours
    flip_one_bit_of(body, node)
    node.start()
    client = client_of(node)
    with pytest.raises(ChunkCorruptError) as caught:
        await client.get(digest)
    assert caught.value.status == 503
    assert await client.get(digest_of(other)) == other
    with pytest.raises(ChunkNotFoundError):
        await client.get(digest)
    assert (await client.put(body))["created"] is True
    assert await client.get(digest) == body
    assert await client.metric("trivet_storage_corrupt_total") == 1


def flip_one_bit_of(body: bytes, node: StorageProcess) -> None:
    """In whichever file of the node the bytes lie."""
    for path in node.data_dir.rglob("*"):
        if not path.is_file():
            continue
        content = bytearray(path.read_bytes())
        at = content.find(body[50:450])
        if at >= 0:
            content[at + 100] ^= 0x10
            path.write_bytes(content)
            return
    raise AssertionError("the chunk was not found on disk")


async def test_a_chunk_file_that_vanished_is_not_claimed_after_a_restart(start_node, client_of):
    """A file removed by hand is noticed at start; a file without a row is adopted."""
    node = start_node(mode="disk")
    client = client_of(node)
    kept, removed = random_bytes(200_000), random_bytes(200_000)
    await client.put(kept)
    await client.put(removed)
    node.kill()
    (node.data_dir / "chunks" / digest_of(removed)[:2] / digest_of(removed)).unlink()
    stray = random_bytes(100_000)
    (node.data_dir / "chunks" / digest_of(stray)[:2] / digest_of(stray)).write_bytes(stray)
    (node.data_dir / "tmp" / "half-written").write_bytes(b"x")
    node.start()
    client = client_of(node)
    assert await client.has([digest_of(body) for body in (kept, removed, stray)]) == [digest_of(kept), digest_of(stray)]
    assert await client.get(digest_of(stray)) == stray
    assert not list((node.data_dir / "tmp").iterdir())


async def test_a_full_node_refuses_writes_and_goes_on_with_reads_and_deletes(start_node, redis, client_of):
    """At the reserve a put gets 507, certainly not stored; reads and deletes work, and make room again."""
    node = start_node(mode="tiered", redis=redis, extra={"TRIVET_CAPACITY_BYTES": str(2 * MIB)})
    client = client_of(node)
    bodies = [random_bytes(300_000) for _ in range(6)]
    for body in bodies:
        await client.put(body)
    for size_bytes in (300_000, 200_000):
        with pytest.raises(DiskFullError) as caught:
            await client.put(bytes(size_bytes))
        assert caught.value.definite
    small = random_bytes(1000)
    await client.put(small)
    assert await client.get(digest_of(bodies[0])) == bodies[0]
    await client.delete(digest_of(bodies[0]))
    await client.put(bytes(300_000))


async def test_a_redis_that_is_not_durable_acknowledges_nothing(tmp_path, start_node, client_of):
    """Redis without `appendfsync always` is not trusted: tiered works from disk, mode redis refuses to start."""
    redis = RedisServer(tmp_path / "lazy-redis", appendfsync="everysec")
    redis.start()
    try:
        client = client_of(start_node(mode="tiered", redis=redis))
        assert (await client.put(b"small"))["tier"] == "disk"
        (tmp_path / "record").mkdir()
        refused = StorageProcess(tmp_path / "record", mode="redis", redis=redis).run_to_end()
        assert refused.returncode == 78
        assert "appendfsync" in refused.stderr
    finally:
        redis.kill()


def test_the_redis_of_another_node_is_refused(tmp_path, start_node, redis):
    """Two nodes on one Redis would delete each other's chunks."""
    start_node(mode="tiered", redis=redis)
    (tmp_path / "second").mkdir()
    refused = StorageProcess(tmp_path / "second", mode="tiered", redis=redis, node_id="storage-2").run_to_end()
    assert refused.returncode == 78
    assert f"belongs to {'storage-test-cluster'}/storage-1" in refused.stderr


@pytest.mark.skipif(
    shutil.which("strace") is None, reason="needs strace: a failing fsync was not tested on a live node"
)
@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
async def test_after_a_failed_fsync_nothing_is_acknowledged_and_reads_go_on(call, start_node, client_of, tmp_path):
    """One EIO from the disk: that put and every later one is refused, /readyz says why, what was stored is read."""
    node = start_node(mode="disk")
    client = client_of(node)
    old = random_bytes(200_000)
    await client.put(old)
    tracer = await asyncio.create_subprocess_exec(
        *["strace", "-f", "-qq", "-o", str(tmp_path / "trace"), "-e", f"trace={call}"],
        *["-e", f"inject={call}:error=EIO", "-p", str(node.process.pid)],
    )
    try:
        wait_until(lambda: f"TracerPid:\t{tracer.pid}" in proc_status(node), "strace attached")
        with pytest.raises(UnavailableError) as caught:
            await client.put(random_bytes(200_000))
        assert not caught.value.definite
    finally:
        tracer.terminate()
        await tracer.wait()
    with pytest.raises(UnavailableError) as caught:
        await client.put(random_bytes(200_000))
    assert caught.value.definite
    assert (await client.status())["is_accepting_writes"] is False
    assert any("failed" in reason for reason in node.reasons())
    assert await client.get(digest_of(old)) == old
    node.kill()
    node.start()
    await client_of(node).put(random_bytes(200_000))


def proc_status(node: StorageProcess) -> str:
    return Path(f"/proc/{node.process.pid}/status").read_text()


def peak_rss_bytes(node: StorageProcess) -> int:
    """The most that the process ever held, as the kernel counts."""
    line = next(line for line in proc_status(node).splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def ask_and_never_read(node: StorageProcess, digest: str) -> list[socket.socket]:
    """Readers that sign a request for 1 MiB and take nothing of the answer."""
    signer = RequestSigner(derive_peer_keys(SECRET, Role.GATEWAY))
    boot = parse_challenge(httpx.get(f"{node.peer.url}/v1/status", timeout=30).headers["www-authenticate"])
    signer.learn(node.node_id, boot)
    connections = []
    for _ in range(SLOW_READERS):
        path = f"/v1/chunks/{digest}"
        signature = signer.sign("GET", path, node.peer, EMPTY_BODY_DIGEST).authorization
        fields = f"{BODY_DIGEST_HEADER}: {EMPTY_BODY_DIGEST}\r\nauthorization: {signature}"
        head = f"GET {path} HTTP/1.1\r\nhost: x\r\n{fields}\r\n\r\n"
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", node.port))
        connection.sendall(head.encode())
        connections.append(connection)
    return connections


async def test_memory_is_bounded_whatever_the_load(start_node, client_of, redis):
    """Bodies far beyond the budget, readers that do not read, the largest questions and whole inventories at once: each is
    served or refused, and the process stays under 200 MiB."""
    node = start_node(mode="tiered", redis=redis)
    client = client_of(node)
    bodies = [random_bytes(MIB) for _ in range(40)]
    smalls = [random_bytes(16_000) for _ in range(60)]
    known = [digest_of(body) for body in bodies]
    question = known + [random_bytes(32).hex() for _ in range(10_000 - len(known))]
    base = peak_rss_bytes(node)
    refusals = 0
    readers: list[socket.socket] = []
    for _ in range(4):
        answers = await asyncio.gather(
            *(client.put(body) for body in bodies + smalls),
            *(client.get(digest) for digest in known * 3),
            *(client.has(question, start_index=5) for _ in range(30)),
            *(client.ask("/v1/chunks") for _ in range(30)),
            *(client.ask("/v1/partitions") for _ in range(30)),
            return_exceptions=True,
        )
        refusals += sum(isinstance(answer, TrivetError) for answer in answers)
        assert [a for a in answers if isinstance(a, BaseException) and not isinstance(a, TrivetError)] == []
        readers = readers or await asyncio.to_thread(ask_and_never_read, node, known[0])
    for reader in readers:
        reader.close()

    async def is_served() -> bool:
        with contextlib.suppress(OverloadedError):
            return await client.get(known[0]) == bodies[0]
        return False

    await poll(is_served)
    peak = peak_rss_bytes(node)
    print(f"from {base / MIB:.0f} to {peak / MIB:.0f} MiB, {refusals} calls refused")
    assert peak < 200 * MIB
