"""Large files against a real cluster: a node dies meanwhile, the program is killed, and it goes on."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import trivet
from tests.chance import random_bytes
from tests.waiting import block_until
from trivet.transfers.journal import Journal

pytestmark = pytest.mark.cluster
MIB = 1 << 20
_PART_BYTES = 5 * MIB

_TRANSFER = """
import sys, time, trivet
direction, url, key_file, path, stop_at_bytes = sys.argv[1:]
def told(progress):
    if progress.done_bytes >= int(stop_at_bytes):
        print("stopped", flush=True)
        time.sleep(3600)
with trivet.Client(url, key_file) as store:
    if direction == "up":
        print(store.upload_file("default", "killed", path, part_size_bytes=5 << 20, parallel=2, on_progress=told).etag)
    else:
        store.download_file("default", "large", path, parallel=2, on_progress=told)
"""


@pytest.fixture
def store(cluster, tmp_path, monkeypatch) -> Iterator[trivet.Client]:
    """A client with the root key, and a state folder of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with trivet.Client(cluster.gateway_url, str(cluster.layout.root_key)) as client:
        yield client


def _start_and_kill(cluster, direction: str, path: Path, stop_at_bytes: int) -> None:
    """A program that stands still once it has so many bytes, and is killed there. The gateway has done what it was sent."""
    arguments = [direction, cluster.gateway_url, str(cluster.layout.root_key), str(path), str(stop_at_bytes)]
    with subprocess.Popen([sys.executable, "-c", _TRANSFER, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stopped\n"
        process.send_signal(signal.SIGKILL)
    block_until(lambda: _transfers_under_way(cluster) == 0, "the gateway has done what it was sent")


def _transfers_under_way(cluster) -> float:
    metrics = httpx.get(f"{cluster.operations_url('gateway-1')}/metrics", trust_env=False, timeout=30).text
    (value,) = [line.split()[1] for line in metrics.splitlines() if line.startswith("trivet_gateway_transfers ")]
    return float(value)


def test_a_killed_upload_goes_on(cluster, store, tmp_path) -> None:
    """The next program sends what is missing, and no part twice."""
    source = tmp_path / "source"
    source.write_bytes(random_bytes(5 * _PART_BYTES + 17))
    _start_and_kill(cluster, "up", source, 3 * _PART_BYTES)
    (journal,) = (tmp_path / "state").rglob("*.journal")
    (begun,) = [each for each in store.uploads("default") if each.key == "killed"]
    durable = {part.number: part.part for part in store.upload(begun.upload_id).parts}
    assert durable

    told = []
    store.upload_file("default", "killed", source, part_size_bytes=_PART_BYTES, on_progress=told.append)

    assert store.get("default", "killed") == source.read_bytes()
    assert told[0].resumed_bytes == len(durable) * _PART_BYTES
    assert not journal.exists()
    assert [each for each in store.uploads("default") if each.key == "killed"] == []


def test_a_killed_download_goes_on(cluster, store, tmp_path) -> None:
    """The target appears when all is there, and what was there is not fetched again."""
    data = random_bytes(40 * MIB)
    store.put("default", "large", data)
    target = tmp_path / "target"
    _start_and_kill(cluster, "down", target, 33 * MIB)
    assert not target.exists()

    told = []
    info = store.download_file("default", "large", target, on_progress=told.append)

    assert (target.read_bytes(), info.size_bytes) == (data, len(data))
    assert told[0].resumed_bytes >= 16 * MIB
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_remembered_receipt_is_of_the_file_that_is_there(store, tmp_path, monkeypatch) -> None:
    """A program that died behind its completion hears the same again; once the file is gone, it is sent anew."""
    source = tmp_path / "source"
    source.write_bytes(random_bytes(_PART_BYTES + 17))

    def upload() -> trivet.Receipt:
        return store.upload_file("default", "completed", source, part_size_bytes=_PART_BYTES)

    with monkeypatch.context() as dying:
        dying.setattr(Journal, "remove", lambda _: None)
        first = upload()
        assert upload().version == first.version
    store.delete("default", "completed")
    assert upload().version > first.version
    assert store.get("default", "completed") == source.read_bytes()


def test_small_and_empty_files_and_those_with_tags(store, tmp_path) -> None:
    """In one request, or in one part."""
    for name, data in (("small", b"data"), ("empty", b"")):
        (tmp_path / name).write_bytes(data)
        assert store.upload_file("default", name, tmp_path / name).digest is not None
        assert store.upload_file("default", f"{name}-tagged", tmp_path / name, tags={"a": "b"}).digest is None
        assert store.tags("default", f"{name}-tagged").tags == {"a": "b"}
        for key in (name, f"{name}-tagged"):
            store.download_file("default", key, tmp_path / "out")
            assert (tmp_path / "out").read_bytes() == data
    with pytest.raises(trivet.FileNotFound):
        store.download_file("default", "nothing", tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "out", "small", "state"]


def _outlive_a_node(cluster, store, tmp_path, size_bytes: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        for _ in range(0, size_bytes, 16 * MIB):
            file.write(random_bytes(min(size_bytes, 16 * MIB)))
    victim = "storage-2"

    def kill_in_the_middle(progress: trivet.Progress) -> None:
        if progress.done_bytes > size_bytes // 3 and cluster.pid(victim) is not None:
            cluster.kill(victim)

    store.upload_file("default", "outlives", source, part_size_bytes=_PART_BYTES, on_progress=kill_in_the_middle)
    assert cluster.pid(victim) is None
    store.download_file("default", "outlives", target)
    assert subprocess.run(["cmp", source, target], check=False).returncode == 0
    asyncio.run(cluster.start())
    block_until(lambda: cluster.pid(victim) is not None, "the node is back")


def test_an_upload_outlives_a_storage_node(cluster, store, tmp_path) -> None:
    """And what was stored is read without it."""
    _outlive_a_node(cluster, store, tmp_path, 48 * MIB)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_gibibyte_outlives_a_storage_node_and_a_killed_program(cluster, store, tmp_path) -> None:
    """Both, at the size that people have."""
    _outlive_a_node(cluster, store, tmp_path, 1 << 30)
    source = tmp_path / "source"
    _start_and_kill(cluster, "up", source, 400 * MIB)
    store.upload_file("default", "killed", source, part_size_bytes=_PART_BYTES)
    store.download_file("default", "killed", tmp_path / "target")
    assert subprocess.run(["cmp", source, tmp_path / "target"], check=False).returncode == 0


def test_a_gateway_that_is_restarted_is_waited_for(cluster, store) -> None:
    """Calls are repeated, and each change happens once."""
    etag = store.put("default", "a", b"before").etag
    cluster.kill("gateway-1")
    starting = threading.Thread(target=lambda: asyncio.run(cluster.start()))
    starting.start()
    patience = trivet.RetryPolicy(attempts=100, max_delay_s=1.0)
    with trivet.Client(store.url, str(cluster.layout.root_key), timeout_s=60, retry=patience) as patient:
        try:
            assert patient.put("default", "a", b"after", if_match=etag).size_bytes == 5
            assert patient.get("default", "a") == b"after"
        finally:
            starting.join()


def test_the_program_above_says_what_it_does(tmp_path) -> None:
    """Else killing it would prove nothing: without a store it fails."""
    command = [sys.executable, "-c", _TRANSFER, "up", "http://127.0.0.1:9", "nothing", str(tmp_path), "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "ConfigError" in done.stderr) == (1, True)
