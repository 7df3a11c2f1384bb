"""A cluster of docker-compose.yml under a real engine: it starts, keeps its limits and its secrets, and survives what it must.

The tests follow each other on one cluster.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chance import random_bytes
from tests.containers.conftest import FILES, OPERATIONS, Deployment
from tests.containers.load import requests_under_way
from tests.waiting import block_until

pytestmark = [pytest.mark.containers, pytest.mark.root, pytest.mark.timeout(900)]

SIZES = (1000, 3_000_000, 20_000_000)
SERVICES = (
    "clock-1",
    *(f"{kind}-{n}" for kind in ("consensus", "storage", "redis") for n in (1, 2, 3)),
    "gateway-1",
    "gateway-2",
    "proxy",
)
UP_LIMIT_S = 60.0
PROBES_LIMIT_CORES = 0.1
IDLE_S = 10.0


@pytest.fixture(scope="module")
def stored(cluster: Deployment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files that were stored at the beginning."""
    folder = tmp_path_factory.mktemp("files")
    files = {f"first-{size}": random_bytes(size) for size in SIZES}
    for name, data in files.items():
        (folder / name).write_bytes(data)
        cluster.curl("-T", str(folder / name), f"{FILES}/{name}")
    return files


def fetch(cluster: Deployment, name: str) -> str:
    """The digest of the file as it is read."""
    line = cluster.run(
        "sh", "-ec", f"curl -K k8s/secrets/curl.conf --fail --silent --show-error {FILES}/{name} | sha256sum"
    )
    return line.split()[0]


def all_is_there(cluster: Deployment, stored: dict[str, bytes]) -> None:
    for name, data in stored.items():
        assert fetch(cluster, name) == hashlib.sha256(data).hexdigest()


def is_healthy(cluster: Deployment, names: tuple[str, ...] = SERVICES) -> bool:
    return all(cluster.inspect(name)["State"].get("Health", {}).get("Status") == "healthy" for name in names)


def main_pid(cluster: Deployment, name: str) -> int:
    return int(cluster.inspect(name)["State"]["Pid"])


def leader(cluster: Deployment) -> str:
    return str(yaml.safe_load(cluster.curl(f"{OPERATIONS}/v1/cluster"))["leader"])


def test_forgotten_secrets_are_named_and_nothing_is_made(deployment) -> None:
    """Compose says what to do before it makes a network or a volume."""
    variables = deployment.checkout / ".env"
    variables.rename(variables.with_name("env-aside"))
    try:
        with pytest.raises(AssertionError, match="make secrets"):
            deployment.compose("up", "--detach", "--wait")
    finally:
        variables.with_name("env-aside").rename(variables)
    assert deployment.engine.run("docker", "volume", "ls", "--quiet") == ""
    assert "trivet" not in deployment.engine.run("docker", "network", "ls", "--format", "{{.Name}}")


def test_the_cluster_is_up_within_a_minute_and_up_again_changes_nothing(cluster) -> None:
    """`up --wait` ends well although one of its containers is a task that is over."""
    print(f"up --wait took {cluster.up_s:.0f} s at a load of {os.getloadavg()[0]:.1f}")
    assert cluster.up_s <= UP_LIMIT_S
    before = {name: cluster.inspect(name)["Id"] for name in SERVICES}
    cluster.compose("up", "--detach", "--wait")
    assert {name: cluster.inspect(name)["Id"] for name in SERVICES} == before


def test_files_go_in_and_out_through_one_port(cluster, stored) -> None:
    """S3 is spoken on the other."""
    all_is_there(cluster, stored)
    answer = cluster.run("curl", "--silent", "http://127.0.0.1:9000/default")
    assert "<Code>AccessDenied</Code>" in answer


def test_every_container_is_confined(cluster) -> None:
    """Memory, processes and logs have limits; the root is read-only, and no capability is left."""
    for name in (*SERVICES, "initialise"):
        host = cluster.inspect(name)["HostConfig"]
        assert 0 < host["Memory"] <= 1 << 30, name
        assert host["PidsLimit"] == 256, name
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}, name
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert "size=64m" in host["Tmpfs"]["/tmp"], name


def test_secrets_are_for_their_process_alone(cluster) -> None:
    """No other user of this machine reads them, and no container has those of others."""
    secrets = cluster.checkout / "k8s" / "secrets"
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert not [path.name for path in secrets.iterdir() if path.stat().st_mode & 0o007]
    assert cluster.run("docker", "exec", "trivet-gateway-1-1", "stat", "-Lc", "%a", "/run/secrets/root-key") == "440\n"
    with pytest.raises(AssertionError, match="No such file"):
        cluster.run("docker", "exec", "trivet-storage-1-1", "cat", "/run/secrets/root-key")


def test_memory_stays_within_the_limits_under_load(cluster, stored, tmp_path) -> None:
    """Nothing was killed for its memory while large files went in and out at once."""
    (tmp_path / "large").write_bytes(random_bytes(64 << 20))
    curl = "curl -K k8s/secrets/curl.conf -f -s"
    transfers = f"{curl} -T {tmp_path}/large {FILES}/large-$n && {curl} -o /dev/null {FILES}/large-$n"
    cluster.run("bash", "-ec", f"for n in 1 2 3; do ({transfers}) & done; for job in $(jobs -p); do wait $job; done")
    print(cluster.engine.run("docker", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"))
    for name in SERVICES:
        state = cluster.inspect(name)
        assert not state["State"]["OOMKilled"], name
        assert state["RestartCount"] == 0, name


def test_an_idle_cluster_costs_the_engine_little(cluster) -> None:
    """Health checks are all that it does."""
    block_until(lambda: is_healthy(cluster), "all are healthy", within_s=60)
    before, began_s = cluster.engine.cpu_s(), time.monotonic()
    threading.Event().wait(IDLE_S)
    took_s = time.monotonic() - began_s
    cores = {name: (now - before[name]) / took_s for name, now in cluster.engine.cpu_s().items()}
    print(
        f"idle, in cores: {cores['engine']:.3f} for health checks in the engine, {cores['all']:.3f} with all processes"
    )
    assert cores["engine"] <= PROBES_LIMIT_CORES


def test_kills_of_a_storage_node_a_redis_the_leader_and_a_gateway_at_once(cluster, stored) -> None:
    """The engine starts them again, and nothing that was stored is lost; what is asked meanwhile is answered."""
    killed = ("storage-1", "redis-2", leader(cluster), "gateway-1")
    with requests_under_way(cluster) as counts:
        for name in killed:
            # Not `docker kill`, which is an operator's wish that it stays down.
            os.kill(main_pid(cluster, name), signal.SIGKILL)
        block_until(
            lambda: all(cluster.inspect(name)["RestartCount"] for name in killed), "all were started again", within_s=60
        )
        block_until(lambda: is_healthy(cluster), "all are healthy", within_s=90)
    assert counts["requests"] > 5
    assert counts["failed"] <= 1, "while a leader is elected a request may wait longer than one repetition"
    all_is_there(cluster, stored)


def test_a_gateway_is_restarted_without_a_failed_request(cluster) -> None:
    """The proxy sends everything to the other one."""
    with requests_under_way(cluster) as counts:
        for name in ("gateway-1", "gateway-2"):
            cluster.compose("restart", name)
            block_until(lambda name=name: is_healthy(cluster, (name,)), f"{name} is healthy", within_s=60)
    assert counts["requests"] > 5
    assert counts["failed"] == 0


def test_down_and_up_keep_every_file(cluster, stored) -> None:
    """New containers with the same volumes; every process ends by itself within its grace."""
    cluster.compose("stop")
    ends = {name: cluster.inspect(name)["State"]["ExitCode"] for name in SERVICES}
    assert set(ends.values()) == {0}, ends
    cluster.compose("down")
    cluster.compose("up", "--detach", "--wait")
    all_is_there(cluster, stored)
    shown = cluster.compose("logs", "--no-log-prefix", "initialise")
    lines = [line for line in shown.replace("\x1b[2K", "").splitlines() if line]
    assert all(json.loads(line)["node"] == "initialise" for line in lines)
    assert len(lines) < 10


def test_prometheus_scrapes_every_process_and_takes_the_alerts(cluster) -> None:
    """With the profile `monitoring`; Grafana's image cannot be had here, and is not started."""
    cluster.compose("up", "--detach", "--no-deps", "prometheus")

    def ask(what: str) -> Any:
        script = f"curl --silent --fail http://127.0.0.1:9090/api/v1/{what} || echo '{{}}'"
        return json.loads(cluster.engine.run("sh", "-ec", script)).get("data", {})

    def health() -> dict[str, str]:
        return {target["scrapeUrl"]: target["health"] for target in ask("targets").get("activeTargets", [])}

    block_until(lambda: health() and set(health().values()) == {"up"}, "all targets are up", within_s=60)
    assert len(health()) == 9
    rules = yaml.safe_load((cluster.checkout / "observability" / "alerts.yaml").read_text())
    assert {group["name"] for group in ask("rules")["groups"]} == {group["name"] for group in rules["groups"]}


def test_nothing_of_a_secret_is_in_a_log_or_a_command_line(cluster) -> None:
    """Of any container."""
    shown = cluster.compose("logs") + "".join(
        Path(f"/proc/{main_pid(cluster, name)}/cmdline").read_bytes().decode() for name in SERVICES
    )
    for path in (cluster.checkout / "k8s" / "secrets").iterdir():
        for word in path.read_text().split():
            assert len(word) < 32 or word not in shown, path.name
