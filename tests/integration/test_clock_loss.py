"""C7 on a whole cluster: all time servers go, and writing goes on as if nothing had happened; receipts say what time is worth."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from local_cluster.cluster import Cluster
from tests.free_ports import free_port_offset
from tests.integration.clock.fake_ntp import FakeNtpServer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

DEADLINE_S = 60.0


@pytest.fixture
def timed_cluster(tmp_path: Path) -> Iterator[tuple[Cluster, ExitStack]]:
    """A cluster with four honest time servers, and the stack that ends them."""
    with ExitStack() as stack, ExitStack() as servers:
        names = ",".join(f"127.0.0.1:{servers.enter_context(FakeNtpServer()).port}" for _ in range(4))
        # Three polls without an answer make HOLDOVER, so a short interval makes it soon.
        settings = {"TRIVET_NTP_SERVERS": names, "TRIVET_NTP_POLL_INTERVAL_S": "1"}
        cluster = Cluster(tmp_path, free_port_offset(), {"clock-1": settings})
        stack.callback(cluster.kill_all)
        asyncio.run(cluster.start())
        yield cluster, servers


def write_until(gateway: httpx.Client, state: str) -> list[str]:
    """Write until receipts are stamped in `state`; the states of all receipts on the way. Every write must succeed."""
    states: list[str] = []
    deadline = time.monotonic() + DEADLINE_S
    while not states or states[-1] != state:
        assert time.monotonic() < deadline, f"never {state}: {states[-5:]}"
        answer = gateway.put("/v1/files/default/clock-loss", content=b"x" * len(states))
        assert answer.status_code in {200, 201}, answer.text
        states.append(answer.json()["timestamp"]["state"])
    return states


def test_writing_goes_on_when_every_time_server_is_gone(timed_cluster: tuple[Cluster, ExitStack]) -> None:
    """SYNCED, then HOLDOVER with an interval that still holds true time; not one write fails, and versions only grow."""
    cluster, servers = timed_cluster
    with httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=30, trust_env=False) as gateway:
        write_until(gateway, "SYNCED")
        servers.close()
        assert set(write_until(gateway, "HOLDOVER")) <= {"SYNCED", "HOLDOVER"}
        versions = []
        for number in range(20):
            receipt = gateway.put(f"/v1/files/default/clock-loss-{number}", content=b"kept").json()
            versions.append(receipt["version"])
            assert receipt["timestamp"]["earliest"] <= receipt["timestamp"]["latest"]
        assert versions == sorted(set(versions))
