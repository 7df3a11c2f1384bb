"""What a whole cluster promises while parts of it are killed: P1 (durable), P3 (whole), P4 (alive), P6 (honest)."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import httpx
import pytest
from blake3 import blake3

from shared.units import KIB, MIB
from tests.waiting import block_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

SIZES_BYTES = (0, 1, 10 * KIB, MIB - 1, MIB + 1, 3 * MIB)
CLIENT_COUNT = 3


@dataclass
class Load:
    """Clients that write and read files without a break, and remember everything that they were promised.

    They take the gateways in turn.
    """

    urls: Sequence[str]
    bearer: Mapping[str, str]
    bucket: str
    seed: int
    stored: dict[str, tuple[str, str]] = field(default_factory=dict)  # key -> (digest, etag)
    failures: list[tuple[float, str, int, str]] = field(default_factory=list)
    successes_at: list[float] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        for number in range(CLIENT_COUNT):
            thread = threading.Thread(target=self._work, args=(number,))
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        chance = random.Random(self.seed + number)
        url = self.urls[number % len(self.urls)]
        with httpx.Client(base_url=url, headers=self.bearer, timeout=30, trust_env=False) as client:
            count = 0
            while not self._stop.is_set():
                key = f"client-{number}/{count}"
                body = chance.randbytes(chance.choice(SIZES_BYTES))
                stored = self._request(client, "PUT", key, body)
                if stored is not None:
                    self.stored[key] = (blake3(body).hexdigest(), stored.json()["etag"])
                    self._read(client, key)
                    self._read(client, chance.choice(list(self.stored)))
                    count += 1

    def _read(self, client: httpx.Client, key: str) -> None:
        answer = self._request(client, "GET", key)
        if answer is not None and blake3(answer.content).hexdigest() != self.stored[key][0]:
            self.failures.append((time.monotonic(), f"GET {key}", 200, "WRONG BYTES"))

    def _request(self, client: httpx.Client, method: str, key: str, body: bytes | None = None) -> httpx.Response | None:
        try:
            answer = client.request(method, f"/v1/files/{self.bucket}/{key}", content=body)
        except httpx.TransportError as error:
            self.failures.append((time.monotonic(), f"{method} {key}", 0, repr(error)))
            return None
        if answer.is_success:
            self.successes_at.append(time.monotonic())
            return answer
        detail = f"retry-after={answer.headers.get('retry-after')} {answer.text[:300]}"
        self.failures.append((time.monotonic(), f"{method} {key}", answer.status_code, detail))
        # As a polite client does, but never longer than the test wants to wait.
        self._stop.wait(0.1)
        return None


def check_all(gateway: httpx.Client, load: Load) -> None:
    """Every acknowledged file has its bytes and its ETag."""
    assert load.stored, "the load stored nothing"
    for key, (digest, etag) in load.stored.items():
        answer = gateway.get(f"/v1/files/{load.bucket}/{key}")
        assert answer.status_code == 200, (key, answer.text)
        assert blake3(answer.content).hexdigest() == digest, key
        assert answer.headers["etag"] == f'"{etag}"', key


def leader(gateway: httpx.Client) -> str:
    return str(gateway.get("/v1/cluster").json()["leader"])


@pytest.mark.parametrize("victim", ["storage-2", "redis-2", "clock-1"])
def test_no_request_fails_while_a_node_is_killed(cluster, gateway, gateway_urls, bucket, seed, victim) -> None:
    """kill -9 under load, a hundred requests without the victim, its return, a hundred more: not one failure."""
    with Load(gateway_urls, cluster.bearer, bucket, seed) as load:
        for act in (lambda: None, lambda: cluster.kill(victim), lambda: asyncio.run(cluster.start())):
            act()
            goal = len(load.successes_at) + 100
            block_until(lambda goal=goal: len(load.successes_at) >= goal, "a hundred requests", 60)
    assert load.failures == []
    check_all(gateway, load)


def test_reads_and_writes_go_on_with_a_storage_node_a_follower_and_the_clock_down(
    cluster, gateway, gateway_urls, bucket, seed
) -> None:
    """All three at once (P4): the leader is spared, so nobody even waits."""
    follower = next(name for name in ("consensus-1", "consensus-2", "consensus-3") if name != leader(gateway))
    with Load(gateway_urls, cluster.bearer, bucket, seed) as load:
        for victim in ("storage-1", follower, "clock-1"):
            cluster.kill(victim)
        block_until(lambda: len(load.successes_at) >= 100, "a hundred requests", 60)
    assert load.failures == []
    check_all(gateway, load)


def test_a_killed_leader_costs_at_most_five_seconds_and_honest_refusals(
    cluster, gateway, gateway_urls, bucket, seed
) -> None:
    """Requests wait, or fail with 503 and Retry-After; then a new leader answers and nothing acknowledged is lost."""
    first = leader(gateway)
    with Load(gateway_urls, cluster.bearer, bucket, seed) as load:
        block_until(lambda: len(load.successes_at) >= 30, "load before the kill", 30)
        cluster.kill(first)
        killed_at = time.monotonic()
        block_until(lambda: load.successes_at[-1] > killed_at + 0.5, "a success after the kill", 30)
        goal = len(load.successes_at) + 50
        block_until(lambda: len(load.successes_at) >= goal, "load after the kill", 30)
    for _, request, status, detail in load.failures:
        assert status == 503, (request, status, detail)
        assert "retry-after=None" not in detail
    after = [moment for moment in load.successes_at if moment > killed_at + 0.5]
    print(f"first success {after[0] - killed_at:.2f} s after the kill, {len(load.failures)} refusals")
    assert after[0] - killed_at < 5.0
    assert leader(gateway) != first
    check_all(gateway, load)


def test_everything_killed_at_once_comes_back_with_every_acknowledged_file(
    cluster, gateway, gateway_urls, bucket, seed
) -> None:
    """kill -9 of all processes under load, then a start: bytes and ETags are equal."""
    load = Load(gateway_urls, cluster.bearer, bucket, seed)
    with load:
        block_until(lambda: len(load.successes_at) >= 60, "load before the kill", 60)
        cluster.kill_all()
    asyncio.run(cluster.start())
    check_all(gateway, load)


def test_without_a_write_quorum_a_write_is_refused_in_time_and_reads_go_on(cluster, gateway, bucket, seed) -> None:
    """Two of three storage nodes are dead: 503 with the counts; a chunk with one good replica is still served."""
    body = random.Random(seed).randbytes(2 * MIB)
    assert gateway.put(f"/v1/files/{bucket}/before", content=body).status_code == 201
    holders = gateway.head(f"/v1/files/{bucket}/before", headers={"x-trivet-read-quorum": "2"})
    assert holders.status_code == 200
    assert int(holders.headers["x-trivet-replicas-confirmed"]) >= 2
    cluster.kill("storage-1")
    cluster.kill("storage-2")
    began = time.monotonic()
    refused = gateway.put(f"/v1/files/{bucket}/during", content=body)
    assert refused.status_code == 503
    assert time.monotonic() - began < 10
    assert int(refused.headers["retry-after"]) >= 1
    problem = refused.json()
    assert (problem["code"], problem["needed"]) == ("quorum_not_reached", 2)
    assert gateway.get(f"/v1/files/{bucket}/during").status_code == 404
    asyncio.run(cluster.start())
    assert gateway.get(f"/v1/files/{bucket}/before").content == body
    again = gateway.put(f"/v1/files/{bucket}/during", content=body)
    assert again.status_code == 201


def test_without_a_majority_of_members_nothing_stale_is_served(cluster, gateway, bucket) -> None:
    """Two of three members are dead: reads and writes are refused with 503, and work again after their return."""
    assert gateway.put(f"/v1/files/{bucket}/file", content=b"x").status_code == 201
    for name in [f"consensus-{number}" for number in (1, 2, 3)][:2]:
        cluster.kill(name)
    for method, content in (("PUT", b"y"), ("GET", None)):
        answer = gateway.request(method, f"/v1/files/{bucket}/file", content=content)
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 1
    asyncio.run(cluster.start())
    assert gateway.get(f"/v1/files/{bucket}/file").content in {b"x", b"y"}
