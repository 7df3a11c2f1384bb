"""What `doctor` makes of what it sees."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from trivet.cli import diagnosis
from trivet.cli.exit_codes import ExitCode
from trivet.models import Cluster, ConsensusMember, StorageNode, TimeNow, Timestamp

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def node(name: str, **facts) -> StorageNode:
    return StorageNode(**{"id": name, "url": "http://x", "zone": "z", "state": "active", "capacity_bytes": 100} | facts)


def cluster(*nodes: StorageNode, **facts) -> Cluster:
    known = {
        "cluster_id": "c",
        "leader": "consensus-1",
        "term": 1,
        "members": [ConsensusMember(id="consensus-1", url="", peer_address="")],
        "nodes": list(nodes),
        "under_replicated_chunks": 0,
        "remaining_bytes": 0,
        "eta_s": None,
        "degraded": [],
        "epoch": 1,
        "log_index": 1,
    }
    return Cluster(**known | facts)


def bad(found: Cluster) -> list[diagnosis.Finding]:
    return [finding for finding in diagnosis.cluster_findings(found) if finding.level != diagnosis.GOOD]


def test_a_cluster_without_fault_has_good_findings_only() -> None:
    findings = diagnosis.cluster_findings(cluster(node("storage-1")))
    assert {finding.level for finding in findings} == {"good"}
    assert diagnosis.worst(findings) is ExitCode.DONE


@pytest.mark.parametrize(
    ("found", "said", "advice"),
    [
        (
            cluster(node("s1", state="suspect", reason="no heartbeat")),
            "s1 is suspect: no heartbeat",
            "trivet cluster remove s1",
        ),
        (cluster(node("s1", state="inactive")), "s1 is inactive", "trivet cluster remove s1"),
        (cluster(node("s1", state="draining")), "s1 is draining", "--cancel"),
        (cluster(node("s1", state="joining")), "s1 may join", "TRIVET_NODE_ID=s1"),
        (cluster(node("s1", is_full=True, used_bytes=100)), "s1 is full", "add a node"),
        (cluster(node("s1", used_bytes=95)), "s1 is almost full", "add a node"),
        (
            cluster(node("s1"), under_replicated_chunks=3, remaining_bytes=2048, eta_s=90),
            "3 replicas missing (2.0 KiB",
            "1 min 30 s",
        ),
        (
            cluster(node("s1"), degraded=["no spare node: 2 live nodes for 3 replicas"]),
            "no spare node",
            "trivet cluster add",
        ),
        (
            cluster(node("s1"), degraded=["the consensus members are short of disk space: x"]),
            "short of disk",
            "consensus members",
        ),
    ],
)
def test_each_shortage_is_one_finding_with_advice(found, said, advice) -> None:
    (finding,) = bad(found)
    assert said in finding.said
    assert advice in finding.advice
    assert (finding.level, finding.code) == ("warning", ExitCode.FAILED)


def test_what_is_not_known_yet_is_no_fault() -> None:
    """Nodes report some seconds after a start."""
    (finding,) = bad(cluster(node("s1"), under_replicated_chunks=None))
    assert (finding.level, finding.code) == ("note", ExitCode.DONE)


def test_a_node_is_not_told_about_twice() -> None:
    """The leader's sentence about it says the same."""
    (finding,) = bad(
        cluster(node("s1", state="suspect"), degraded=["s1 is suspect", "3 replicas are missing and being restored"])
    )
    assert finding.check == "node s1"


def test_without_a_leader_nothing_works() -> None:
    findings = diagnosis.cluster_findings(cluster(node("s1"), leader=None))
    assert diagnosis.worst(findings) is ExitCode.UNAVAILABLE


def now(state: str = "SYNCED", off_s: float = 0) -> TimeNow:
    moment = NOW + timedelta(seconds=off_s)
    around = timedelta(milliseconds=5)
    stamp = Timestamp(earliest=moment - around, latest=moment + around, hlc="0", state=state)
    return TimeNow(timestamp=stamp, uncertainty_us=10_000)


@pytest.mark.parametrize(
    ("off_s", "word"), [(diagnosis.CLOCK_LIMIT_S + 1, "behind"), (-diagnosis.CLOCK_LIMIT_S - 1, "ahead of")]
)
def test_a_wrong_clock_is_found(off_s, word) -> None:
    finding = diagnosis.clock_findings(now(off_s=off_s), NOW.timestamp())[0]
    assert (finding.check, finding.level) == ("clock", "warning")
    assert word in finding.said


def test_a_clock_that_is_a_little_off_is_good() -> None:
    findings = diagnosis.clock_findings(now(off_s=diagnosis.CLOCK_LIMIT_S - 1), NOW.timestamp())
    assert [finding.level for finding in findings] == ["good", "good"]


def test_a_cluster_without_time_servers_is_worth_a_note_and_no_alarm() -> None:
    stamp = TimeNow(timestamp=Timestamp(hlc="0", state="LOGICAL"))
    (finding,) = diagnosis.clock_findings(stamp, NOW.timestamp())
    assert finding.level == "note"
    assert diagnosis.worst([finding]) is ExitCode.DONE


def test_an_error_goes_before_a_warning() -> None:
    warning = diagnosis.Finding("a", "warning", "", code=ExitCode.FAILED)
    error = diagnosis.Finding("b", "error", "", code=ExitCode.FULL)
    assert diagnosis.worst([warning, error]) is ExitCode.FULL
