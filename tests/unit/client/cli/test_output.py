"""Tables for people, lines for programs, JSON for those that ask."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import msgspec
import pytest

from trivet.cli.commands.cluster import show_status
from trivet.cli.commands.doctor import show_finding
from trivet.cli.diagnosis import Finding
from trivet.cli.output import Column, Output, json_text
from trivet.models import Cluster, ConsensusMember, StorageNode

COLUMNS = (
    Column("size_bytes", "bytes", "size"),
    Column("modified", "time", is_minor=True),
    Column("name", colour=lambda name: "strong" if name.endswith("/") else None),
)
ROWS = [
    {"size_bytes": 3_000_000, "modified": datetime(2026, 3, 1, 12, 30, tzinfo=UTC), "name": "cat.jpg"},
    {"size_bytes": None, "modified": None, "name": "a\x1b[2J/"},
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)


def printed(stream: io.StringIO, rows=ROWS, **settings) -> str:
    Output(stdout=stream, stderr=io.StringIO(), **settings).records(rows, COLUMNS)
    return stream.getvalue()


def test_a_pipe_gets_tabs_exact_sizes_and_utc() -> None:
    """No heading, no colour, and no character that ends a line or a field."""
    assert printed(io.StringIO()) == "3000000\t2026-03-01T12:30:00Z\tcat.jpg\n-\t-\ta\\x1b[2J/\n"


def test_a_terminal_gets_a_table_with_colours() -> None:
    text = printed(Terminal())
    assert "2.9 MiB" in text
    assert "\x1b[36ma\\x1b[2J/\x1b[0m" in text, "a name is escaped, and the colour around it is not"
    assert "\x1b[2J" not in text


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_done_without(monkeypatch, name, value) -> None:
    monkeypatch.setenv(name, value)
    lines = printed(Terminal()).splitlines()
    assert lines[0].split() == ["SIZE", "MODIFIED", "NAME"]
    assert "\x1b" not in "".join(lines)


def test_a_narrow_terminal_has_fewer_columns_and_whole_names(monkeypatch) -> None:
    """What was left out is what matters least; nothing is cut."""
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("NO_COLOR", "1")
    name = "a-name-that-is-longer-than-the-terminal.jpg"
    text = printed(Terminal(), [{**ROWS[0], "name": name}])
    assert "MODIFIED" not in text
    assert name in text


def test_json_has_every_field_and_every_character() -> None:
    rows = [json.loads(line) for line in printed(io.StringIO(), is_json=True).splitlines()]
    assert rows[1]["name"] == "a\x1b[2J/"
    assert rows[0]["modified"] == "2026-03-01T12:30:00Z"


def test_rows_are_printed_while_they_come() -> None:
    """A terminal sees the first of a long list before the last is known, and the widths hold."""
    stream = Terminal()
    table = Output(stdout=stream, stderr=io.StringIO()).table(COLUMNS)
    for _ in range(600):
        table.add(ROWS[0])
    assert stream.getvalue().count("cat.jpg") == 500
    table.finish()
    assert stream.getvalue().count("cat.jpg") == 600


def test_progress_is_for_terminals_that_can_draw(monkeypatch) -> None:
    assert Output(stdout=io.StringIO(), stderr=Terminal()).shows_progress
    assert not Output(stdout=Terminal(), stderr=io.StringIO()).shows_progress
    assert not Output(stdout=io.StringIO(), stderr=Terminal(), is_quiet=True).shows_progress
    monkeypatch.setenv("TERM", "dumb")
    assert not Output(stdout=io.StringIO(), stderr=Terminal()).shows_progress


def test_quiet_keeps_remarks_back_and_not_failures() -> None:
    err = io.StringIO()
    output = Output(stdout=io.StringIO(), stderr=err, is_quiet=True)
    output.say("a remark")
    output.fail("a failure", 1)
    assert err.getvalue() == "trivet: a failure\n"


def test_the_problem_document_is_shown_when_asked() -> None:
    quiet, loud, machine = (io.StringIO() for _ in range(3))
    problem = {"status": 404, "code": "file_not_found"}
    Output(stdout=io.StringIO(), stderr=quiet).fail("gone", 3, problem)
    Output(stdout=io.StringIO(), stderr=loud, is_verbose=True).fail("gone", 3, problem)
    Output(stdout=io.StringIO(), stderr=machine, is_json=True).fail("gone", 3, problem)
    assert quiet.getvalue() == "trivet: gone\n"
    assert json.loads(loud.getvalue().splitlines()[1]) == problem
    assert json.loads(machine.getvalue()) == {"error": {"message": "gone", "exit_code": 3, "problem": problem}}


def test_a_sentence_is_broken_at_words(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    Output(stdout=stream, stderr=io.StringIO()).paragraph("!", "storage-1 is suspect: it does not answer")
    assert stream.getvalue() == "! storage-1 is suspect:\n  it does not answer\n"


def _status(text: str) -> Cluster:
    """A cluster in which everything is called so."""
    facts = (text, text, 7, [ConsensusMember(id=text, url=text, peer_address=text)], [], 0, 0, None, [text], 3, 99)
    found = Cluster(**dict(zip(Cluster.__struct_fields__, facts, strict=False)))
    return msgspec.structs.replace(
        found, nodes=[StorageNode(id=text, state=text, url=text, zone=text, capacity_bytes=1)]
    )


HOSTILE = "a\x1b]0;you\x07\x9b2J\u202eb\n§c"


@pytest.mark.parametrize(
    "act",
    [
        lambda output: output.say(HOSTILE),
        lambda output: output.warn(HOSTILE),
        lambda output: output.fail(HOSTILE, 1, {"detail": HOSTILE}),
        lambda output: output.fail_one(HOSTILE, HOSTILE, 1, {"detail": HOSTILE}),
        lambda output: output.paragraph("!", HOSTILE),
        lambda output: show_status(output, _status(HOSTILE)),
        lambda output: show_finding(output, Finding("check", "warning", HOSTILE, HOSTILE)),
        lambda output: output.document({"name": HOSTILE}),
    ],
)
@pytest.mark.parametrize("is_json", [False, True])
def test_nothing_that_a_server_says_steers_a_terminal(monkeypatch, act, is_json) -> None:
    """Whatever stands in a name, a problem or a finding."""
    monkeypatch.setenv("NO_COLOR", "1")
    for stream in (Terminal(), io.StringIO()):
        act(Output(stdout=stream, stderr=stream, is_verbose=True, is_json=is_json))
        text = stream.getvalue()
        assert "you" in text
        assert text.replace("\n", "").replace("\t", "").isprintable()
        assert not any(line.startswith("§") for line in text.splitlines())


def test_json_has_every_character() -> None:
    assert json.loads(json_text({"name": HOSTILE + "ä"})) == {"name": HOSTILE + "ä"}
    assert "ä" in json_text("ä")
