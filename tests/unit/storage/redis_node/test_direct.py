"""A connection that is used for one call after the other never gives one call the answer to another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError

from services.storage.redis_node.direct import DirectConnection

COMMANDS = [("SET", "a", b"\r\n\x00"), ("ZADD", "b", 7, "c")]
ASKED = (
    b"*1\r\n$5\r\nMULTI\r\n"
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$3\r\n\r\n\x00\r\n"
    b"*4\r\n$4\r\nZADD\r\n$1\r\nb\r\n$1\r\n7\r\n$1\r\nc\r\n"
    b"*1\r\n$4\r\nEXEC\r\n"
)
QUEUED = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n"
GET = ("GET", "a")


class Server:
    """Sends the next of `answers` for whatever comes; None is no answer, and "" the end of the connection."""

    def __init__(self) -> None:
        self.answers: list[bytes | None] = []
        self.asked: list[bytes] = []
        self.connections = 0
        self.wanted_id: str | None = None
        self.tasks: list[asyncio.Task[None] | None] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.tasks.append(asyncio.current_task())
        while asked := await reader.read(65536):
            self.asked.append(asked)
            answer = self.answers.pop(0)
            if answer == b"":
                break
            if answer is not None:
                writer.write(answer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, DirectConnection]]:
    found = Server()
    listening = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    pool = BlockingConnectionPool(
        host="127.0.0.1", port=port, protocol=2, driver_info=None, retry=Retry(NoBackoff(), 0), socket_timeout=None
    )
    connection = DirectConnection(pool, lambda: found.wanted_id)
    async with asyncio.timeout(10), listening:
        yield found, connection
        await connection.aclose()
        await asyncio.wait([task for task in found.tasks if task is not None])


@pytest.fixture
def script(server) -> Server:
    return server[0]


@pytest.fixture
def connection(server) -> DirectConnection:
    return server[1]


async def test_a_transaction_is_one_message(script, connection) -> None:
    """Bytes and numbers as they are; the answers are those of EXEC."""
    script.answers = [QUEUED + b"*2\r\n+OK\r\n:1\r\n"]
    assert await connection.transaction(COMMANDS) == [b"OK", 1]
    assert script.asked == [ASKED]


async def test_calls_share_the_connection(script, connection) -> None:
    """It is made once."""
    script.answers = [b"$1\r\nx\r\n", b"$-1\r\n"]
    assert await connection.call(GET) == b"x"
    assert await connection.call(GET) is None
    assert script.connections == 1


async def test_what_the_server_refuses_is_raised_and_ends_nothing(script, connection) -> None:
    """The reason, and not that EXEC was discarded for it; all answers were read, so that the connection is good."""
    refused = b"+OK\r\n-OOM command not allowed when used memory > 'maxmemory'.\r\n+QUEUED\r\n-EXECABORT discarded\r\n"
    failed = QUEUED + b"*2\r\n+OK\r\n-WRONGTYPE no\r\n"
    script.answers = [refused, failed, b"$1\r\nx\r\n"]
    with pytest.raises(OutOfMemoryError):
        await connection.transaction(COMMANDS)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await connection.transaction(COMMANDS)
    assert await connection.call(GET) == b"x"
    assert script.connections == 1


@pytest.mark.parametrize("answers", [b"*1\r\n+OK\r\n", b"*3\r\n+OK\r\n:1\r\n:1\r\n", b"*-1\r\n", b":2\r\n"])
async def test_another_number_of_answers_closes_it(script, connection, answers) -> None:
    """What the server said is not what was asked: nothing else is read from that connection."""
    script.answers = [QUEUED + answers, b"$1\r\nx\r\n"]
    with pytest.raises(ResponseError):
        await connection.transaction(COMMANDS)
    assert await connection.call(GET) == b"x"
    assert script.connections == 2


async def test_a_call_that_was_given_up_leaves_its_answer_to_nobody(script, connection) -> None:
    """It may come any time; the next call goes over another connection."""
    script.answers = [None, b"$1\r\nx\r\n"]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await connection.call(GET)
    assert await connection.call(GET) == b"x"
    assert script.connections == 2


async def test_what_nobody_asked_for_is_read_by_nobody(script, connection) -> None:
    """A server that sends an answer too many loses the connection."""
    script.answers = [b"$1\r\nx\r\n$1\r\ny\r\n", b"$1\r\nz\r\n"]
    assert await connection.call(GET) == b"x"
    assert await connection.call(GET) == b"z"
    assert script.connections == 2


async def test_a_server_that_went_away_fails_the_call(script, connection) -> None:
    """A call under way fails; one after it finds the server again."""
    script.answers = [b"", b"$1\r\nx\r\n"]
    with pytest.raises(RedisConnectionError):
        await connection.call(GET)
    assert await connection.call(GET) == b"x"
    assert script.connections == 2


async def test_a_server_is_asked_for_its_id_once(script, connection) -> None:
    """Before the first call over a connection."""
    script.wanted_id = "1"
    script.answers = [b"$1\r\n1\r\n", b"$1\r\nx\r\n", b"$1\r\ny\r\n"]
    assert [await connection.call(GET) for _ in range(2)] == [b"x", b"y"]
    assert script.asked[0] == b"*2\r\n$3\r\nGET\r\n$9\r\ntrivet:id\r\n"
    assert (len(script.asked), script.connections) == (3, 1)


@pytest.mark.parametrize("answer", [b"$1\r\n2\r\n", b"$-1\r\n"], ids=["another", "emptied"])
async def test_another_server_at_the_address_gets_no_call(script, connection, answer) -> None:
    """The one that was inspected went away, and its successor would acknowledge in its name."""
    script.wanted_id = "1"
    script.answers = [b"$1\r\n1\r\n", b"", answer]
    for _ in range(2):
        with pytest.raises(RedisConnectionError):
            await connection.call(GET)
    assert (len(script.asked), script.connections) == (3, 2), "its id, a call, and the id of the other"


async def test_when_another_server_is_wanted_the_connection_is_made_anew(script, connection) -> None:
    """The old one may live on, and would acknowledge what nobody looks for there."""
    script.wanted_id = "1"
    script.answers = [b"$1\r\n1\r\n", b"$1\r\nx\r\n", b"$1\r\n2\r\n", b"$1\r\ny\r\n"]
    assert await connection.call(GET) == b"x"
    script.wanted_id = "2"
    assert await connection.call(GET) == b"y"
    assert script.connections == 2
