"""What a person reads of a cluster that is ready, of its nodes and of verify."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from local_cluster import terminal
from local_cluster.first_file import RoundTrip
from local_cluster.layout import Layout
from local_cluster.terminal import VerifyProgress, show_cluster, show_ready, show_removal, show_verification
from shared.access_keys import draw_credential

REPORT = {"expected_chunks": 12_345, "missing_chunks": 17, "surplus_chunks": 2, "eta_s": 75}


def node(**changes: Any) -> dict[str, Any]:
    return {
        "id": "storage-1",
        "state": "active",
        "reason": None,
        "used_bytes": 3 << 30,
        "reconcile": REPORT,
    } | changes


def cluster(*nodes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "nodes": list(nodes),
        "under_replicated_chunks": 0,
        "remaining_bytes": 0,
        "eta_s": None,
        "degraded": [],
    } | changes


def verification(**changes: Any) -> dict[str, Any]:
    return {
        "state": "running",
        "is_clean": None,
        "progress": 0.25,
        "eta_s": 4000,
        "checked_chunks": 1000,
        "missing_chunks": 0,
        "bad_chunks": 0,
        "surplus_chunks": 0,
        "orphaned_chunks": 0,
        "objects": None,
        "nodes": [],
    } | changes


@pytest.fixture(autouse=True)
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    """A log and no terminal, wide enough for every row."""
    found = Console(highlight=False, soft_wrap=True, width=200, record=True)
    monkeypatch.setattr(terminal, "console", found)
    return found


def test_the_nodes_are_shown_with_what_they_lack(console: Console) -> None:
    """And a question mark where one has not reported, never a zero."""
    show_cluster(
        cluster(
            node(),
            node(id="storage-2", state="suspect", reason="its disk is slow", reconcile=None, used_bytes=None),
            under_replicated_chunks=17,
            remaining_bytes=5 << 20,
            eta_s=75,
            degraded=["storage-2 is suspect: its disk is slow"],
        )
    )
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["storage-1", "active", "12,345", "17", "2", "1", "min", "15", "s", "3,072", "MiB"] in lines
    assert ["storage-2", "suspect", "(its", "disk", "is", "slow)", "?", "?", "?", "-", "?"] in lines
    assert ["Replicas", "missing:", "17,", "5", "MiB", "to", "fetch,", "1", "min", "15", "s", "left."] in lines
    assert ["degraded:", "storage-2", "is", "suspect:", "its", "disk", "is", "slow"] in lines


@pytest.mark.parametrize(
    ("missing", "sentence"), [(0, "Every chunk has all its replicas."), (None, "Replicas missing: not known")]
)
def test_nothing_missing_and_nothing_known_are_two_things(console: Console, missing: int | None, sentence: str) -> None:
    """Both in words."""
    show_cluster(cluster(node(), under_replicated_chunks=missing))
    assert sentence in console.export_text()


@pytest.mark.parametrize(("at_risk", "words"), [(0, "hold every chunk"), (3, "Up to 3 chunks"), (None, "is not known")])
def test_what_may_be_gone_with_a_lost_node_is_said(console: Console, at_risk: int | None, words: str) -> None:
    """Known to be nothing, bounded, or unknown."""
    show_removal("storage-3", {"chunks_at_risk": at_risk})
    assert words in console.export_text()


def test_verify_in_a_log_says_a_line_for_every_tenth(console: Console) -> None:
    """Not one for every second."""
    with VerifyProgress() as shown:
        for progress in (0.0, 0.01, 0.09, 0.1, 0.19, 0.95, 1.0):
            shown.update(verification(progress=progress))
    text = console.export_text()
    assert [line.split(":")[0].strip() for line in text.splitlines()] == ["0%", "10%", "95%", "100%"]
    assert "1 h 6 min left" in text


def test_verify_ends_with_what_it_found_and_whom_it_could_not_ask(console: Console) -> None:
    """Clean, not clean, or not known."""
    away = {"id": "storage-3", "report": None, "problem": "storage-3 does not answer."}
    show_verification(verification(state="finished", is_clean=None, nodes=[away]))
    show_verification(verification(state="finished", is_clean=False, bad_chunks=2))
    text = console.export_text()
    assert "not verified: storage-3: storage-3 does not answer." in text
    assert "2 bad" in text
    assert "being restored" in text
    assert "Clean" not in text
    objects = {"versions": 1200, "markers": 3, "uploads": 2, "parts": 17, "manifests": 30}
    show_verification(verification(state="finished", is_clean=True, objects=objects))
    text = console.export_text()
    assert "1,200 versions, 3 markers, 2 uploads, 17 parts, 30 manifests" in text
    assert "Clean" in text


def test_a_long_word_is_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    """A path or a command that is to be copied stays whole, however narrow the terminal is."""
    path = "/" + "folder/" * 50
    terminal.complain(f"There is no room in {path}")
    assert path in capsys.readouterr().err


def ready_cluster(folder: Path, port_offset: int) -> Any:
    layout = Layout(folder)
    layout.make()
    return SimpleNamespace(
        gateway_url=f"http://127.0.0.1:{8080 + port_offset}",
        s3_url="http://127.0.0.1:9000",
        s3_region="us-east-1",
        root_key=draw_credential(),
        layout=layout,
        operations_url=lambda _: f"http://127.0.0.1:{8090 + port_offset}",
        port_offset=port_offset,
    )


def test_a_cluster_that_is_ready_says_how_clients_find_it(tmp_path: Path, console: Console) -> None:
    """Commands that can be copied as they are, and the address for all other clients of S3."""
    cluster = ready_cluster(tmp_path, 0)
    show_ready(cluster, RoundTrip("http://127.0.0.1:8080/x", 1, None), 1.0)
    shown = "\n".join(line.rstrip() for line in console.export_text().splitlines())
    for command in (
        "http://127.0.0.1:9000",
        "aws.conf aws s3 ls",
        "rclone.conf lsd trivet:",
        "mc.conf) mc ls trivet",
        f"export TRIVET_KEY={cluster.layout.root_key}\n",
        "trivet cp README.md default/",
        "trivet cluster status",
        "trivet.Client().get(",
    ):
        assert command in shown
    assert cluster.root_key.partition(".")[2] not in shown


def test_no_line_that_is_to_be_copied_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of 40 columns half of an `export` would be a line of its own."""
    narrow = Console(highlight=False, soft_wrap=True, width=40, record=True)
    monkeypatch.setattr(terminal, "console", narrow)
    cluster = ready_cluster(tmp_path, 1000)
    show_ready(cluster, RoundTrip("http://127.0.0.1:9080/x", 1, None), 1.0)
    (line,) = [line for line in narrow.export_text().splitlines() if "export" in line]
    assert line.endswith(
        f"export TRIVET_KEY={cluster.layout.root_key} TRIVET_URL=http://127.0.0.1:9080 "
        "TRIVET_OPERATIONS_URL=http://127.0.0.1:9090"
    )


def test_a_cluster_on_other_ports_says_where_they_are(tmp_path: Path, console: Console) -> None:
    """A client would look at the usual ones."""
    show_ready(ready_cluster(tmp_path, 1000), RoundTrip("http://127.0.0.1:9080/x", 1, None), 1.0)
    assert "TRIVET_URL=http://127.0.0.1:9080 TRIVET_OPERATIONS_URL=http://127.0.0.1:9090" in console.export_text()
