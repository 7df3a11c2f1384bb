"""Lines about refusals and reads: chained, bounded, in nobody's way, and nothing in a name can pass for a line."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import access_log
from services.gateway.access_log import About, AccessLog, Caller
from shared.audit_chain import ChainPoint, follow
from tests.waiting import block_until

ANN = Caller("a" * 64, "TV" + "A" * 18, "req-1", "192.0.2.7")


class FakeClock:
    def wall_ns(self) -> int:
        return 1_700_000_000_000_000_000

    def monotonic_ns(self) -> int:
        return 0


class Output:
    """Standard output that can hang or fail."""

    def __init__(self) -> None:
        self.text = ""
        self.failures = 0
        self.may_write = threading.Event()
        self.may_write.set()
        self.is_waiting = threading.Event()

    def write(self, text: str) -> None:
        self.is_waiting.set()
        self.may_write.wait(30)
        if self.failures:
            self.failures -= 1
            raise OSError("gone")
        self.text += text

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line)["row"] for line in self.text.splitlines()]


def opened(output: Output, writes: str = "all") -> AccessLog:
    return AccessLog(output.write, FakeClock(), boot_id="b" * 32, gateway_id="gateway-1", writes=writes)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "BATCH_INTERVAL_S", 0.001)


def test_lines_are_one_chain_that_begins_with_the_start_of_the_gateway() -> None:
    """Which gateway, which start, what it writes; then who was refused what, and who read what."""
    output = Output()
    with opened(output) as log:
        log.denied(ANN, "access_denied", About("PUT", "/v1/files/photos/a%2Fb", "write", "photos", "a/b"))
        log.read(ANN, About(action="list", bucket="photos"))
        log.denied(Caller(address="192.0.2.8"), "credential_invalid")
    end = follow(ChainPoint(), output.text.encode().splitlines())
    time = "2023-11-14T22:13:20.000000Z"
    who = {"principal": "a" * 64, "access_key": "TV" + "A" * 18, "request": "req-1", "address": "192.0.2.7"}
    about = {"method": "PUT", "path": "/v1/files/photos/a%2Fb", "action": "write", "bucket": "photos", "key": "a/b"}
    assert output.rows() == [
        {"index": 1, "time": time, "event": "start", "boot": "b" * 32, "gateway": "gateway-1", "writes": "all"},
        {"index": 2, "time": time, "event": "denied", "code": "access_denied", **about, **who},
        {"index": 3, "time": time, "event": "read", "action": "list", "bucket": "photos", **who},
        {"index": 4, "time": time, "event": "denied", "code": "credential_invalid", "address": "192.0.2.8"},
    ]
    assert end.index == 4


@pytest.mark.parametrize(
    ("writes", "events"), [("all", ["start", "denied", "read"]), ("denied", ["start", "denied"]), ("none", [])]
)
def test_a_setting_says_what_is_written(writes: str, events: list[str]) -> None:
    """With `none` there is no line at all."""
    output = Output()
    with opened(output, writes) as log:
        log.denied(ANN, "access_denied")
        log.read(ANN, About(action="read", bucket="b", key="k"))
    assert [row["event"] for row in output.rows()] == events


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(NAMES, NAMES, NAMES)
def test_no_name_ends_a_line_or_steers_a_terminal(bucket: str, key: str, request_id: str) -> None:
    """Whatever a client sends is inside one line of printable ASCII."""
    output = Output()
    with opened(output) as log:
        log.denied(Caller(request=request_id), "access_denied", About(bucket=bucket, key=key))
    assert all(character == "\n" or " " <= character <= "~" for character in output.text)
    _, row = output.rows()
    assert (row.get("bucket", ""), row.get("key", ""), row.get("request", "")) == (bucket, key, request_id)
    follow(ChainPoint(), output.text.encode().splitlines())


def test_a_long_name_is_cut() -> None:
    """The longest key that a file may have is shown whole."""
    output = Output()
    with opened(output) as log:
        log.denied(ANN, "invalid_name", About(bucket="default", key="k" * 100_000))
    assert output.rows()[1]["key"] == "k" * 3072


def test_output_that_hangs_holds_up_nobody_and_what_was_dropped_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is bounded; the line that says how many are missing is part of the chain."""
    monkeypatch.setattr(access_log, "QUEUE_LINES_MAX", 5)
    output = Output()
    with opened(output) as log:
        block_until(lambda: output.text != "", "the first line is written")
        output.may_write.clear()
        output.is_waiting.clear()
        log.denied(ANN, "first")
        assert output.is_waiting.wait(30)
        for number in range(12):
            log.denied(ANN, f"waiting-{number}")
        assert log.dropped == 7
        output.may_write.set()
    rows = output.rows()
    follow(ChainPoint(), output.text.encode().splitlines())
    assert [row["code"] for row in rows if row["event"] == "denied"] == ["first", *(f"waiting-{n}" for n in range(5))]
    assert [row["count"] for row in rows if row["event"] == "dropped"] == [7]


def test_after_a_write_that_failed_another_chain_begins() -> None:
    """What arrived of the old one is not known; the new one says how many lines that may lack."""
    output = Output()
    with opened(output) as log:
        block_until(lambda: output.text != "", "the first line is written")
        before, output.text, output.failures = output.text, "", 1
        log.denied(ANN, "lost")
        block_until(lambda: output.failures == 0 and log.dropped == 1, "the write fails")
        log.denied(ANN, "kept")
    follow(ChainPoint(), before.encode().splitlines())
    follow(ChainPoint(), output.text.encode().splitlines())
    found = [(row["event"], row.get("code"), row.get("count")) for row in output.rows()]
    assert found == [("start", None, None), ("denied", "kept", None), ("dropped", None, 1)]


def test_the_process_ends_though_nobody_reads_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits a moment, and no longer."""
    monkeypatch.setattr(access_log, "CLOSE_WAIT_S", 0.01)
    output = Output()
    output.may_write.clear()
    with opened(output) as log:
        log.denied(ANN, "never written")
    assert output.text == ""
    output.may_write.set()


def test_lines_of_many_threads_are_one_chain() -> None:
    """Requests of both listeners may be refused at once."""
    output = Output()
    with opened(output) as log:
        threads = [threading.Thread(target=lambda: [log.denied(ANN, "x") for _ in range(200)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert follow(ChainPoint(), output.text.encode().splitlines()).index == 801
