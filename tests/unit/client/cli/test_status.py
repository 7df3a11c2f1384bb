"""How the cluster and what the doctor finds look on a terminal; the pictures are in `golden`.

`TRIVET_WRITE_GOLDEN=1` writes them anew: look at them then.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from trivet.cli.commands import cluster as cluster_commands
from trivet.cli.commands.doctor import show_finding
from trivet.cli.diagnosis import cluster_findings
from trivet.cli.output import Output
from trivet.models import Cluster, ConsensusMember, ReconcileReport, StorageNode

GOLDEN = Path(__file__).parent / "golden"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _of(kind, *values):
    """A model by the order of its fields."""
    return kind(**dict(zip(kind.__struct_fields__, values, strict=False)))


def node(number: int, **facts) -> StorageNode:
    report = _of(ReconcileReport, 1, 1, 100, 4 << 20, facts.pop("missing", 0), 0, 0, 0, 0, False)
    known = {
        "id": f"storage-{number}",
        "url": f"http://10.0.0.{number}:8100",
        "zone": f"zone-{number}",
        "state": "active",
        "capacity_bytes": 2 << 40,
        "used_bytes": number * (300 << 30),
        "is_full": False,
        "reconcile": report,
    }
    return StorageNode(**known | facts)


MEMBERS = [
    _of(ConsensusMember, f"consensus-{number}", f"http://10.0.1.{number}:8200", "", number < 4)
    for number in range(1, 5)
]
WELL = _of(Cluster, "c0ffee00c0ffee00", "consensus-2", 7, MEMBERS, [node(1), node(2), node(3)], 0, 0, None, [], 3, 99)
DEGRADED = _of(
    Cluster,
    "c0ffee00c0ffee00",
    "consensus-2",
    7,
    MEMBERS,
    [
        node(1, is_full=True, used_bytes=2 << 40),
        node(2, state="suspect", reason="no heartbeat for 12 s"),
        node(3, missing=1234),
        node(4, state="joining", url="", zone="", used_bytes=None, is_full=None, reconcile=None),
    ],
    1234,
    3 << 30,
    400,
    ["no spare node: 2 live nodes for 3 replicas", "storage-2 is suspect: no heartbeat for 12 s", "storage-1 is full"],
    4,
    120,
)


def compare(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.getenv("TRIVET_WRITE_GOLDEN"):
        path.write_text(text)
    assert path.exists(), f"{path} is missing; it would be\n{text}"
    assert text == path.read_text(), f"{path} is another picture now:\n{text}"


@pytest.mark.parametrize("columns", [40, 80, 160])
@pytest.mark.parametrize(("name", "found"), [("well", WELL), ("degraded", DEGRADED)])
def test_the_cluster_is_one_screen(monkeypatch, name, found, columns) -> None:
    """What matters less is left out where the terminal is narrow; what is wrong stands at the top."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    cluster_commands.show_status(Output(stdout=stream, stderr=io.StringIO()), found)
    compare(f"status-{name}-{columns}", stream.getvalue())


def test_colours_say_how_bad_it_is(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    cluster_commands.show_status(Output(stdout=stream, stderr=io.StringIO()), DEGRADED)
    assert "\x1b[33msuspect\x1b[0m" in stream.getvalue()
    assert "\x1b[32mactive\x1b[0m" in stream.getvalue()
    assert "\x1b[31mFULL\x1b[0m" in stream.getvalue()


@pytest.mark.parametrize("columns", [40, 80])
def test_the_doctors_findings_are_sentences(monkeypatch, columns) -> None:
    """Broken at words, with what to do below each."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    output = Output(stdout=stream, stderr=io.StringIO())
    for finding in cluster_findings(DEGRADED):
        show_finding(output, finding)
    compare(f"doctor-degraded-{columns}", stream.getvalue())


def test_a_pipe_gets_a_line_for_each_node_and_member() -> None:
    stream = io.StringIO()
    cluster_commands.show_status(Output(stdout=stream, stderr=io.StringIO()), DEGRADED)
    compare("status-degraded-pipe", stream.getvalue())
