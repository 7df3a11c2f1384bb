"""The commands of docs/backup.md, in its order and in one shell, beside a backup that is killed and deletions during the copy."""

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local_cluster.cluster import Cluster
from local_cluster.settings import PROJECT_ROOT
from shared.contracts.chunks import HasRequest, HasResponse
from shared.peer_calls.http_client import PeerClient
from tests.free_ports import free_port_offset
from tests.integration.conftest import OVERRIDES
from tests.integration.test_operations_page import FENCE, Shell
from tests.waiting import block_until

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(400)]

PAGE = PROJECT_ROOT / "docs" / "backup.md"
BLOCKS = [text for _, text in FENCE.findall(PAGE.read_text(encoding="utf-8"))]
FORGETFUL = {
    "TRIVET_GC_GRACE_S": "2",
    "TRIVET_MAX_DOWNLOAD_AGE_S": "2",
    "TRIVET_CURSOR_RETENTION_S": "2",
    "TRIVET_CONDEMNED_RETENTION_S": "3600",
    "TRIVET_RECONCILE_INTERVAL_S": "0.5",
}
"""What is deleted is gone from the disks a few seconds later, unless something keeps it."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Not started."""
    found = Cluster(tmp_path / "local", free_port_offset(), OVERRIDES)
    yield found
    Cluster(found.layout.root, found.port_offset, OVERRIDES).kill_all()


@pytest.fixture
def environment(cluster: Cluster, well_cluster: Cluster) -> dict[str, str]:
    """Of the shell. The bucket is one of another cluster."""
    outer = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "TRIVET_"))}  # noqa: TID251
    return {
        **outer,
        **OVERRIDES["clock"],
        **FORGETFUL,
        "TRIVET_LOCAL_DIR": str(cluster.layout.root),
        "TRIVET_PORT_OFFSET": str(cluster.port_offset),
        "S3_ENDPOINT": well_cluster.s3_url,
        "S3_KEY": str(well_cluster.layout.root_key),
    }


def as_here(block: str) -> str:
    """`make up` and `make down` are these commands, after a look whether everything is installed."""
    return re.sub(
        r'^make (up|down)(?: NAMES="(.*)")?$', r".venv/bin/python -m local_cluster \1 \2", block, flags=re.MULTILINE
    )


def chunk_names(target: Path) -> set[str]:
    return {path.name for path in (target / "chunks").rglob("*") if path.is_file() and not path.name.startswith(".")}


def start_slowly(cluster: Cluster, target: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """`create`, at a pace at which it takes some seconds, with its first chunks copied."""
    members = ",".join(f"{member.id}={member.url}" for member in cluster.plan.members)
    before = len(chunk_names(target))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "services.consensus.backup",
            "create",
            str(target),
            "--mib-per-s",
            "3",
            "--parallel",
            "2",
        ],
        cwd=PROJECT_ROOT,
        env={
            **environment,
            "TRIVET_PEER_KEYS_FILE": str(cluster.layout.secrets / "peer-keys-operator"),
            "TRIVET_CONSENSUS_URLS": members,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    block_until(lambda: len(chunk_names(target)) > before or process.poll() is not None, "a chunk is copied")
    assert process.poll() is None, process.communicate()
    return process


def is_gone(cluster: Cluster, digest: str) -> bool:
    """Whether no storage node has the chunk."""

    async def ask() -> bool:
        question = HasRequest(digests=[digest])
        async with PeerClient(cluster.keys) as client:
            answers = [
                await client.call(cluster.peer(name), "POST", "/v1/chunks/has", HasResponse, body=question, timeout_s=5)
                for name in ("storage-1", "storage-2", "storage-3")
            ]
        await asyncio.sleep(0.3)  # between two looks, each of which is a sender of its own
        return not any(answer.present for answer in answers)

    return asyncio.run(ask())


@pytest.fixture
def shell(cluster: Cluster, environment: dict[str, str]) -> Iterator[Shell]:
    """In which the cluster was started."""
    found = Shell(environment, cluster.port_offset)
    try:
        found.run(as_here("make up"))
        yield found
    finally:
        found.close()


def back_up_and_be_killed(cluster: Cluster, target: Path, environment: dict[str, str]) -> int:
    """How many chunks it had copied. Its pin is ended: it would keep what the pin of the next run is to keep."""
    process = start_slowly(cluster, target, environment)
    process.kill()
    for mark in (target / "runs").iterdir():  # or `prune` waits half an hour for it
        mark.unlink()
    process.communicate()
    assert not (target / "snapshots").exists()
    with httpx.Client(base_url=cluster.operations_url("gateway-1"), headers=cluster.bearer, trust_env=False) as client:
        (pin,) = client.get("/v1/backups").json()["backups"]
        assert client.delete(f"/v1/backups/{pin['id']}").is_success
    return len(chunk_names(target))


def test_everything_comes_back(
    cluster: Cluster, shell: Shell, environment: dict[str, str], well_cluster: Cluster, seed: int
) -> None:
    """What was there when the backup began, what was deleted while it was copied included, in a cluster of empty disks."""
    draw = random.Random(seed)
    files = {f"/v1/files/default/{number}": draw.randbytes(200_000 + number) for number in range(60)}
    deleted = list(files)[::2]
    target = cluster.layout.root / "backup"
    with httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=30, trust_env=False) as gateway:
        digests = {path: gateway.put(path, content=body).json()["digest"] for path, body in files.items()}
        copied_before = back_up_and_be_killed(cluster, target, environment)
        assert 0 < copied_before < len(files)

        resumed = start_slowly(cluster, target, environment)
        for path in deleted:
            assert gateway.delete(path).is_success
        output, _ = resumed.communicate(timeout=60)
        assert resumed.returncode == 0, output
        counts = re.search(r"copied (\d+) chunks of \d+ bytes; (\d+) were there from before", output)
        assert counts is not None, output
        assert int(counts[2]) >= copied_before
        assert int(counts[1]) + int(counts[2]) == len(files) + 1, "and the first file, which `make up` puts"
        # Once nothing keeps them, this cluster does delete such chunks within seconds.
        block_until(lambda: is_gone(cluster, digests[deleted[0]]), "its chunks are deleted", within_s=60)

    with httpx.Client(base_url=well_cluster.gateway_url, headers=well_cluster.bearer, trust_env=False) as other:
        assert other.put("/v1/buckets/backups").is_success
    snapshot = min(path.name for path in (target / "snapshots").iterdir())
    printed = ""
    for block in map(as_here, BLOCKS):
        # The snapshot with the deleted files, which is not the newest any more.
        printed += shell.run(re.sub(r"backup (fetch|restore) ", rf"backup \1 --snapshot {snapshot} ", block))
    assert printed.count("copied 0 chunks") == 1, "the second backup to the folder has nothing to copy"
    assert "found whole by every node" in printed
    assert "put 0 replicas" in shell.run(f'backup restore --snapshot {snapshot} "$LOCAL/backup"')

    with httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=30, trust_env=False) as gateway:
        assert gateway.get("/v1/cluster").json()["cluster_id"] == "restored-cluster"
        for path, body in files.items():
            answer = gateway.get(path)
            assert (answer.status_code, answer.content == body) == (200, True), f"{path}: {answer.text[:200]}"
