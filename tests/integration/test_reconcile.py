"""Storage nodes come to hold what they should, by themselves, as real processes: after a kill, a wipe, a deletion, a drain."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from blake3 import blake3

from local_cluster.cluster import Cluster
from local_cluster.plan import Shape
from shared.contracts.access import BY_SYSTEM
from shared.contracts.chunks import InventoryPage, NodeStatus
from shared.contracts.cluster import NodeState
from shared.contracts.metadata import DrainNode, Proposal, ProposalBatch, SetNodeState
from shared.contracts.reconcile import ReconcileReport, VerifyReport, VerifyState
from shared.contracts.time import ClockState, Stamp
from shared.errors import ConflictError, NotLeaderError, TrivetError
from shared.peer_calls.http_client import PeerClient, proved_by_name
from shared.roles import Role
from shared.units import KIB, MIB
from tests.chance import random_bytes
from tests.free_ports import free_port_offset
from tests.integration.conftest import OVERRIDES
from tests.waiting import block_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

DEADLINE_S = 90.0
NODES = ("storage-1", "storage-2", "storage-3", "storage-4")
N = 3
SHORT = {
    **OVERRIDES,
    "consensus": {
        "TRIVET_HEARTBEAT_GRACE_S": "6",
        "TRIVET_GC_GRACE_S": "3",
        "TRIVET_MAX_DOWNLOAD_AGE_S": "3",
        "TRIVET_CURSOR_RETENTION_S": "2",
        "TRIVET_CONDEMNED_RETENTION_S": "3600",
    },
    "storage": {
        "TRIVET_HEARTBEAT_INTERVAL_S": "1",
        "TRIVET_HEARTBEAT_RETRY_BASE_S": "0.5",
        "TRIVET_GC_GRACE_S": "3",
        "TRIVET_RECONCILE_INTERVAL_S": "0.5",
    },
}

ResultT = TypeVar("ResultT")


class Bench:
    """A cluster, its public API, and questions to its nodes."""

    def __init__(self, folder: Path, nodes: int, overrides: dict[str, dict[str, str]]) -> None:
        self.cluster = Cluster(folder, free_port_offset(), overrides, Shape(storage_nodes=nodes))
        self.nodes = NODES[:nodes]
        self.http = httpx.Client()
        self._runner = asyncio.Runner()
        self._peers: PeerClient | None = None
        """One for all questions: a node remembers a thousand senders, and then refuses new ones."""

    def start(self) -> None:
        self._runner.run(self.cluster.start())
        if self._peers is None:
            self._peers = self._runner.run(PeerClient(self.cluster.keys).__aenter__())
        print(f"cluster in {self.cluster.layout.root}, gateway {self.cluster.gateway_url}")
        self.http.close()
        self.http = httpx.Client(
            base_url=self.cluster.gateway_url, headers=self.cluster.bearer, timeout=60, trust_env=False
        )
        block_until(
            lambda: all(self.report(node) is not None for node in self.nodes), "every node has listed", DEADLINE_S
        )

    def stop(self) -> None:
        self.http.close()
        if self._peers is not None:
            self._runner.run(self._peers.__aexit__(None, None, None))
        self._runner.close()
        self.cluster.kill_all()

    def put(self, key: str, body: bytes) -> set[str]:
        """Store a file; the digests of its chunks."""

        def is_stored() -> bool:
            return self.http.put(f"/v1/files/default/{key}", content=body).status_code in {200, 201}

        block_until(is_stored, f"{key} is stored", DEADLINE_S)
        return {blake3(body[start : start + MIB]).hexdigest() for start in range(0, len(body), MIB)}

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        return asyncio.run(work)

    def call(self, node: str, method: str, path: str) -> bytes:
        async def ask() -> bytes:
            assert self._peers is not None, "the cluster was not started"
            is_chunk = method == "GET" and path.startswith("/v1/chunks/")
            answer = await self._peers.request(
                self.cluster.peer(node), method, path, timeout_s=10, covered=proved_by_name if is_chunk else None
            )
            return bytes(answer.content)

        return self._runner.run(ask())

    def held(self, node: str) -> set[str]:
        """All that the node holds."""
        found: set[str] = set()
        after = ""
        while True:
            page = InventoryPage.model_validate_json(self.call(node, "GET", f"/v1/chunks?after={after}"))
            found |= {chunk.digest for chunk in page.chunks}
            if page.next_after is None:
                return found
            after = page.next_after

    def counts(self, digests: Iterable[str], nodes: Iterable[str] | None = None) -> Counter[int]:
        """How many of `digests` are on how many nodes."""
        held = [self.held(node) for node in nodes or self.nodes]
        return Counter(sum(digest in found for found in held) for digest in digests)

    def report(self, node: str) -> ReconcileReport | None:
        try:
            return NodeStatus.parse_answer(self.call(node, "GET", "/v1/status")).reconcile
        except TrivetError:
            return None

    def verify(self, node: str, method: str = "GET") -> VerifyReport:
        return VerifyReport.parse_answer(self.call(node, method, "/v1/verify"))

    def propose(self, command: Any) -> None:
        """As a gateway does for an operator."""
        batch = ProposalBatch(
            proposals=[Proposal(request_id=random_bytes(16).hex(), requester=BY_SYSTEM, command=command)]
        )

        async def ask() -> None:
            async with PeerClient(self.cluster.keys_of(Role.GATEWAY)) as client, asyncio.timeout(DEADLINE_S):
                while True:
                    for member in ("consensus-1", "consensus-2", "consensus-3"):
                        try:
                            answer = await client.request(
                                self.cluster.peer(member),
                                "POST",
                                "/v1/proposals",
                                timeout_s=10,
                                content=batch.model_dump_json().encode(),
                                headers={"content-type": "application/json"},
                            )
                        except NotLeaderError:
                            await asyncio.sleep(0.05)
                        else:
                            (result,) = json.loads(bytes(answer.content))["results"]
                            assert result["problem"] is None, result
                            return

        asyncio.run(ask())

    def until_on(self, digests: set[str], replicas: int, nodes: Iterable[str] | None = None, what: str = "") -> float:
        """Seconds until each of `digests` is on exactly so many of `nodes`."""
        wanted = Counter({replicas: len(digests)})
        return block_until(
            lambda: self.counts(digests, nodes) == wanted, what or f"{replicas} replicas of each chunk", DEADLINE_S
        )

    def settle(self) -> float:
        """Seconds until every node holds exactly what it should by the log of now: no stand-in is left, nothing missing."""
        index = self.http.get("/v1/cluster").raise_for_status().json()["log_index"]
        return block_until(
            lambda: all(self._holds_exactly(node, index) for node in self.nodes),
            "all is where it should be",
            DEADLINE_S,
        )

    def _holds_exactly(self, node: str, index: int) -> bool:
        report = self.report(node)
        if report is None or report.log_index < index or report.missing_chunks != 0:
            return False
        return len(self.held(node)) == report.expected_chunks

    def state(self, node: str) -> str:
        nodes = self.http.get("/v1/cluster").raise_for_status().json()["nodes"]
        return next(str(found["state"]) for found in nodes if found["id"] == node)

    def wipe(self, node: str) -> None:
        """The node loses its disk and its Redis, and comes back under its name."""
        names = (node, node.replace("storage", "redis"))
        self.cluster.kill_all(names)
        for name in names:
            for path in self.cluster.layout.data_dir(name).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        asyncio.run(self.cluster.start(names))


def files_of(bench: Bench, name: str) -> set[str]:
    """Large and small chunks, on as many nodes as they should be."""
    digests = bench.put(f"{name}/large", random_bytes(6 * MIB + 100 * KIB))
    for number in range(20):
        digests |= bench.put(f"{name}/{number}", random_bytes(3 * KIB))
    bench.until_on(digests, N)
    return digests


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One cluster with a spare node for the tests of this file."""
    made = Bench(tmp_path_factory.mktemp("four"), 4, SHORT)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def bench(four: Bench) -> Bench:
    """With everything that an earlier test killed brought back."""
    asyncio.run(four.cluster.start())
    block_until(lambda: all(four.state(node) == "active" for node in NODES), "all nodes are active", DEADLINE_S)
    return four


def test_a_replica_missed_by_a_write_is_back_soon_after_the_node(bench: Bench) -> None:
    """Killed while files are stored: what it missed it has within seconds of its return."""
    victim = "storage-2"
    stop, stored = threading.Event(), set[str]()

    def store() -> None:
        number = 0
        while not stop.is_set():
            stored.update(bench.put(f"missed/{number}", random_bytes(200 * KIB if number % 4 else 2 * MIB)))
            number += 1

    thread = threading.Thread(target=store)
    thread.start()
    try:
        block_until(lambda: len(stored) >= 3, "files are stored", DEADLINE_S)
        bench.cluster.kill(victim)
        before = len(stored)
        block_until(lambda: len(stored) >= before + 10, "files are stored without the node", DEADLINE_S)
    finally:
        stop.set()
        thread.join(DEADLINE_S)
    began_s = time.monotonic()
    asyncio.run(bench.cluster.start([victim]))
    ready_s = time.monotonic() - began_s
    bench.until_on(set(stored), N)
    bench.settle()
    print(
        f"back {time.monotonic() - began_s - ready_s:.1f} s after the node was ready, {ready_s:.1f} s after its start"
    )


def test_a_wiped_node_is_refilled_from_the_others(bench: Bench) -> None:
    """With a spare node: exactly what it should hold."""
    digests = files_of(bench, "wiped")
    bench.settle()
    before = bench.held("storage-3")
    bench.wipe("storage-3")
    print(f"refilled in {bench.until_on(digests, N):.1f} s")
    bench.settle()
    assert bench.held("storage-3") == before


def test_a_wiped_node_is_refilled_without_a_spare_one(tmp_path: Path) -> None:
    """Three nodes for three replicas: everything is missing there."""
    bench = Bench(tmp_path / "three", 3, SHORT)
    try:
        bench.start()
        digests = files_of(bench, "wiped")
        bench.wipe("storage-1")
        print(f"refilled in {bench.until_on(digests, N):.1f} s")
        bench.settle()
        report = bench.report("storage-1")
        assert report is not None
        assert report.expected_chunks == len(digests)
    finally:
        bench.stop()


def test_a_spare_node_stands_in_and_hands_back(bench: Bench) -> None:
    """Inactive: every chunk is on all others. Back: each is on exactly N nodes again."""
    digests = files_of(bench, "spare")
    victim, others = "storage-4", NODES[:3]
    bench.cluster.kill(victim)
    block_until(lambda: bench.state(victim) == "inactive", "the node is inactive", DEADLINE_S)
    print(f"re-replicated in {bench.until_on(digests, N, others):.1f} s")
    for digest in sorted(digests)[:5]:
        for node in others:
            assert blake3(bench.call(node, "GET", f"/v1/chunks/{digest}")).hexdigest() == digest
    asyncio.run(bench.cluster.start([victim]))
    print(f"surplus dropped in {bench.until_on(digests, N):.1f} s")


def test_chunks_of_deleted_files_leave_every_node(bench: Bench) -> None:
    """Also one that was away during the deletion; the file does not come back, others keep what they share."""
    shared = random_bytes(2 * MIB)
    own = bench.put("deleted/one", shared + random_bytes(2 * MIB))
    kept = bench.put("deleted/two", shared)
    own -= kept
    bench.until_on(own | kept, N)
    away = "storage-1"
    bench.cluster.kill(away)
    assert bench.http.delete("/v1/files/default/deleted/one").status_code == 204
    others = [node for node in NODES if node != away]
    print(f"gone from the others in {bench.until_on(own, 0, others):.1f} s")
    asyncio.run(bench.cluster.start([away]))
    print(f"gone from the node that was away in {bench.until_on(own, 0):.1f} s")
    bench.until_on(kept, N)
    assert bench.http.get("/v1/files/default/deleted/one").status_code == 404
    assert bench.http.get("/v1/files/default/deleted/two").content == shared


def test_what_an_upload_that_was_cut_off_left_is_deleted(bench: Bench) -> None:
    """Nothing ever referred to it."""
    body = random_bytes(4 * MIB)

    def cut() -> Iterator[bytes]:
        yield body
        raise ConnectionError("the client is gone")

    with pytest.raises((httpx.HTTPError, ConnectionError)):
        bench.http.put("/v1/files/default/cut", content=cut(), headers={"content-length": str(len(body) + 1)})
    left = {blake3(body[start : start + MIB]).hexdigest() for start in range(0, len(body), MIB)}
    block_until(lambda: any(left & bench.held(node) for node in NODES), "chunks arrive", DEADLINE_S)
    print(f"orphans gone in {bench.until_on(left, 0):.1f} s")


def test_an_upload_that_uses_a_condemned_chunk_again_succeeds(bench: Bench) -> None:
    """At every moment of the deletion; and the file stays whole."""
    body = random_bytes(2 * MIB)
    digests = bench.put("again/0", body)
    for number in range(12):
        assert bench.http.delete(f"/v1/files/default/again/{number}").status_code == 204
        deadline_s = time.monotonic() + 0.6 * number
        block_until(lambda deadline_s=deadline_s: time.monotonic() >= deadline_s, "a moment passes", DEADLINE_S)
        assert bench.put(f"again/{number + 1}", body) == digests
        assert bench.http.get(f"/v1/files/default/again/{number + 1}").content == body
    bench.until_on(digests, N)


def test_a_draining_node_empties_and_says_so(bench: Bench) -> None:
    """N replicas elsewhere; a drain that is cancelled fills it again."""
    digests = files_of(bench, "drained")
    bench.propose(DrainNode(node_id="storage-2", min_left=N, stamp=Stamp(hlc=1, state=ClockState.LOGICAL)))
    others = [node for node in NODES if node != "storage-2"]

    def is_drained() -> bool:
        report = bench.report("storage-2")
        return report is not None and report.drained_index is not None

    try:
        block_until(lambda: bench.state("storage-2") == "draining", "the node drains", DEADLINE_S)
        print(f"drained in {block_until(is_drained, 'the node is drained', DEADLINE_S):.1f} s")
        assert not bench.held("storage-2") & digests
        assert bench.counts(digests, others) == Counter({N: len(digests)})
    finally:
        bench.propose(
            SetNodeState(node_id="storage-2", state=NodeState.ACTIVE, stamp=Stamp(hlc=1, state=ClockState.LOGICAL))
        )
    block_until(lambda: bool(bench.held("storage-2") & digests), "the node is filled again", DEADLINE_S)
    bench.until_on(digests, N)
    assert not is_drained()


def test_verify_counts_what_differs_and_survives_a_restart(tmp_path: Path) -> None:
    """A missing, a corrupt, a surplus and an orphaned chunk. Rounds are long, so that nothing is found before."""
    slow = {**SHORT, "storage": {**SHORT["storage"], "TRIVET_RECONCILE_INTERVAL_S": "20", "TRIVET_GC_GRACE_S": "3600"}}
    slow["storage"]["TRIVET_RECONCILE_MAX_BYTES_PER_S"] = str(4 * MIB)
    bench = Bench(tmp_path / "verify", 4, slow)
    node = "storage-1"
    try:
        bench.start()
        digests = bench.put("verified", random_bytes(24 * MIB))
        bench.until_on(digests, N)
        block_until(lambda: (bench.report(node) or _no_report()).missing_chunks == 0, "compared", DEADLINE_S)
        held = sorted(bench.held(node) & digests)
        assert len(held) < len(digests), "one chunk at least is elsewhere"
        surplus = min(digests - set(held))
        source = next(other for other in NODES[1:] if surplus in bench.held(other))
        for body in (bench.call(source, "GET", f"/v1/chunks/{surplus}"), random_bytes(MIB)):
            put_chunk(bench, node, body)
        bench.call(node, "DELETE", f"/v1/chunks/{held[0]}")
        path = bench.cluster.layout.data_dir(node) / "chunks" / held[1][:2] / held[1]
        whole = path.read_bytes()
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        assert bench.verify(node, "POST").state == VerifyState.RUNNING
        with pytest.raises(ConflictError):
            bench.verify(node, "POST")
        block_until(lambda: 0 < bench.verify(node).progress < 1, "it is in the middle", DEADLINE_S)
        bench.cluster.kill(node)
        asyncio.run(bench.cluster.start([node]))
        block_until(lambda: bench.verify(node).state == VerifyState.FINISHED, "it ends", DEADLINE_S)
        report = bench.verify(node)
        print(report)
        assert (report.missing_chunks, report.bad_chunks) == (1, 1)
        assert (report.surplus_chunks, report.orphaned_chunks) == (1, 1)
        assert report.checked_chunks == report.expected_chunks == len(held)
        block_until(lambda: set(held) <= bench.held(node), "what was missing and bad is back", DEADLINE_S)
        assert bench.verify(node, "DELETE").state == VerifyState.FINISHED
    finally:
        bench.stop()


def put_chunk(bench: Bench, node: str, body: bytes) -> None:
    """As an upload does."""

    async def put() -> None:
        async with PeerClient(bench.cluster.keys_of(Role.GATEWAY)) as client:
            target = f"/v1/chunks/{blake3(body).hexdigest()}?start_index=1"
            await client.request(bench.cluster.peer(node), "PUT", target, timeout_s=10, content=body)

    asyncio.run(put())


def _no_report() -> ReconcileReport:
    return ReconcileReport(
        epoch=0,
        log_index=0,
        expected_chunks=None,
        expected_bytes=None,
        missing_chunks=None,
        missing_bytes=None,
        surplus_chunks=None,
        orphan_chunks=None,
        bytes_per_s=0,
        is_listing=True,
    )
