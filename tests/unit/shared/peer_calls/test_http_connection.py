"""`shared.peer_calls.http_connection`: an answer is given once and whole, or not at all, however its bytes are cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from shared.peer_calls import http_connection
from shared.peer_calls.http_connection import (
    KEEPALIVE_EXPIRY_S,
    MAX_ANSWER_BYTES,
    MAX_HEAD_BYTES,
    HttpConnection,
    MalformedAnswerError,
    PeerAnswer,
    StaleConnectionError,
)
from shared.reused_buffers import ReusedBuffers
from shared.stalls import MAX_STALLS

HEAD = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
WITH_LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\nX-Some: a\r\nx-some: b\r\n\r\n0123456789"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n012\r\n7\r\n3456789\r\n0\r\n\r\n"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + WITH_LENGTH
TRAILED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\ntrailer: x\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """Keeps what is written; `unsent_bytes` is what the peer has not taken."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[object] = []
        self.is_aborted = False
        self.unsent_bytes = 0

    def writelines(self, list_of_data) -> None:
        self.sent += list_of_data

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_aborted

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes


class FakeTimer:
    def __init__(self, due_s: float, call: Callable[[], None]) -> None:
        self.due_s, self.call, self.is_cancelled = due_s, call, False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeLoop:
    """The time of the event loop, driven by the test."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.timers: list[FakeTimer] = []

    def time(self) -> float:
        return self.now_s

    def create_future(self) -> asyncio.Future:
        return asyncio.get_running_loop().create_future()

    def call_at(self, due_s: float, call: Callable[[], None]) -> FakeTimer:
        self.timers.append(FakeTimer(due_s, call))
        return self.timers[-1]

    def advance(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while due := [timer for timer in self.timers if not timer.is_cancelled and timer.due_s <= end_s]:
            self._fire(min(due, key=lambda timer: timer.due_s))
        self.now_s = end_s

    def stand_still(self, seconds: float) -> None:
        """Run nothing for so long; then what is due, once."""
        self.now_s += seconds
        for timer in [timer for timer in self.timers if not timer.is_cancelled and timer.due_s <= self.now_s]:
            self._fire(timer)

    def _fire(self, timer: FakeTimer) -> None:
        self.timers.remove(timer)
        self.now_s = max(self.now_s, timer.due_s)
        timer.call()


class Bench:
    """A connection, and its two ends."""

    def __init__(self, monkeypatch) -> None:
        self.clock = FakeLoop()
        monkeypatch.setattr(http_connection.asyncio, "get_running_loop", lambda: self.clock)
        self.lost: list[HttpConnection] = []
        self.connection = HttpConnection(memoryview(bytearray(4096)), ReusedBuffers(bytearray), self.lost.append)
        monkeypatch.undo()
        self.transport = FakeTransport()
        self.connection.connection_made(self.transport)

    async def ask(self, *content: bytes, timeout_s: float = 5.0) -> asyncio.Future[PeerAnswer]:
        """An exchange under way."""
        exchange = asyncio.ensure_future(self.connection.exchange(HEAD, content, timeout_s))
        await asyncio.sleep(0)
        return exchange

    def feed(self, data: bytes) -> None:
        while data and not self.transport.is_aborted:
            buffer = self.connection.get_buffer(-1)
            count = min(len(buffer), len(data))
            buffer[:count] = data[:count]
            data = data[count:]
            self.connection.buffer_updated(count)


@pytest.fixture
async def bench(monkeypatch) -> Bench:
    return Bench(monkeypatch)


answers = pytest.mark.parametrize(
    "answer",
    [WITH_LENGTH, CHUNKED, CONTINUED, TRAILED],
    ids=["length", "chunked", "after interim answers", "with a trailer"],
)


@answers
async def test_an_answer_cut_in_two_anywhere_is_whole(bench: Bench, answer: bytes) -> None:
    """Each is followed by another exchange on the same connection."""
    for cut in range(1, len(answer)):
        exchange = await bench.ask()
        bench.feed(answer[:cut])
        await asyncio.sleep(0)
        assert not exchange.done()
        bench.feed(answer[cut:])
        given = await exchange
        assert (given.status_code, bytes(given.content)) == (200, b"0123456789")
        assert bench.connection.is_idle


@answers
async def test_an_answer_that_comes_byte_by_byte_is_whole(bench: Bench, answer: bytes) -> None:
    """The finest cut there is."""
    exchange = await bench.ask()
    for at in range(len(answer)):
        bench.feed(answer[at : at + 1])
    assert bytes((await exchange).content) == b"0123456789"
    assert bench.connection.is_idle


async def test_headers_have_small_letters_and_repeated_ones_are_a_list(bench: Bench) -> None:
    """Of RFC 9110, section 5.3."""
    exchange = await bench.ask()
    bench.feed(WITH_LENGTH)
    assert (await exchange).headers == {"content-length": "10", "x-some": "a, b"}


async def test_a_large_answer_is_received_where_it_stays(bench: Bench) -> None:
    """Many reads, and the bytes of all of them in order."""
    body = bytes(range(256)) * 4096
    exchange = await bench.ask()
    bench.feed(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    assert (await exchange).content == body
    assert bench.connection.is_idle


async def test_a_body_is_written_as_it_is(bench: Bench) -> None:
    """Not joined to its head, not copied."""
    body = b"x" * 100_000
    exchange = await bench.ask(body)
    assert bench.transport.sent[0] == HEAD
    assert bench.transport.sent[1] is body
    bench.feed(WITH_LENGTH)
    await exchange


@pytest.mark.parametrize("tail", [b"H", b"\x00", WITH_LENGTH, WITH_LENGTH[:30], CHUNKED])
@answers
async def test_what_follows_an_answer_closes_the_connection(bench: Bench, answer: bytes, tail: bytes) -> None:
    """The answer is given; the next exchange cannot be answered by what was left of this one."""
    exchange = await bench.ask()
    bench.feed(answer + tail)
    assert bytes((await exchange).content) == b"0123456789"
    assert bench.transport.is_aborted
    assert not bench.connection.is_idle


async def test_bytes_that_nobody_asked_for_close_the_connection(bench: Bench) -> None:
    """While it is idle, and before its first exchange too."""
    bench.feed(b"HTTP/1.1 200 OK\r\n")
    assert bench.transport.is_aborted
    with pytest.raises(StaleConnectionError):
        await bench.connection.exchange(HEAD, (), 5.0)


async def test_a_connection_closed_before_an_answer_was_stale(bench: Bench) -> None:
    """Not a byte came: as a rule the request was never seen."""
    exchange = await bench.ask()
    bench.connection.connection_lost(None)
    with pytest.raises(StaleConnectionError):
        await exchange
    assert bench.lost == [bench.connection]


@answers
async def test_a_connection_closed_in_mid_answer_is_no_answer(monkeypatch, answer: bytes) -> None:
    """At whichever byte: a body cut short is never taken for a whole one."""
    for cut in range(1, len(answer)):
        bench = Bench(monkeypatch)
        exchange = await bench.ask()
        bench.feed(answer[:cut])
        bench.connection.connection_lost(None)
        with pytest.raises(ConnectionError) as caught:
            await exchange
        assert not isinstance(caught.value, StaleConnectionError)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n0123456789",
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (MAX_ANSWER_BYTES + 1),
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"a" * 10 * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * MAX_HEAD_BYTES,
        b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_HEAD_BYTES,
        b"GET / HTTP/1.1\r\n\r\n",
        b"\r\n\x00",
    ],
)
async def test_what_is_not_an_answer_of_ours_ends_the_exchange(bench: Bench, answer: bytes) -> None:
    """Without waiting for the end that may never come, and without memory for what was only announced."""
    exchange = await bench.ask()
    bench.feed(answer)
    with pytest.raises(MalformedAnswerError):
        await exchange
    assert bench.transport.is_aborted


async def test_a_body_without_end_is_not_collected(bench: Bench, monkeypatch) -> None:
    """Chunked, and so of no length that could be refused at its head."""
    monkeypatch.setattr(http_connection, "MAX_ANSWER_BYTES", 10_000)
    exchange = await bench.ask()
    bench.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n")
    for _ in range(100):
        bench.feed(b"400\r\n" + b"x" * 1024 + b"\r\n")
    with pytest.raises(MalformedAnswerError):
        await exchange


async def test_a_length_above_what_is_trusted_is_taken_as_it_comes(bench: Bench, monkeypatch) -> None:
    """Memory grows with what has come, not with what was said."""
    monkeypatch.setattr(http_connection, "_MAX_TRUSTED_BYTES", 1000)
    exchange = await bench.ask()
    bench.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n" + b"x" * 5000)
    assert bench.connection.get_buffer(-1).nbytes == 4096
    bench.feed(b"x" * 5000)
    assert (await exchange).content == b"x" * 10000


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n"]
)
async def test_an_answer_that_has_no_body_needs_no_length(bench: Bench, answer: bytes) -> None:
    """204 and 304, RFC 9112 section 6.3."""
    exchange = await bench.ask()
    bench.feed(answer)
    assert (await exchange).content == b""
    assert bench.connection.is_idle


async def test_an_answer_to_head_ends_with_its_head(bench: Bench) -> None:
    """It announces the length of a body that does not come; the connection is not kept, because the parser waits for it."""
    exchange = asyncio.ensure_future(bench.connection.exchange(HEAD.replace(b"GET", b"HEAD"), (), 5.0))
    await asyncio.sleep(0)
    bench.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 1048576\r\n\r\n")
    answer = await exchange
    assert (answer.headers, answer.content) == ({"content-length": "1048576"}, b"")
    assert not bench.connection.is_idle


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nconnection: close\r\n", b"HTTP/1.0 200 OK\r\n"])
async def test_a_connection_that_its_peer_ends_is_not_kept(bench: Bench, head: bytes) -> None:
    """Said in the head; the answer is whole."""
    exchange = await bench.ask()
    bench.feed(head + b"content-length: 2\r\n\r\nok")
    assert (await exchange).content == b"ok"
    assert not bench.connection.is_idle


async def test_an_answer_before_the_request_was_sent_closes_the_connection(bench: Bench) -> None:
    """What is left of the body would stand before the next request."""
    bench.transport.unsent_bytes = 10
    exchange = await bench.ask(b"x" * 1000)
    bench.feed(WITH_LENGTH)
    assert bytes((await exchange).content) == b"0123456789"
    assert not bench.connection.is_idle


async def test_a_cancelled_exchange_closes_the_connection(bench: Bench) -> None:
    """Its answer, which may still come, is nobody's."""
    exchange = await bench.ask()
    exchange.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange
    assert bench.transport.is_aborted


async def test_every_wait_for_bytes_is_bounded_and_not_their_sum(bench: Bench) -> None:
    """A trickle goes on as long as it goes; silence ends it."""
    exchange = await bench.ask(timeout_s=5.0)
    for at in range(20):
        bench.clock.advance(4.9)
        bench.feed(WITH_LENGTH[at : at + 1])
    bench.clock.advance(4.9)
    assert not bench.transport.is_aborted
    bench.clock.advance(0.2)
    with pytest.raises(TimeoutError):
        await exchange
    assert bench.transport.is_aborted


async def test_time_in_which_we_stood_still_is_not_the_peers_silence(bench: Bench) -> None:
    """When we run again, what has come meanwhile is heard out; it is bounded all the same."""
    exchange = await bench.ask(timeout_s=5.0)
    bench.clock.advance(1.0)
    bench.clock.stand_still(60.0)
    bench.clock.advance(0.9)
    assert not bench.transport.is_aborted
    bench.clock.advance(0.2)
    with pytest.raises(TimeoutError):
        await exchange


async def test_who_stands_still_all_the_time_has_too_much_to_do(bench: Bench) -> None:
    """A peer's silence ends all the same."""
    exchange = await bench.ask(timeout_s=5.0)
    for _ in range(MAX_STALLS):
        bench.clock.stand_still(6.0)
        assert not bench.transport.is_aborted
    bench.clock.stand_still(6.0)
    with pytest.raises(TimeoutError):
        await exchange


async def test_a_request_that_is_being_taken_is_waited_for(bench: Bench) -> None:
    """A peer that reads slowly is not a silent one; one that stops reading is."""
    bench.transport.unsent_bytes = 1000
    exchange = await bench.ask(b"x" * 1000, timeout_s=5.0)
    for left in (900, 500, 1):
        bench.transport.unsent_bytes = left
        bench.clock.advance(5.1)
        assert not bench.transport.is_aborted
    bench.clock.advance(5.1)
    with pytest.raises(TimeoutError):
        await exchange


async def test_an_idle_connection_is_closed_after_its_time(bench: Bench) -> None:
    """Counted from its last exchange, not from its first; and one timer at most is set at any time."""
    for _ in range(3):
        exchange = await bench.ask()
        bench.feed(WITH_LENGTH)
        await exchange
        bench.connection.expire_later()
        bench.clock.advance(KEEPALIVE_EXPIRY_S - 1)
        assert bench.connection.is_idle
        assert sum(not timer.is_cancelled for timer in bench.clock.timers) == 1
    bench.clock.advance(1.1)
    assert bench.transport.is_aborted


async def test_what_is_idle_holds_no_bytes_of_the_last_answer(bench: Bench) -> None:
    """Many connections are idle, and a chunk is a mebibyte."""
    exchange = await bench.ask()
    bench.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n" + b"x" * 10000)
    assert len((await exchange).content) == 10000
    held = [value for value in vars(bench.connection).values() if isinstance(value, bytes | bytearray)]
    assert not any(held)
