"""C2 and P7 on a whole cluster: every process' wall clock is minutes off and jumps, and no write is lost or misordered."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import httpx
import pytest
from blake3 import blake3

from local_cluster.cluster import Cluster
from shared.contracts.time import TimeReport
from shared.peer_calls.http_client import PeerClient
from shared.timekeeping.host_clock import SystemHostClock
from shared.timekeeping.time_client import TIME_PATH
from shared.units import KIB, MIB
from tests.free_ports import free_port_offset
from tests.integration.clock.fake_ntp import FakeNtpServer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

OFFSETS_S = {
    "gateway-1": 170,
    "storage-1": -240,
    "storage-2": 95,
    "storage-3": -410,
    "consensus-1": 310,
    "consensus-2": -185,
    "consensus-3": 60,
    "clock-1": -125,
}
JUMPS_S = (0, 333, -600)
CLIENT_COUNT = 3
WRITES_PER_JUMP = 6
SIZES_BYTES = (1, 40 * KIB, MIB + 1)


def faketime_library() -> str:
    """Where libfaketime lies, as faketime(1) itself would load it; skips where it is missing."""
    if shutil.which("faketime") is None:
        pytest.skip("NOT TESTED: a cluster with skewed wall clocks needs faketime (Debian: apt-get install faketime)")
    shown = subprocess.run(["faketime", "-f", "+0", "env"], check=True, capture_output=True, text=True).stdout
    return next(line for line in shown.splitlines() if line.startswith("LD_PRELOAD=")).removeprefix("LD_PRELOAD=")


class SkewedCluster:
    """A cluster each of whose processes reads its wall clock from a file, which may be changed while it runs."""

    def __init__(self, folder: Path, ntp_servers: list[FakeNtpServer]) -> None:
        library = faketime_library()
        self._folder = folder
        overrides = {name: self._environment(library, name) for name in OFFSETS_S}
        names = ",".join(f"127.0.0.1:{server.port}" for server in ntp_servers) or "127.0.0.1:9"
        overrides["clock-1"] |= {"TRIVET_NTP_SERVERS": names, "TRIVET_NTP_POLL_INTERVAL_S": "2"}
        self.jump(0)
        self.cluster = Cluster(folder / "cluster", free_port_offset(), overrides)

    def jump(self, seconds: int) -> None:
        """Set every wall clock `seconds` further, each in its own direction."""
        for index, (name, offset_s) in enumerate(OFFSETS_S.items()):
            direction = 1 if index % 2 else -1
            # Replaced, not rewritten: a process must never read half a number.
            fresh = self._folder / f"{name}.new"
            fresh.write_text(f"{offset_s + direction * seconds:+d}\n")
            fresh.replace(self._folder / f"{name}.time")

    def _environment(self, library: str, name: str) -> dict[str, str]:
        return {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(self._folder / f"{name}.time"),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@dataclass
class Key:
    """What one client was promised about one key, in order."""

    name: str
    bodies: dict[str, str] = field(default_factory=dict)  # etag -> digest of the body
    versions: list[int] = field(default_factory=list)
    hlcs: list[str] = field(default_factory=list)
    etag: str = ""
    problems: list[str] = field(default_factory=list)


@pytest.fixture(params=["with time servers", "in a closed network"])
def skewed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[SkewedCluster, bool]]:
    with ExitStack() as stack:
        has_servers = request.param == "with time servers"
        servers = [stack.enter_context(FakeNtpServer()) for _ in range(4 if has_servers else 0)]
        skewed_cluster = SkewedCluster(tmp_path, servers)
        stack.callback(skewed_cluster.cluster.kill_all)
        asyncio.run(skewed_cluster.cluster.start())
        yield skewed_cluster, has_servers


def test_no_write_is_lost_or_misordered_while_every_wall_clock_is_minutes_off(
    skewed: tuple[SkewedCluster, bool], seed: int
) -> None:
    """Overwrites under skew, jumps and a killed leader: versions and hlc grow per key, the last one acknowledged is read."""
    skewed_cluster, has_servers = skewed
    cluster = skewed_cluster.cluster
    keys = [Key(f"client-{number}") for number in range(CLIENT_COUNT)]
    with httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=30, trust_env=False) as gateway:
        for jump_s in JUMPS_S:
            skewed_cluster.jump(jump_s)
            run_clients(cluster, keys, seed + jump_s)
        leader = get(gateway, "/v1/cluster").json()["leader"]
        cluster.kill(leader)
        run_clients(cluster, keys, seed - 1)
        asyncio.run(cluster.start())
        run_clients(cluster, keys, seed - 2)
        for key in keys:
            assert key.problems == []
            assert len(key.versions) == WRITES_PER_JUMP * (len(JUMPS_S) + 2)
            assert key.versions == sorted(set(key.versions)), "versions went back"
            assert key.hlcs == sorted(set(key.hlcs)), "timestamps went back"
            answer = get(gateway, f"/v1/files/default/{key.name}")
            assert answer.headers["x-trivet-version"] == str(key.versions[-1])
            assert blake3(answer.content).hexdigest() == key.bodies[key.etag]
        if has_servers:
            check_receipt_is_true(gateway)
    wrong_s = abs(asyncio.run(published_offset_ns(cluster))) / 1e9
    assert wrong_s < 1 if has_servers else wrong_s > 60, f"the skew is not what was meant: {wrong_s} s"


async def published_offset_ns(cluster: Cluster) -> int:
    """How far the time of the cluster's clock service is from ours."""
    async with PeerClient(cluster.keys) as client:
        report = await client.call(cluster.peer("clock-1"), "GET", TIME_PATH, TimeReport, timeout_s=5)
    return report.utc_ns - SystemHostClock().wall_ns()


def run_clients(cluster: Cluster, keys: list[Key], seed: int) -> None:
    """Every client overwrites and reads its own key, side by side."""
    threads = [threading.Thread(target=overwrite, args=(cluster, key, seed)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def overwrite(cluster: Cluster, key: Key, seed: int) -> None:
    """Write `WRITES_PER_JUMP` versions; what was acknowledged must be what is read next."""
    chance = random.Random(f"{seed} {key.name}")
    with httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=30, trust_env=False) as client:
        for _ in range(WRITES_PER_JUMP):
            receipt = put(client, key, chance.randbytes(chance.choice(SIZES_BYTES)))
            if receipt is None:
                return
            answer = client.get(f"/v1/files/default/{key.name}")
            if answer.is_success and answer.headers["x-trivet-version"] != str(key.versions[-1]):
                key.problems.append(f"read version {answer.headers['x-trivet-version']} after {key.versions[-1]}")


def get(client: httpx.Client, path: str) -> httpx.Response:
    """A read that is asked again while the cluster says that it cannot answer now."""
    for _ in range(100):
        answer = client.get(path)
        if answer.status_code != 503:
            break
        threading.Event().wait(0.1)
    assert answer.status_code == 200, answer.text
    return answer


def put(client: httpx.Client, key: Key, body: bytes) -> dict[str, object] | None:
    """One write, repeated under the same Idempotency-Key until it is acknowledged, as a careful client does."""
    token = f"{key.name}-{len(key.versions)}-{blake3(body).hexdigest()[:16]}"
    for _ in range(100):
        try:
            answer = client.put(f"/v1/files/default/{key.name}", content=body, headers={"idempotency-key": token})
        except httpx.TransportError as error:
            key.problems.append(repr(error))
            return None
        if answer.is_success:
            receipt = answer.json()
            key.etag = receipt["etag"]
            key.bodies[key.etag] = blake3(body).hexdigest()
            key.versions.append(receipt["version"])
            key.hlcs.append(receipt["timestamp"]["hlc"])
            return dict(receipt)
        if answer.status_code not in (409, 503):
            key.problems.append(answer.text)
            return None
        threading.Event().wait(0.1)
    key.problems.append("not acknowledged in 100 attempts")
    return None


def check_receipt_is_true(gateway: httpx.Client) -> None:
    """With time servers the interval of a receipt contains true time, although no wall clock of the cluster does."""
    stamp = {"state": "no receipt"}
    for _ in range(100):
        before_ns = SystemHostClock().wall_ns()
        answer = gateway.put("/v1/files/default/timed", content=b"now")
        after_ns = SystemHostClock().wall_ns()
        # As all writes here: members were killed and come back, so a refusal is tried again.
        assert answer.is_success or answer.status_code == 503, answer.text
        stamp = answer.json().get("timestamp", stamp)
        if stamp["state"] == "SYNCED":
            break
        threading.Event().wait(0.1)
    assert stamp["state"] == "SYNCED", stamp
    assert unix_ns(stamp["earliest"]) <= after_ns
    assert unix_ns(stamp["latest"]) >= before_ns


def unix_ns(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1e6) * 1000
