"""D5, D12, D15 and D16 as clients see them: one of three storage nodes has a sick disk, and no request fails for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from local_cluster.cluster import Cluster
from shared.units import KIB, MIB
from tests.faults.disk.file_load import FileLoad
from tests.faults.tools.loop_disk import LoopDisk
from tests.faults.tools.mounts import Mounts
from tests.faults.tools.needs import require
from tests.faults.tools.strace import EVERY_READ, Attached, Injection
from tests.free_ports import free_port_offset

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(600)]

_SICK = "storage-2"
_SIZES_BYTES = (20, 10 * KIB, 300 * KIB, MIB + 1)
_DISK_BYTES = 512 * MIB


@dataclass
class Ward:
    """A cluster one of whose nodes keeps its data on a disk of its own."""

    cluster: Cluster
    disk: LoopDisk

    def heal(self) -> None:
        """The node gets a sound disk with what is on this one."""
        self.cluster.kill_all([_SICK])
        self.disk.restore_power()
        (self.disk.folder / "ballast").unlink(missing_ok=True)
        asyncio.run(self.cluster.start(timeout_s=120))

    def reasons(self) -> list[str]:
        return self._readiness().get("reasons", [])

    def is_called_slow(self) -> bool:
        return any("slow" in reason for reason in self._readiness().get("degraded", []))

    def _readiness(self) -> dict[str, list[str]]:
        return httpx.get(f"{self.cluster.operations_url(_SICK)}/readyz", timeout=10).json()


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    require("loop disks")
    folder = tmp_path_factory.mktemp("ward")
    with Mounts() as mounts:
        disk = mounts.loop_disk(_DISK_BYTES, mount_point=folder / "data" / _SICK)
        cluster = Cluster(folder, free_port_offset(), {"clock": {"TRIVET_NTP_SERVERS": "127.0.0.1:9"}})
        mounts.before_removal(cluster.kill_all)
        asyncio.run(cluster.start(timeout_s=120))
        yield Ward(cluster, disk)


@pytest.fixture
def load(ward, seed) -> Iterator[FileLoad]:
    """Clients of a healthy cluster; what they were promised is checked when the node is well again."""
    ward.heal()
    bucket = f"ward-{seed}"
    url = f"{ward.cluster.gateway_url}/v1/buckets/{bucket}"
    assert httpx.put(url, headers=ward.cluster.bearer, timeout=30).status_code == 201
    made = FileLoad(ward.cluster, bucket, seed, sizes_bytes=_SIZES_BYTES)
    with made:
        made.wait_for_more(60)
    yield made
    made.check()
    ward.heal()
    made.check()


def test_a_failed_sync_of_one_node_fails_no_request(ward, load, tmp_path):
    """Its fsyncs give EIO once: it leaves service for good, the others take the writes."""
    require("strace")
    with Attached(ward.cluster.pid(_SICK), Injection("fsync,fdatasync", "error=EIO", "1"), tmp_path / "trace"), load:
        load.wait_for_more(120)
    assert load.failures == []
    assert any("failed" in reason for reason in ward.reasons())


def test_a_full_disk_of_one_node_fails_no_request(ward, load):
    """It answers 507, two others have the chunk."""
    fill_to_the_reserve(ward.disk.folder / "ballast")
    with load:
        load.wait_for_more(120)
    assert load.failures == []


def fill_to_the_reserve(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(MIB))
        except OSError:
            return


def test_a_disk_that_turns_read_only_fails_no_request(ward, load):
    """It serves what it has and takes nothing; /readyz says so."""
    with load:
        load.wait_for_more(20)
        ward.disk.become_read_only()
        load.wait_for_more(120)
        # A small chunk goes to disk a second after it was acknowledged.
        give_up_at = time.monotonic() + 30
        while not ward.reasons():
            assert time.monotonic() < give_up_at, "the node calls itself ready"
            time.sleep(0.1)
    assert load.failures == []


def test_a_replica_that_cannot_be_read_is_served_by_a_peer(ward, load, tmp_path):
    """EIO for every read of the node: its peers answer, byte for byte."""
    require("strace")
    with Attached(ward.cluster.pid(_SICK), Injection(EVERY_READ, "error=EIO", paths=chunks_of(ward)), tmp_path / "t"):
        load.check()
        with load:
            load.wait_for_more(60)
    assert load.failures == []


def chunks_of(ward: Ward) -> list[Path]:
    found = [path for path in (ward.disk.folder / "chunks").glob("*/*") if path.is_file()]
    assert found, "the node has no chunk files, so nothing would be tested"
    return [*found[:400], ward.disk.folder / "catalog.sqlite"]


def test_a_slow_disk_of_one_node_does_not_slow_writes(ward, load, tmp_path):
    """200 ms for each sync of one node: W = 2 of 3 are met by the others, and the node says within 30 s that it is slow."""
    require("strace")
    healthy_since_s = time.monotonic()
    with load:
        load.wait_for_more(200)
    sick_since_s = time.monotonic()
    slow = Injection("fsync,fdatasync", "delay_enter=200000")
    with Attached(ward.cluster.pid(_SICK), slow, tmp_path / "trace"):
        sick_since_s = time.monotonic()
        with load:
            load.wait_for_more(200)
            while not ward.is_called_slow():
                assert time.monotonic() - sick_since_s < 30, "nobody says that the disk is slow"
                time.sleep(0.2)
        print(f"called slow within {time.monotonic() - sick_since_s:.1f} s")
    healthy_s, sick_s = (
        load.p99_s("PUT", since_s, until_s)
        for since_s, until_s in ((healthy_since_s, sick_since_s), (sick_since_s, time.monotonic()))
    )
    print(f"PUT p99 {1000 * healthy_s:.0f} ms healthy, {1000 * sick_s:.0f} ms with a slow node")
    assert load.failures == []
    # On a busy machine a p99 of some hundred requests is a matter of luck; a waiting writer would show seconds.
    assert sick_s <= max(2 * healthy_s, 1.0)
