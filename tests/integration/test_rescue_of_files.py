"""A whole cluster loses the majority of its consensus members for good, and its files are served again by a new one."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from local_cluster.cluster import Cluster
from local_cluster.plan import Kind
from services.consensus.rescue.__main__ import ACCEPT_LOSS
from services.consensus.rescue.new_cluster import first_index
from shared.access_keys import bearer_of
from shared.links import make_link
from tests.free_ports import free_port_offset
from tests.integration.conftest import OVERRIDES
from tests.integration.second_gateway import SecondGateway

NEW_ID = "rescued-cluster"

# Clusters start and stop several times here, and the machine may be busy.
pytestmark = pytest.mark.timeout(400)
SIZES = (0, 1000, 200_000, 3_000_000)


def run(*arguments: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=dict(os.environ) | (environment or {}),  # noqa: TID251 a child like any other
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


class Reader:
    """A key that a gateway of the lost cluster drew for an identity that may read."""

    def __init__(self, cluster: Cluster) -> None:
        with httpx.Client(
            base_url=cluster.operations_url("gateway-1"), headers=cluster.bearer, timeout=30, trust_env=False
        ) as operations:
            scope = {"actions": ["read"], "bucket": "default"}
            made = operations.post("/v1/identities", json={"name": "reader", "scopes": [scope]})
            assert made.status_code == 201, made.text
            key = operations.post(f"/v1/identities/{made.json()['id']}/keys", json={})
            assert key.status_code == 201, key.text
        self._key, self._secret = key.json()["id"], key.json()["secret"]

    def check_that_it_opens(self, cluster: Cluster, name: str, body: bytes) -> None:
        """By itself and by a link, for which a gateway unseals its secret; and it may do no more than before."""
        path = f"/v1/files/default/{name}"
        expires_s = int(datetime.now(UTC).timestamp()) + 600
        link = make_link(self._key, self._secret, method="GET", bucket="default", key=name, expires_s=expires_s)
        bearer = {"authorization": bearer_of(f"{self._key}.{self._secret}")}
        with httpx.Client(base_url=cluster.gateway_url, timeout=30, trust_env=False) as gateway:
            assert gateway.get(path, headers=bearer).content == body
            assert gateway.get(link).content == body
            assert gateway.delete(path, headers=bearer).status_code == 403


def is_not_misled_by_the_old_cluster(kept: SecondGateway, new: Cluster) -> None:
    """A gateway that ran on, with what it remembers of the lost cluster: its first upload is in the bucket of the new one."""
    kept.wait_until_ready()
    with (
        httpx.Client(base_url=kept.url, headers=kept.bearer, timeout=30, trust_env=False) as old_gateway,
        httpx.Client(base_url=new.gateway_url, headers=new.bearer, timeout=30, trust_env=False) as gateway,
    ):
        gateway.delete("/v1/files/photos/x")
        gateway.delete("/v1/buckets/photos")
        assert gateway.put("/v1/buckets/photos").status_code == 201
        receipt = old_gateway.put("/v1/files/photos/y", content=b"new")
        assert receipt.status_code == 201, receipt.text
        assert [file["key"] for file in gateway.get("/v1/files/photos").json()["files"]] == ["y"]
        assert gateway.get("/v1/files/photos/y").content == b"new"


def test_files_are_served_again_after_a_majority_was_lost(tmp_path: Path, seed: int, stack: ExitStack) -> None:
    """Every byte that was acknowledged, from the same storage nodes; new files go in; versions go on far above the old ones."""
    draw = random.Random(seed)
    files = {f"/v1/files/default/file-{size}": draw.randbytes(size) for size in SIZES}
    old = Cluster(tmp_path, free_port_offset(), OVERRIDES)
    try:
        asyncio.run(old.start())
        kept = stack.enter_context(SecondGateway(old, tmp_path / "gateway-2.log"))
        with httpx.Client(base_url=kept.url, headers=kept.bearer, timeout=30, trust_env=False) as gateway:
            assert gateway.put("/v1/buckets/photos").status_code == 201
            assert gateway.put("/v1/files/photos/x", content=b"old").status_code == 201
        with httpx.Client(base_url=old.gateway_url, headers=old.bearer, timeout=30, trust_env=False) as gateway:
            versions = [gateway.put(path, content=body).json()["version"] for path, body in files.items()]
        reader = Reader(old)
        for spec in old.plan.of_kind(Kind.CONSENSUS):
            old.kill(spec.name)
        asyncio.run(old.stop())
        data = tmp_path / "data"
        for name in ("consensus-1", "consensus-2"):
            shutil.rmtree(data / name)
        survivor = (data / "consensus-3").rename(tmp_path / "survivor")
        members = ",".join(f"{member.id}={member.url}={member.peer_address}" for member in old.plan.members)
        target = str(data / "consensus-1")
        rescue = ("services.consensus.rescue", "new-cluster", "--to", target, "--cluster-id", NEW_ID)
        run(*rescue, "--members", members, ACCEPT_LOSS, str(survivor))

        asyncio.run(old.start([spec.name for spec in old.plan.of_kind(Kind.REDIS)]))
        for spec in old.plan.of_kind(Kind.STORAGE):
            environment = dict(spec.environment) | {"TRIVET_CLUSTER_ID": NEW_ID}
            for _ in range(2):  # doing it again changes nothing
                run("services.storage.adopt", old.plan.cluster_id, environment=environment)
        shutil.rmtree(data / "clock-1")
        (tmp_path / "secrets" / "cluster-id").write_text(NEW_ID)
    finally:
        old.kill_all()
    new = Cluster(tmp_path, old.port_offset, OVERRIDES)
    try:
        asyncio.run(new.start())
        is_not_misled_by_the_old_cluster(kept, new)
        reader.check_that_it_opens(new, "file-1000", files["/v1/files/default/file-1000"])
        with httpx.Client(base_url=new.gateway_url, headers=new.bearer, timeout=30, trust_env=False) as gateway:
            for (path, body), version in zip(files.items(), versions, strict=True):
                answer = gateway.get(path)
                assert answer.status_code == 200, answer.text
                assert answer.content == body
                assert int(answer.headers["x-trivet-version"]) == version
            receipt = gateway.put("/v1/files/default/new", content=b"new").json()
            assert receipt["version"] > first_index(max(versions))
            assert gateway.get("/v1/files/default/new").content == b"new"
            assert gateway.get("/v1/cluster").json()["members"]
    finally:
        new.kill_all()
