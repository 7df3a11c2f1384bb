"""The audit trail of a whole cluster, with the commands of docs/operations.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from local_cluster.cluster import Cluster
from local_cluster.settings import PROJECT_ROOT
from tests.waiting import block_until


def run(act: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.gateway.tools.audit", act, *arguments]
    return subprocess.run(command, cwd=PROJECT_ROOT, timeout=120, capture_output=True, text=True, check=False)


def rows_of(path: Path, bucket: str) -> list[dict[str, Any]]:
    rows = [json.loads(line)["row"] for line in path.read_bytes().splitlines()[1:]]
    return [row for row in rows if row.get("bucket") == bucket]


def test_the_trail_of_a_cluster_is_exported_and_verified(
    cluster: Cluster, gateway: httpx.Client, bucket: str, tmp_path: Path
) -> None:
    """What two gateways changed is in one chain, which a file goes on with; and a changed file is found out."""
    path, file = tmp_path / "audit.jsonl", f"/v1/files/{bucket}/a/ü"
    at = ("--url", cluster.operations_url("gateway-1"), "--credential-file", str(cluster.layout.root_key))
    assert gateway.put(file, content=b"one").status_code == 201
    exported = run("export", *at, "--to", str(path))
    assert exported.returncode == 0, exported.stderr
    assert gateway.put(file, content=b"two", headers={"if-match": '"none"'}).status_code == 412
    assert gateway.delete(file).status_code == 204
    assert run("export", *at, "--to", str(path)).returncode == 0
    rows = rows_of(path, bucket)
    found = [(row["kind"], row["outcome"], row.get("key")) for row in rows]
    assert found[:2] == [("create_bucket", "ok", None), ("publish_file", "ok", "a/ü")]
    assert found[-1] == ("delete_file", "ok", "a/ü")
    key_id = cluster.root_key.partition(".")[0]
    assert {(row["access_key"], row["address"]) for row in rows} == {(key_id, "127.0.0.1")}
    for act in (run("verify", str(path)), run("verify-cluster", *at)):
        assert act.returncode == 0, act.stderr
        assert "rows follow each other" in act.stdout
    path.write_bytes(path.read_bytes().replace(b'"kind":"delete_file"', b'"kind":"delete_fils"'))
    changed = run("verify", str(path))
    assert changed.returncode == 1
    assert ": index " in changed.stderr


def test_what_a_gateway_refuses_is_in_its_log(cluster: Cluster) -> None:
    """Among its other lines, and in one chain with them."""
    log = cluster.layout.log_file("gateway-1")
    name = "/v1/files/default/nobody-may-read-this"
    assert httpx.get(f"{cluster.gateway_url}{name}", trust_env=False, timeout=30).status_code == 401

    def lines() -> list[dict[str, Any]]:
        found = [
            line for line in log.read_bytes().splitlines() if line.startswith(b'{"link":') and line.endswith(b"}}")
        ]
        return [json.loads(line)["row"] for line in found]

    block_until(lambda: any(row.get("path") == name for row in lines()), "the refusal is written")
    [row] = [row for row in lines() if row.get("path") == name]
    assert (row["event"], row["code"], row["address"]) == ("denied", "unauthenticated", "127.0.0.1")
    verified = run("verify-log", str(log))
    assert verified.returncode == 0, verified.stderr
