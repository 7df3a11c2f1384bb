"""Fast; part of `make test`: what the proxies claim to do to a link, they do. Over real sockets."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.harness.callers import OUTSIDE, Callers
from tests.faults.harness.network import CUT, Network, Weather
from tests.free_ports import free_port_offset
from tests.waiting import wait_until

CALLED = "storage-1"
DEADLINE_S = 20.0


@asynccontextmanager
async def echo_behind_a_proxy(*, front: tuple[str, ...] = ()) -> AsyncIterator[tuple[Network, int]]:
    """An echo server; this process is known as `gateway-1`."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    target = server.sockets[0].getsockname()[1]
    port = 8101 + free_port_offset()
    async with Network(Callers(lambda: {"gateway-1": os.getpid()}), seed=1, front=front) as network:
        await network.listen(CALLED, port, target)
        yield network, port
    server.close()


async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, words: bytes) -> bytes:
    writer.write(words)
    return await asyncio.wait_for(reader.readexactly(len(words)), DEADLINE_S)


async def test_a_clear_link_carries_everything_and_knows_its_caller() -> None:
    """The kernel tells whose connection it is."""
    async with echo_behind_a_proxy() as (network, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await say(reader, writer, b"x" * 300_000) == b"x" * 300_000
        assert network.open_connections("gateway-1", CALLED) == 1
        assert network.open_connections(OUTSIDE, CALLED) == 0
        writer.close()


async def test_who_calls_the_front_is_outside_without_a_look() -> None:
    """A look takes milliseconds, and hundreds of clients at once would hold the links of all others up."""
    async with echo_behind_a_proxy(front=(CALLED,)) as (network, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await say(reader, writer, b"x") == b"x"
        assert network.open_connections(OUTSIDE, CALLED) == 1
        writer.close()


@pytest.mark.parametrize("weather", [CUT, Weather(holds_requests=True), Weather(holds_answers=True)])
async def test_what_is_held_arrives_when_the_cable_is_plugged_in_again(weather: Weather) -> None:
    """Nothing is lost, nothing is told."""
    async with echo_behind_a_proxy() as (network, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await say(reader, writer, b"before") == b"before"
        network.set(["gateway-1"], [CALLED], weather)
        writer.write(b"during")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        network.heal()
        assert await asyncio.wait_for(reader.readexactly(6), DEADLINE_S) == b"during"
        writer.close()


async def test_a_link_that_loses_answers_is_broken_afterwards() -> None:
    """The request arrived, its answer never does, and the connection does not go on with a hole in it."""
    async with echo_behind_a_proxy() as (network, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        network.set(["gateway-1"], [CALLED], Weather(loses_answers=True))
        writer.write(b"during")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        await wait_until(lambda: network.counts["lost"] >= 1, "the answer is lost", DEADLINE_S)
        network.heal()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), DEADLINE_S)


async def test_only_the_named_link_is_touched() -> None:
    """A cut between others leaves this one alone."""
    async with echo_behind_a_proxy() as (network, port):
        network.cut(["gateway-2", "outside"], [CALLED])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await say(reader, writer, b"hello") == b"hello"
        writer.close()


async def test_reset_and_half_open_connections_are_what_they_are_called() -> None:
    """One is told at once, the other never, not even that its peer has closed; a new connection works."""
    async with echo_behind_a_proxy() as (network, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await say(reader, writer, b"hello") == b"hello"
        assert network.half_open("gateway-1", CALLED) == 1
        writer.write(b"anybody?")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        fresh_reader, fresh_writer = await asyncio.open_connection("127.0.0.1", port)
        assert await say(fresh_reader, fresh_writer, b"hello") == b"hello"
        writer.close()
        await asyncio.sleep(0.1)
        assert network.open_connections("gateway-1", CALLED) == 2, "the called side was told"
        assert network.reset("gateway-1", CALLED) == 2
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(fresh_reader.read(1), DEADLINE_S)


async def test_delay_bandwidth_and_wrong_bits_are_as_asked() -> None:
    """Each is measured on what comes back."""
    async with echo_behind_a_proxy() as (network, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        network.set(["gateway-1"], [CALLED], Weather(delay_s=0.1))
        began = time.monotonic()
        await say(reader, writer, b"hello")
        assert time.monotonic() - began >= 0.2
        network.set(["gateway-1"], [CALLED], Weather(bytes_per_s=100_000))
        began = time.monotonic()
        await say(reader, writer, b"x" * 20_000)
        assert time.monotonic() - began >= 0.4
        network.set(["gateway-1"], [CALLED], Weather(corrupts_one_in_bytes=1000))
        assert await say(reader, writer, bytes(100_000)) != bytes(100_000)
        assert 50 <= network.counts["corrupted bits"] <= 200
        writer.close()
