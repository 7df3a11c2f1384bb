"""A gateway, the leader or a storage node is killed at each step of a copy, a rename and a restore: it happens once.

Whoever asked sends the request again under its Idempotency-Key. Then the lists of versions show one change, whole, and so do
the bytes.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.chance import random_bytes
from tests.integration.gateway.mortal_gateway import STEPS
from tests.integration.second_gateway import SecondGateway
from tests.waiting import block_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

CALLS = ("copy", "rename", "restore")
OFFSETS_S = (0.0, 0.003, 0.01, 0.03)
"""After the request has left, when the leader is killed: before it has the proposal, while it has, and after it has answered."""

RETRY_FOR_S = 60.0


@dataclass
class Scene:
    """A bucket that keeps versions, with the key `old` in two of them."""

    gateway: httpx.Client
    bucket: str
    first: int
    second: int

    def request(self, call: str) -> dict[str, Any]:
        """What is asked for."""
        if call == "restore":
            return {"bucket": self.bucket, "key": "old", "version": self.first}
        return {
            "source": {"bucket": self.bucket, "key": "old"},
            "target": {"bucket": self.bucket, "key": "new"},
        }

    def send(self, client: httpx.Client, call: str) -> httpx.Response:
        """The request, always the same one."""
        return client.post(f"/v1/{call}", json=self.request(call), headers={"idempotency-key": f"{self.bucket}-{call}"})

    def until_answered(self, call: str) -> httpx.Response:
        """The answer of the gateways that live, asked again while they do not know."""
        answers: list[httpx.Response] = []

        def is_known() -> bool:
            answers.append(self.send(self.gateway, call))
            return answers[-1].status_code < 500 and answers[-1].status_code != 409

        block_until(is_known, "an answer that says what happened", RETRY_FOR_S)
        return answers[-1]

    def check(self, call: str, answer: httpx.Response) -> None:
        """It happened once, as a whole."""
        assert answer.is_success, answer.text
        receipt = answer.json()
        version = receipt["version"]
        assert self.send(self.gateway, call).json() == receipt
        markers = {"old": [(version, True)] if call == "rename" else []}
        kept = [(self.second, False), (self.first, False)]
        if call == "restore":
            assert self.versions("old") == [(version, False), *kept]
            assert self.read("old") == b"first"
        else:
            assert self.versions("new") == [(version, False)]
            assert self.versions("old") == [*markers["old"], *kept]
            assert self.read("new") == b"second"
            assert self.read("old") == (None if call == "rename" else b"second")

    def versions(self, key: str) -> list[tuple[int, bool]]:
        """Numbers, and which are markers, the latest first."""
        answer = self.gateway.get(f"/v1/versions/{self.bucket}", params={"key": key})
        return [(row["version"], row["is_marker"]) for row in answer.json()["versions"]]

    def read(self, key: str) -> bytes | None:
        """The current bytes."""
        answer = self.gateway.get(f"/v1/files/{self.bucket}/{key}")
        assert answer.status_code in {200, 404}, answer.text
        return answer.content if answer.status_code == 200 else None


@pytest.fixture
def scene(gateway: httpx.Client) -> Scene:
    bucket = f"killed-{random_bytes(6).hex()}"
    assert gateway.put(f"/v1/buckets/{bucket}").status_code == 201
    assert gateway.put(f"/v1/buckets/{bucket}/settings", json={"versioning": "enabled"}).status_code == 200
    numbers = [gateway.put(f"/v1/files/{bucket}/old", content=body).json()["version"] for body in (b"first", b"second")]
    return Scene(gateway, bucket, *numbers)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("call", CALLS)
def test_a_gateway_that_dies_at_any_step_leaves_one_change_or_none(cluster, tmp_path, scene, call, step) -> None:
    """The other gateways know which: they give the answer that was lost, or make the change."""
    program = ["-m", "tests.integration.gateway.mortal_gateway", step]
    with (
        SecondGateway(cluster, tmp_path / "mortal.log", {"TRIVET_NODE_ID": "gateway-9"}, program) as mortal,
        httpx.Client(base_url=mortal.url, headers=cluster.bearer, timeout=30, trust_env=False) as client,
        pytest.raises(httpx.TransportError),
    ):
        scene.send(client, call)
    is_done = bool(scene.versions("new")) or len(scene.versions("old")) > 2
    assert is_done or step in STEPS[:2]
    assert not is_done or step != STEPS[0]
    scene.check(call, scene.until_answered(call))


@pytest.mark.parametrize("offset_s", OFFSETS_S)
@pytest.mark.parametrize("call", CALLS)
def test_a_leader_that_dies_at_any_step_leaves_one_change(cluster, gateway, scene, call, offset_s) -> None:
    """Another member leads, and what was acknowledged is in its log; what was not is sent again and happens once."""
    leader = gateway.get("/v1/cluster").json()["leader"]
    timer = threading.Timer(offset_s, cluster.kill, [leader])
    timer.start()
    first = scene.send(gateway, call)
    timer.join()
    answer = scene.until_answered(call)
    if first.is_success:
        assert answer.json() == first.json()
    scene.check(call, answer)
    asyncio.run(cluster.start())


@pytest.mark.parametrize("call", CALLS)
def test_no_storage_node_is_needed_to_change_names(cluster, scene, call) -> None:
    """One is dead and another dies meanwhile: no bytes move, and the first answer is the success."""
    cluster.kill("storage-1")
    timer = threading.Timer(0.002, cluster.kill, ["storage-2"])
    timer.start()
    answer = scene.send(scene.gateway, call)
    timer.join()
    asyncio.run(cluster.start())
    scene.check(call, answer)
