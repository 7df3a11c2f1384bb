"""A real cluster that is looked at: scraped by a real Prometheus, its spans exported, a line for each request.

Every query of the alerts, the runbooks and the dashboard is asked of that Prometheus.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from local_cluster.cluster import Cluster
from local_cluster.settings import PROJECT_ROOT
from tests.chance import random_bytes
from tests.free_ports import free_port_offset
from tests.integration.clock.fake_ntp import FakeNtpServer
from tests.integration.observability.collector import Collector
from tests.integration.observability.drawing import draw
from tests.integration.observability.prometheus import FOLDER, Prometheus
from tests.log_lines import records
from tests.waiting import block_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's prometheus"),
]

DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
PANELS: dict[str, list[str]] = {
    panel["title"]: [target["expr"] for target in panel["targets"]]
    for path in DASHBOARDS
    for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]
    if panel["type"] != "row"
}
ALERTS: dict[str, str] = {
    rule["alert"]: rule["expr"]
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}
RUNBOOKS = (PROJECT_ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
RUNBOOK_QUERIES = [
    line
    for block in re.findall(r"^```promql\n(.*?)^```$", RUNBOOKS, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
METRIC = re.compile(r"\b(?:trivet|raft|metadata|clock|ntp|hlc|http|process)_\w+\b(?:\{[^}]*\})?|\bup\{[^}]*\}")
RATE_INTERVAL = "20s"
"""What Grafana would make of its variable: a few scrapes."""

EMPTY = {
    "trivet_background_failures_total": "nothing fails here; a task is counted from its first failure on",
    "trivet_storage_corrupt_total": "nothing rots here; a tier is counted from the first corrupt replica on",
    'http_requests_total{service="gateway", status="5xx"}': "no request fails here",
    'trivet_problems_total{service="gateway", code=~"overloaded|s3:SlowDown"}': "the gateway has room",
    "sum by (reason) (rate(trivet_storage_deleted_chunks_total[5m]))": "nothing is old enough to be deleted",
}
"""Queries that find nothing in this cluster, and why."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


@pytest.fixture(scope="module")
def cluster(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """With three time sources, so that the clock has something to show."""
    with ExitStack() as stack:
        servers = [stack.enter_context(FakeNtpServer()) for _ in range(3)]
        looked_at = {"TRIVET_REQUEST_LOG": "all", "TRIVET_OTLP_ENDPOINT": collector.url}
        settings = dict.fromkeys(("gateway", "storage", "consensus"), looked_at)
        settings["clock"] = {"TRIVET_NTP_SERVERS": ",".join(f"127.0.0.1:{server.port}" for server in servers)}
        found = Cluster(tmp_path_factory.mktemp("scraped"), free_port_offset(), settings)
        stack.callback(found.kill_all)
        asyncio.run(found.start())
        yield found


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """That has seen some seconds of requests, good and bad ones, with all nodes and with one of them away."""
    with (
        Prometheus(tmp_path_factory.mktemp("prometheus") / "one", cluster.port_offset) as scraper,
        httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=30, trust_env=False) as gateway,
    ):
        ask_for(3.0, gateway, cluster)
        cluster.kill("storage-3")
        ask_for(2.0, gateway, cluster)
        asyncio.run(cluster.start(["storage-3"]))
        ask_for(3.0, gateway, cluster)
        block_until(lambda: len(scraper.now("clock_offset_seconds")) == 3, "the clock asked its sources")
        yield scraper


def ask_for(seconds: float, gateway: httpx.Client, cluster: Cluster) -> None:
    """Requests of every kind, one after the other."""
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        for size in (1000, 2_000_000):
            path = f"/v1/files/default/{size}"
            assert gateway.put(path, content=random_bytes(size)).is_success
            assert gateway.get(path).is_success
            assert gateway.head(path).is_success
        assert gateway.delete("/v1/files/default/1000").is_success
        assert gateway.get("/v1/files/default").is_success
        assert gateway.get("/v1/files/default/none").status_code == 404
        assert gateway.get("/v1/files/default", headers={"authorization": "Bearer TVx.y"}).status_code == 401
        assert httpx.get(f"{cluster.s3_url}/default/2000000", trust_env=False).status_code == 403


def queries_of_panels() -> list[Any]:
    return [
        pytest.param(query.replace("$__rate_interval", RATE_INTERVAL), id=f"{title} {number}")
        for title, queries in PANELS.items()
        for number, query in enumerate(queries)
    ]


@pytest.mark.parametrize("query", [*queries_of_panels(), *RUNBOOK_QUERIES])
def test_queries_of_the_dashboard_and_the_runbooks_find_something(prometheus: Prometheus, query: str) -> None:
    """Each is understood, and has an answer here unless the list says why not."""
    assert bool(prometheus.now(query)) is (query not in EMPTY)


@pytest.mark.parametrize("name", ALERTS)
def test_alerts_look_at_metrics_that_exist(prometheus: Prometheus, name: str) -> None:
    """The query is understood, and whatever it looks at is there: an alert about nothing would rest for ever."""
    prometheus.now(ALERTS[name])
    selectors = set(METRIC.findall(ALERTS[name]))
    assert selectors
    found = {selector for selector in selectors if prometheus.now(selector)}
    assert found == {selector for selector in selectors if selector not in EMPTY}


def test_metrics_show_what_happened(prometheus: Prometheus) -> None:
    """Some values that are known here."""
    first = {
        query: min(prometheus.now(query).values())
        for query in (
            "sum(raft_elections_won_total)",
            "sum(raft_is_leader)",
            'sum(trivet_gateway_chunk_writes_total{outcome="complete"})',
            'sum(trivet_gateway_chunk_writes_total{outcome="short"})',
            'sum(trivet_problems_total{service="gateway", code="file_not_found"})',
            'sum(trivet_problems_total{code=~"s3:.*"})',
            "sum(raft_log_write_seconds_count)",
            "sum(trivet_ready)",
            "count(trivet_ready)",
        )
    }
    assert first["sum(raft_is_leader)"] == 1
    assert first["sum(trivet_ready)"] == first["count(trivet_ready)"] == len(prometheus.targets)
    assert min(first.values()) >= 1, first


def test_labels_are_bounded(prometheus: Prometheus) -> None:
    """No series for a file, a key or a client: the same requests again make no new ones."""
    before = prometheus.now('count({job="trivet"})')
    assert before[""] < 12_000
    assert not prometheus.now('{job="trivet", handler=~".*2000000.*"}')


def test_the_panels_can_be_drawn(prometheus: Prometheus, tmp_path: Path) -> None:
    """A picture of the dashboard, for people; where it is stands in the output of the test."""
    answers = {
        title: [prometheus.over(query.replace("$__rate_interval", RATE_INTERVAL), 20) for query in queries]
        for title, queries in PANELS.items()
    }
    picture = tmp_path / "dashboard.png"
    draw(answers, picture)
    print(f"the panels: {picture}")
    assert picture.stat().st_size > 50_000


@pytest.fixture(scope="module")
def gateway(cluster: Cluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=30, trust_env=False) as client:
        yield client


def request_lines(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """What a process wrote of its requests."""
    return [line for line in records(cluster.layout.log_file(name)) if line.get("event") == "request"]


PUTS = {
    "small": (999, "/v1/chunks/batch", "/v1/chunks/{digest}"),
    "large": (900_001, "/v1/chunks/{digest}", "/v1/chunks/{digest}"),
}
"""Size of the body, and how its chunk may come to a node."""


@pytest.mark.parametrize("kind", PUTS)
def test_one_put_has_one_id_in_the_logs_of_all_services(cluster: Cluster, gateway: httpx.Client, kind: str) -> None:
    """That of the gateway: the quorum of storage nodes and the leader have a line with it."""
    size, *handlers = PUTS[kind]  # a size that nobody else puts
    assert gateway.put(f"/v1/files/default/logged-{kind}", content=random_bytes(size)).is_success

    def puts() -> list[dict[str, Any]]:
        return [line for line in request_lines(cluster, "gateway-1") if line["received_bytes"] == size]

    block_until(puts, "the line is written, which follows the answer")
    (put,) = puts()
    assert (put["method"], put["status"], put["node"]) == ("PUT", 201, "gateway-1")
    (request,) = put["requests"]

    def handled(kind: str) -> dict[str, set[str]]:
        found = {
            name: {line["handler"] for line in request_lines(cluster, name) if request in line["requests"]}
            for name in cluster.names()
            if name.startswith(kind)
        }
        return {name: seen for name, seen in found.items() if seen}

    block_until(lambda: len(handled("storage")) >= 2, "the quorum has written theirs")
    assert all(seen <= set(handlers) for seen in handled("storage").values())
    block_until(
        lambda: any("/v1/proposals" in seen for seen in handled("consensus").values()), "the leader has written its own"
    )


def test_one_put_is_one_trace(collector: Collector, gateway: httpx.Client) -> None:
    """Under the span that the client names: the gateway's request, and below it what storage and consensus did for it."""
    trace, client = random_bytes(16).hex(), random_bytes(8).hex()
    named = {"traceparent": f"00-{trace}-{client}-01"}
    assert gateway.put("/v1/files/default/traced", content=random_bytes(900_000), headers=named).is_success

    def services() -> list[str]:
        return [span.service for span in collector.spans if span.trace == trace]

    block_until(
        lambda: services().count("trivet-storage") >= 2 and {"trivet-gateway", "trivet-consensus"} <= set(services()),
        "all services have exported their spans",
    )
    spans = [span for span in collector.spans if span.trace == trace]
    (root,) = (span for span in spans if span.service == "trivet-gateway")
    assert root.parent == client
    assert root.name == "PUT /v1/files/{bucket}/{key:any}"
    assert root.attributes["http.response.status_code"] == 201
    below = [span for span in spans if span is not root]
    assert {span.parent for span in below} == {root.id}
    assert {"PUT /v1/chunks/{digest}", "POST /v1/proposals"} <= {span.name for span in below}


def test_a_request_by_s3_is_traced_too(cluster: Cluster, collector: Collector) -> None:
    """Also one that is refused."""
    trace = random_bytes(16).hex()
    named = {"traceparent": f"00-{trace}-{random_bytes(8).hex()}-01"}
    assert httpx.get(f"{cluster.s3_url}/default/x", headers=named, trust_env=False).status_code == 403
    block_until(lambda: any(span.trace == trace for span in collector.spans), "the span is exported")
    assert [span.name for span in collector.spans if span.trace == trace] == ["GET s3:GetObject"]
