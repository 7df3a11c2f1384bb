"""`shared.web.answer_writer`: what goes to the socket for each ASGI message, and in how many writes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from shared.web.answer_writer import AnswerCycle

DATE = (b"date", b"today")
PLAIN = [(b"content-length", b"5"), (b"x-a", b"1")]
HEAD = b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 5\r\nx-a: 1\r\n\r\n"


class RecordingTransport(asyncio.Transport):
    """Keeps each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def writelines(self, parts: Iterable[Any]) -> None:
        self.writes.append(b"".join(parts))

    def close(self) -> None:
        self.is_closed = True


class Answer:
    """One cycle; `is_over` once it told its connection so."""

    def __init__(self, method: str = "GET", *, keep_alive: bool = True) -> None:
        self.transport = RecordingTransport()
        self.is_over = False
        self.cycle = AnswerCycle(
            scope={"method": method},  # type: ignore[typeddict-item, arg-type]
            transport=self.transport,
            flow=FlowControl(self.transport),
            logger=logging.getLogger(),
            access_logger=logging.getLogger(),
            access_log=False,
            default_headers=[DATE],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=self._end,
        )

    def _end(self) -> None:
        self.is_over = True

    async def start(self, headers: list[tuple[bytes, bytes]], status: int = 200) -> None:
        await self.cycle.send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(self, body: bytes | memoryview = b"", *, more: bool = False) -> None:
        await self.cycle.send({"type": "http.response.body", "body": body, "more_body": more})


async def test_a_whole_answer_is_one_write() -> None:
    """Head and body leave together, and nothing before there is a body."""
    answer = Answer()
    await answer.start(PLAIN)
    assert answer.transport.writes == []
    await answer.body(b"12345")
    assert answer.transport.writes == [HEAD + b"12345"]
    large = Answer()
    await large.start([(b"content-length", b"1000000")])
    await large.body(memoryview(bytes(1_000_000)))
    assert len(large.transport.writes) == 1
    assert large.transport.writes[0].endswith(b"\r\n\r\n" + bytes(1_000_000))
    assert answer.is_over
    assert not answer.transport.is_closed


async def test_further_pieces_are_written_as_they_come() -> None:
    """An empty last one is no write."""
    answer = Answer()
    await answer.start(PLAIN)
    await answer.body(memoryview(b"123"), more=True)
    await answer.body(b"45", more=True)
    assert not answer.is_over
    await answer.body()
    assert answer.transport.writes == [HEAD + b"123", b"45"]
    assert answer.is_over


async def test_an_answer_without_a_length_is_chunked() -> None:
    """RFC 9112 section 7.1."""
    answer = Answer()
    await answer.start([])
    await answer.body(b"abc", more=True)
    await answer.body(b"d" * 16)
    head = b"HTTP/1.1 200 OK\r\ndate: today\r\ntransfer-encoding: chunked\r\n\r\n"
    assert answer.transport.writes == [head + b"3\r\nabc\r\n", b"10\r\n" + b"d" * 16 + b"\r\n0\r\n\r\n"]


@pytest.mark.parametrize(
    ("method", "status", "headers", "body"),
    [("HEAD", 200, PLAIN, b""), ("HEAD", 200, PLAIN, b"12345"), ("GET", 204, [], b""), ("GET", 304, [], b"")],
)
async def test_answers_without_a_body_are_their_head(method, status, headers, body) -> None:
    """And say no framing that they do not have."""
    answer = Answer(method)
    await answer.start(headers, status)
    await answer.body(body)
    (written,) = answer.transport.writes
    assert written.endswith(b"\r\n\r\n")
    assert b"transfer-encoding" not in written
    assert (b"content-length: 5" in written) == bool(headers)
    assert answer.is_over


@pytest.mark.parametrize(("keep_alive", "headers"), [(False, PLAIN), (True, [*PLAIN, (b"connection", b"close")])])
async def test_a_connection_that_is_not_kept_says_so_once_and_ends(keep_alive, headers) -> None:
    """Whether the request or the answer asked for it."""
    answer = Answer(keep_alive=keep_alive)
    await answer.start(headers)
    await answer.body(b"12345")
    assert answer.transport.writes[0].count(b"connection: close\r\n") == 1
    assert answer.transport.is_closed


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: x", b"a\nb", b"a\rb", b"\x00", b"\x7f"])
@pytest.mark.parametrize("place", ["name", "value"])
async def test_a_field_cannot_make_up_another_one(value, place) -> None:
    """Nothing is written of such an answer."""
    answer = Answer()
    with pytest.raises(RuntimeError, match="control character"):
        await answer.start([*PLAIN, (b"x-b", value) if place == "value" else (value, b"1")])
    assert answer.transport.writes == []


async def test_a_tab_and_high_bytes_are_no_control_characters() -> None:
    """RFC 9110 section 5.5."""
    answer = Answer()
    await answer.start([*PLAIN, (b"x-b", b"a\tb\xff")])
    await answer.body(b"12345")
    assert b"x-b: a\tb\xff\r\n" in answer.transport.writes[0]


@pytest.mark.parametrize(("body", "words"), [(b"1234", "shorter"), (b"123456", "longer")])
async def test_a_body_of_another_length_is_a_defect(body, words) -> None:
    """The server breaks the connection when it is raised."""
    answer = Answer()
    await answer.start(PLAIN)
    with pytest.raises(RuntimeError, match=words):
        await answer.body(body)
    assert not answer.is_over


async def test_messages_out_of_order_are_defects() -> None:
    """A body first, a second head, anything after the end."""
    with pytest.raises(RuntimeError):
        await Answer().body(b"")
    answer = Answer()
    await answer.start(PLAIN)
    with pytest.raises(RuntimeError):
        await answer.start(PLAIN)
    await answer.body(b"12345")
    with pytest.raises(RuntimeError):
        await answer.body(b"")


async def test_nothing_is_written_for_a_client_that_has_gone() -> None:
    """And nothing is raised: the application need not know."""
    answer = Answer()
    answer.cycle.disconnected = True
    await answer.start(PLAIN)
    await answer.body(b"12345")
    assert answer.transport.writes == []
