"""The command for the audit trail: export that goes on, and checks that name the place where a chain breaks."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from services.gateway.access_log import About, AccessLog, Caller
from services.gateway.api.audit_models import TrailVerification
from services.gateway.audit_trail import AuditTrail
from services.gateway.tools import audit
from services.gateway.tools.audit import AuditFailedError, export, verify, verify_cluster, verify_log
from shared.audit_chain import begin_line
from shared.contracts.access import Requester
from shared.contracts.metadata import CreateBucket, PassTime
from shared.timekeeping.host_clock import SystemHostClock
from tests.unit.gateway.fakes import FakeClock, LocalMetadata

ANN = Requester(principal="a" * 64, request="req-1", address="192.0.2.7")


class Cluster:
    """A trail, and a gateway's two routes over it, with short pages."""

    def __init__(self, folder: Path) -> None:
        self.metadata, self.clock = LocalMetadata(folder / "metadata.sqlite"), FakeClock()
        asyncio.run(self.metadata.make_cluster(self.clock))
        asyncio.run(self.metadata.upgrade(self.clock))
        self.count = 0
        self.fails_after: int | None = None
        self.page_rows = 3
        self.client = httpx.Client(base_url="http://gateway", transport=httpx.MockTransport(self._answer))

    def change(self, times: int = 1) -> None:
        for _ in range(times):
            bucket = CreateBucket(bucket=f"b{self.count:04}", stamp=self.clock.stamp())
            asyncio.run(self.metadata.propose(bucket, requester=ANN))
            self.count += 1

    def cut(self, limit_bytes: int) -> None:
        command = PassTime(
            elapsed_ms=1,
            cursor_retention_s=900,
            tombstone_retention_s=900,
            audit_retention_s=3600,
            audit_limit_bytes=limit_bytes,
            stamp=self.clock.stamp(),
        )
        asyncio.run(self.metadata.propose(command))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if self.fails_after is not None:
            self.fails_after -= 1
            if self.fails_after < 0:
                return httpx.Response(503, json={"detail": "No consensus leader could be reached."})
        after, trail = int(request.url.params["after"]), AuditTrail(self.metadata)
        if request.url.path == "/v1/audit/verify":
            check = asyncio.run(trail.verify(after, self.page_rows))
            return httpx.Response(200, content=TrailVerification.of(check).model_dump_json())
        page = asyncio.run(trail.page(after, self.page_rows))
        return httpx.Response(200, content=begin_line(page.begin.index, page.begin.link) + page.lines.encode())


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.metadata.store.close()


def buckets_in(path: Path) -> list[str]:
    return [json.loads(line)["row"]["bucket"] for line in path.read_bytes().splitlines()[1:]]


def test_an_export_goes_on_where_the_file_ends(cluster, tmp_path) -> None:
    """Nothing twice, nothing left out; what is exported can be checked without the cluster."""
    path = tmp_path / "trail.jsonl"
    for times in (0, 7, 0, 4):
        cluster.change(times)
        end = export(cluster.client, path)
    assert buckets_in(path) == [f"b{number:04}" for number in range(11)]
    found = verify(path)
    assert (found.begin.index, found.end, found.rows) == (0, end, 11)
    assert path.stat().st_mode & 0o077 == 0


def test_an_export_that_was_interrupted_goes_on(cluster, tmp_path) -> None:
    """By the gateway, or in the middle of a line."""
    path = tmp_path / "trail.jsonl"
    cluster.change(9)
    cluster.fails_after = 2
    with pytest.raises(AuditFailedError, match="503: No consensus leader"):
        export(cluster.client, path)
    assert len(buckets_in(path)) == 6
    cluster.fails_after = None
    whole = path.read_bytes()
    for left_bytes in (len(whole), len(whole) - 1, len(whole) - 50, len(whole) - 500, 40, 1, 0):
        path.write_bytes(whole[:left_bytes])
        export(cluster.client, path)
        assert len(buckets_in(path)) == 9
        assert verify(path).rows == 9


def test_what_was_exported_proves_what_was_cut_afterwards(cluster, tmp_path) -> None:
    """The file ends at the link behind which the kept part begins, so the next export goes on."""
    path = tmp_path / "trail.jsonl"
    cluster.change(5)
    export(cluster.client, path)
    cluster.cut(0)
    cluster.change(2)
    export(cluster.client, path)
    assert len(buckets_in(path)) == 7
    other = tmp_path / "other.jsonl"
    export(cluster.client, other)
    assert buckets_in(other) == ["b0005", "b0006"]
    assert verify(other).begin.index == verify(path).end.index - 2 - 1


def test_rows_that_were_cut_before_they_were_exported_are_named(cluster, tmp_path) -> None:
    """A gap is no trail: the rest goes to a file of its own."""
    path = tmp_path / "trail.jsonl"
    cluster.change(3)
    end = export(cluster.client, path)
    cluster.change(3)
    cluster.cut(0)
    before = path.read_bytes()
    with pytest.raises(AuditFailedError, match=f"rows behind index {end.index} were cut before they were exported"):
        export(cluster.client, path)
    assert path.read_bytes() == before


def test_a_file_of_another_trail_is_refused(cluster, tmp_path) -> None:
    """Or one that was changed at its end."""
    path = tmp_path / "trail.jsonl"
    cluster.change(3)
    export(cluster.client, path)
    whole = path.read_bytes()
    for changed in (whole.replace(b'{"link":"', b'{"link":"00', 3).replace(b'00"', b'"'), whole[:-70] + b"garbage\n"):
        path.write_bytes(changed)
        with pytest.raises(AuditFailedError):
            export(cluster.client, path)
    lines = whole.splitlines(keepends=True)
    link = lines[-1][9:73]
    path.write_bytes(b"".join(lines[:-1]) + lines[-1].replace(link, link[::-1]))
    with pytest.raises(AuditFailedError, match="no part of the trail of this cluster"):
        export(cluster.client, path)


def test_a_broken_trail_is_not_exported(cluster, tmp_path) -> None:
    """The file keeps what is whole."""
    cluster.change(6)
    index = cluster.metadata.store.last_applied
    with cluster.metadata.store._writer.database.transaction(write=True):
        cluster.metadata.store._writer.database.execute(
            "UPDATE audit SET link=zeroblob(32) WHERE log_index=?", (index - 1,)
        )
    with pytest.raises(AuditFailedError, match=f"broken behind index {index - 2}: index {index - 1}: "):
        export(cluster.client, tmp_path / "trail.jsonl")
    assert verify(tmp_path / "trail.jsonl").rows == 3
    with pytest.raises(AuditFailedError, match=f"broken at index {index - 1}: "):
        verify_cluster(cluster.client)


def test_two_exports_to_one_file_exclude_each_other(cluster, tmp_path) -> None:
    """Their lines would mix."""
    path = tmp_path / "trail.jsonl"
    cluster.change()
    inner: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        with pytest.raises(AuditFailedError) as refused:
            export(cluster.client, path)
        inner.append(str(refused.value))
        return cluster._answer(request)

    with httpx.Client(base_url="http://gateway", transport=httpx.MockTransport(answer)) as client:
        export(client, path)
    assert inner
    assert "another export" in inner[0]


def test_an_export_follows_no_link(cluster, tmp_path) -> None:
    """It would write where somebody else says."""
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        export(cluster.client, tmp_path / "link")


@pytest.mark.parametrize("act", ["change", "remove", "swap", "insert", "cut the beginning", "no beginning"])
def test_the_check_of_a_file_names_the_line(cluster, tmp_path, act) -> None:
    """And the index."""
    path = tmp_path / "trail.jsonl"
    cluster.change(6)
    export(cluster.client, path)
    lines = path.read_bytes().splitlines(keepends=True)
    match act:
        case "change":
            lines[3] = lines[3].replace(b"b0002", b"b0009")
        case "remove":
            del lines[3]
        case "swap":
            lines[3], lines[4] = lines[4], lines[3]
        case "insert":
            lines.insert(3, lines[3])
        case "cut the beginning":
            del lines[1:3]
        case "no beginning":
            del lines[0]
    path.write_bytes(b"".join(lines))
    number = {"cut the beginning": 2, "no beginning": 1, "insert": 5}.get(act, 4)
    with pytest.raises(AuditFailedError, match=f"^line {number}\\b"):
        verify(path)


def test_a_cluster_is_checked_to_its_end(cluster) -> None:
    """Over as many calls as it takes."""
    assert verify_cluster(cluster.client) == (0, 0)
    cluster.change(8)
    assert verify_cluster(cluster.client) == (8, cluster.metadata.store.last_applied)


# --- what gateways wrote ------------------------------------------------------------------------------------------


def log_of(path: Path, starts: int, lines: int) -> None:
    """The lines of several starts, among other lines."""
    for start in range(starts):
        with path.open("a") as file:
            file.write('{"event": "gateway started", "level": "info"}\n')
            log = AccessLog(
                file.write, SystemHostClock(), boot_id=f"{start:032x}", gateway_id="gateway-1", writes="denied"
            )
            with log:
                for number in range(lines):
                    log.denied(Caller(address="192.0.2.7"), "access_denied", About(bucket="b", key=f"k{number}\n{{"))


def test_the_log_of_a_gateway_is_checked_over_its_starts(tmp_path) -> None:
    """Other lines are passed over, and a file may begin in the middle of a chain."""
    path = tmp_path / "gateway.log"
    log_of(path, starts=3, lines=4)
    found = verify_log(path)
    assert (found.starts, found.lines, found.dropped, found.begins_in_middle) == (3, 15, 0, False)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[3:]))
    found = verify_log(path)
    assert (found.starts, found.lines, found.begins_in_middle) == (2, 13, True)


@pytest.mark.parametrize("at", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("act", ["change", "remove", "insert"])
def test_a_line_of_a_gateway_that_was_changed_is_found(tmp_path, at, act) -> None:
    """Removed or put in as well; the last one of a start can be cut off, which no chain can tell."""
    path = tmp_path / "gateway.log"
    log_of(path, starts=2, lines=4)
    lines = path.read_text().splitlines(keepends=True)
    match act:
        case "change":
            lines[at] = lines[at].replace('"time":"2', '"time":"3')
        case "remove":
            del lines[at]
        case "insert":
            lines.insert(at + 1, lines[at])
    path.write_text("".join(lines))
    if act == "insert" and at in {1, 7}:
        assert verify_log(path).starts == 3  # a start begins anew
        return
    if act == "remove" and at == 1:
        assert verify_log(path).begins_in_middle
        return
    with pytest.raises(AuditFailedError, match=r"^line \d+: "):
        verify_log(path)


# --- the command --------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["audit", *arguments])
    monkeypatch.setattr(audit, "make_process_private", lambda: None)
    try:
        audit.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_says_what_it_found_and_ends_with_1_where_a_chain_breaks(
    cluster, tmp_path, monkeypatch, capsys
) -> None:
    """So that scripts notice."""
    path, credential = tmp_path / "trail.jsonl", tmp_path / "credential"
    credential.write_text("TVX.secret\n")
    cluster.change(4)
    seen: list[str] = []

    def connect(url: str, credential_file: Path) -> httpx.Client:
        seen.append(f"{url} {credential_file.name}")
        return httpx.Client(base_url=url, transport=httpx.MockTransport(cluster._answer))

    monkeypatch.setattr(audit, "_client", connect)
    at = ("--url", "http://gateway", "--credential-file", str(credential))
    assert run(monkeypatch, "export", *at, "--to", str(path)) == 0
    assert run(monkeypatch, "verify-cluster", *at) == 0
    assert run(monkeypatch, "verify", str(path)) == 0
    assert "4 rows follow each other" in capsys.readouterr().out
    assert seen == ["http://gateway credential"] * 2
    path.write_bytes(path.read_bytes().replace(b"b0002", b"b0009"))
    assert run(monkeypatch, "verify", str(path)) == 1
    error = capsys.readouterr().err
    assert error.startswith("trivet: line 4, behind index ")
    assert run(monkeypatch, "verify", str(tmp_path / "none")) == 1
    log_of(tmp_path / "gateway.log", 1, 1)
    assert run(monkeypatch, "verify-log", str(tmp_path / "gateway.log")) == 0


def test_the_credential_is_sent_as_a_bearer_and_read_from_a_file_alone(tmp_path) -> None:
    """Arguments are shown to everybody on the machine."""
    (tmp_path / "key").write_text("TVX.secret\n")
    with audit._client("http://gateway", tmp_path / "key") as client:
        assert client.headers["authorization"] == "Bearer TVX.secret"
    with pytest.raises(AuditFailedError, match="cannot read"):
        audit._client("http://gateway", tmp_path / "none")
