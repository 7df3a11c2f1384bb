"""A cluster of the release before becomes one of this version, one process after the other, while clients put and get.

A client repeats what failed once, under the same Idempotency-Key, when the gateway is ready again. Nothing else may fail, and
every file that a receipt was given for is there at the end.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from local_cluster.cluster import Cluster
from tests.chance import draw_seed, random_bytes
from tests.upgrade.trees import RELEASES, cluster_of, installed_tree

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

CLIENTS = 4
MIXED_S = 3.0
"""For how long the cluster stays as it is after each step."""

READY_WITHIN_S = 30.0


class Load:
    """Clients that put, get and delete until they are told to stop."""

    def __init__(self, cluster: Cluster) -> None:
        self._url, self._headers = cluster.gateway_url, cluster.bearer
        self._stop = threading.Event()
        self.stored: dict[str, bytes] = {}
        self.count: Counter[str] = Counter()
        self.failures: list[str] = []
        self.phase = "before"
        self.took_s: dict[str, list[float]] = defaultdict(list)

    def run(self, number: int) -> None:
        """One client."""
        chance = random.Random(draw_seed())
        with httpx.Client(base_url=self._url, headers=self._headers, timeout=30, trust_env=False) as client:
            while not self._stop.is_set():
                key = f"{number}/{chance.randrange(200)}"
                self._put_and_get(client, key, random_bytes(chance.choice([100, 5_000, 1_500_000])))

    def _put_and_get(self, client: httpx.Client, key: str, body: bytes) -> None:
        target, once = f"/v1/files/default/{key}", {"idempotency-key": uuid.uuid4().hex}
        if self._ask(client, client.build_request("PUT", target, content=body, headers=once)) is None:
            return
        self.stored[key] = body
        read = self._ask(client, client.build_request("GET", target))
        if read is not None and read.content != body:
            self.failures.append(f"{key} is not what was put")

    def _ask(self, client: httpx.Client, request: httpx.Request) -> httpx.Response | None:
        """The answer, once more where the first was none or a 503; None, and a failure, where the second is no better."""
        said = ""
        for attempt in (1, 2):
            began_s = time.monotonic()
            try:
                answer = client.send(request)
            except httpx.TransportError as error:
                said = repr(error)
            else:
                if answer.is_success:
                    self.count[f"attempt {attempt}"] += 1
                    self.took_s[f"{request.method} {self.phase}"].append(time.monotonic() - began_s)
                    return answer
                said = f"{answer.status_code}: {answer.text[:300]}"
                if answer.status_code != 503:
                    break
            if attempt == 1:
                _wait_until_ready(client)
        self.failures.append(f"{request.method} {request.url.path}: {said}")
        return None

    def stop(self) -> None:
        self._stop.set()


def _ms(took_s: list[float], percentile: int) -> int:
    return round(1000 * sorted(took_s)[(len(took_s) - 1) * percentile // 100])


def _wait_until_ready(client: httpx.Client) -> None:
    deadline_s = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline_s:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Of the release before, running."""
    with cluster_of(installed_tree(RELEASES["previous"]["commit"], tmp_path / "tree"), tmp_path / "local") as running:
        yield running


def test_the_release_before_is_upgraded_under_load(cluster: Cluster) -> None:
    """Nodes, members, the clock and the gateway, each while the others are of either version."""
    load = Load(cluster)
    names = [name for name in cluster.names() if not name.startswith("redis")]
    order = sorted(names, key=lambda name: ("storage", "consensus", "clock", "gateway").index(name.rsplit("-", 1)[0]))
    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(load.run, number) for number in range(CLIENTS)]
        try:
            for name in order:
                time.sleep(MIXED_S)
                load.phase = "while the gateway restarts" if name.startswith("gateway") else "while others restart"
                asyncio.run(cluster.restart(name))
            load.phase = "after"
            time.sleep(MIXED_S)
        finally:
            load.stop()
        for client in running:
            client.result()
    print(dict(load.count))
    for phase, took_s in sorted(load.took_s.items()):
        print(f"{phase}: {len(took_s)} answers, p50 {_ms(took_s, 50)} ms, p99 {_ms(took_s, 99)} ms")
    assert load.failures == []
    assert load.count["attempt 1"] > 10 * len(order)
    with httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=30, trust_env=False) as client:
        for key, body in load.stored.items():
            assert client.get(f"/v1/files/default/{key}").content == body
