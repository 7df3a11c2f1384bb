"""`shared.peer_calls.connection_pool`: connections are reused, bounded, and made to whichever address accepts."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import uvloop

from shared.cluster_keys import derive_peer_keys
from shared.errors import PeerAnswerInvalidError, PeerUnreachableError
from shared.peer_address import PeerAddress
from shared.peer_calls.connection_pool import ConnectionPool
from shared.peer_calls.http_client import PeerClient
from shared.roles import Role

KEYS = derive_peer_keys("k" * 32, Role.GATEWAY)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Server:
    """Answers `OK` to every request but those whose number (from 1) is in `closed_at`: there it closes without a word."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.handlers: list[asyncio.Task | None] = []
        self._asked = asyncio.Semaphore(0)
        self.peer_hosts: list[str] = []
        self.closed_at: set[int] = set()
        self.hold = asyncio.Event()
        self.hold.set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peer_hosts.append(writer.get_extra_info("peername")[0])
        self.handlers.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                self.requests.append(head + await reader.readexactly(int(length[1]) if length else 0))
                self._asked.release()
                if len(self.requests) in self.closed_at:
                    break
                await self.hold.wait()
                writer.write(OK)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def until_asked(self, count: int) -> None:
        """Once per test."""
        for _ in range(count):
            await asyncio.wait_for(self._asked.acquire(), 10)


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Server, PeerAddress]]:
    server = Server()
    async with await asyncio.start_server(server.handle, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        yield server, PeerAddress("storage-1", f"http://127.0.0.1:{port}", Role.STORAGE)
        await asyncio.gather(*server.handlers)


async def ask(client: PeerClient, peer: PeerAddress, method: str = "GET", timeout_s: float = 5.0) -> bytes:
    answer = await client.request(peer, method, "/", timeout_s=timeout_s, is_public=True)
    return bytes(answer.content)


async def test_a_connection_is_used_again() -> None:
    """One after the other need one."""
    async with serving() as (server, peer), PeerClient(KEYS) as client:
        for _ in range(5):
            assert await ask(client, peer) == b"ok"
    assert len(server.peer_hosts) == 1


async def test_a_request_on_a_stale_connection_is_sent_once_more_when_that_does_no_harm() -> None:
    """A server that restarts closes what is idle; the second time is signed anew, or it would be refused as a replay."""
    async with serving() as (server, peer), PeerClient(KEYS) as client:
        server.closed_at = {2}
        for _ in range(2):
            with pytest.raises(PeerAnswerInvalidError):  # it was answered; the answer is not authenticated
                await client.request(peer, "GET", "/", timeout_s=5)
        assert len(server.peer_hosts) == 2
        nonces = [re.search(rb"nonce=(\S+?),", request) for request in server.requests]
        assert len({nonce[1] for nonce in nonces if nonce}) == 3


async def test_a_post_on_a_stale_connection_may_have_happened() -> None:
    """It is not sent again, and its outcome is not known."""
    async with serving() as (server, peer), PeerClient(KEYS) as client:
        server.closed_at = {2}
        assert await ask(client, peer) == b"ok"
        with pytest.raises(PeerUnreachableError) as caught:
            await ask(client, peer, "POST")
    assert not caught.value.definite
    assert len(server.requests) == 2


async def test_a_new_connection_that_is_closed_without_an_answer_is_no_stale_one() -> None:
    """It is not tried for ever."""
    async with serving() as (server, peer), PeerClient(KEYS) as client:
        server.closed_at = {1, 2}
        with pytest.raises(PeerUnreachableError) as caught:
            await ask(client, peer)
    assert not caught.value.definite
    assert len(server.requests) == 1


async def test_no_more_connections_than_allowed_are_made() -> None:
    """The others wait for one, and for no longer than they may; nothing of theirs was sent."""
    async with serving() as (server, peer), PeerClient(KEYS, max_connections=2) as client:
        server.hold.clear()
        first = [asyncio.ensure_future(ask(client, peer)) for _ in range(2)]
        await server.until_asked(2)
        with pytest.raises(PeerUnreachableError) as caught:
            await ask(client, peer, timeout_s=0.01)
        assert caught.value.definite
        third = asyncio.ensure_future(ask(client, peer))
        server.hold.set()
        assert await asyncio.gather(*first, third) == [b"ok"] * 3
        assert len(server.peer_hosts) == 2


async def test_a_cancelled_request_gives_its_place_back() -> None:
    """With its connection closed, another takes its place."""
    async with serving() as (server, peer), PeerClient(KEYS, max_connections=1) as client:
        server.hold.clear()
        cancelled = asyncio.ensure_future(ask(client, peer))
        await server.until_asked(1)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        server.hold.set()
        assert await ask(client, peer) == b"ok"
        assert len(server.peer_hosts) == 2


async def test_a_large_body_to_a_peer_that_does_not_read_ends_in_time() -> None:
    """Not definite: some of it was sent."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()
        ended.set()

    release, ended = asyncio.Event(), asyncio.Event()
    async with await asyncio.start_server(handle, "127.0.0.1", 0, limit=1024) as server, PeerClient(KEYS) as client:
        peer = PeerAddress("storage-1", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", Role.STORAGE)
        with pytest.raises(PeerUnreachableError) as caught:
            await client.request(peer, "PUT", "/", content=b"x" * 32_000_000, timeout_s=0.3)
        release.set()
        await ended.wait()
    assert not caught.value.definite


async def test_a_large_answer_and_a_large_request_are_whole() -> None:
    """Through the sockets, in as many reads and writes as these take."""
    body = random.Random(1).randbytes(5_000_000)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                given = await reader.readexactly(len(body))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(given) + given)
        writer.close()
        ended.set()

    ended = asyncio.Event()
    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        peer = PeerAddress("storage-1", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", Role.STORAGE)
        async with PeerClient(KEYS) as client:
            for _ in range(3):
                answer = await client.request(peer, "PUT", "/", content=body, timeout_s=5, is_public=True)
                assert answer.content == body
        await ended.wait()


async def test_the_next_address_of_a_host_is_tried(monkeypatch) -> None:
    """A name may stand for an address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refused = closed.getsockname()

    async def resolve(self: ConnectionPool) -> list[tuple]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (refused, (self._host, self._port))]

    monkeypatch.setattr(ConnectionPool, "_resolve", resolve)
    async with serving() as (_, peer), PeerClient(KEYS) as client:
        assert await ask(client, peer) == b"ok"


async def test_a_name_is_resolved() -> None:
    """Not only numbers."""
    async with serving() as (_, peer), PeerClient(KEYS) as client:
        assert (
            await ask(client, PeerAddress(peer.id, peer.url.replace("127.0.0.1", "localhost"), Role.STORAGE)) == b"ok"
        )


async def test_the_local_address_is_the_one_that_was_asked_for() -> None:
    """Fault tests tell processes apart by it."""
    async with serving() as (server, peer), PeerClient(KEYS, local_address="127.0.0.2") as client:
        assert await ask(client, peer) == b"ok"
    assert server.peer_hosts == ["127.0.0.2"]


@pytest.mark.parametrize("url", ["", "storage-1:8101", "ftp://x", "http://", "http://x:99999999"])
async def test_what_is_no_address_is_a_typed_failure(url: str) -> None:
    """An id may stand in the node map before its address does."""
    async with PeerClient(KEYS) as client:
        with pytest.raises(PeerUnreachableError) as caught:
            await ask(client, PeerAddress("storage-1", url, Role.STORAGE))
    assert caught.value.definite


@pytest.mark.parametrize(
    "scenario",
    [
        test_a_connection_is_used_again,
        test_a_request_on_a_stale_connection_is_sent_once_more_when_that_does_no_harm,
        test_a_post_on_a_stale_connection_may_have_happened,
        test_a_new_connection_that_is_closed_without_an_answer_is_no_stale_one,
        test_no_more_connections_than_allowed_are_made,
        test_a_cancelled_request_gives_its_place_back,
        test_a_large_body_to_a_peer_that_does_not_read_ends_in_time,
        test_a_large_answer_and_a_large_request_are_whole,
        test_the_local_address_is_the_one_that_was_asked_for,
    ],
)
def test_it_is_the_same_on_the_loop_of_the_services(scenario) -> None:
    """Services run on uvloop, whose transports are of its own making; the other tests run on asyncio's."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
