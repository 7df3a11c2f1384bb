"""Sending over the loopback is not paced; over a network it is sent as the host says."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from fastapi import FastAPI

from shared.cluster_keys import derive_peer_keys
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.peer_calls.loopback import is_loopback, send_unpaced
from shared.roles import Role
from shared.web.service_app import create_app

ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
pytestmark = pytest.mark.skipif(not ALLOWED.exists(), reason="Linux only")


def algorithm_of(connection: socket.socket) -> str:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


@pytest.fixture
def paced() -> Iterator[socket.socket]:
    """A socket with another algorithm than the one under test, where the host has one."""
    with socket.socket() as connection:
        other = next((name for name in ALLOWED.read_text().split() if name != "reno"), "reno")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, other.encode())
        yield connection


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1"])
def test_a_peer_on_this_machine_is_sent_to_without_pacing(host, paced) -> None:
    """Whichever address of the loopback it has."""
    send_unpaced(paced, host)
    assert is_loopback(host)
    assert algorithm_of(paced) == "reno"


@pytest.mark.parametrize("host", ["192.0.2.1", "::ffff:192.0.2.1", "fe80::1%lo", "2001:db8::1", "localhost", ""])
def test_a_peer_elsewhere_is_left_to_the_host(host, paced) -> None:
    """What is no numeric address of the loopback, too."""
    before = algorithm_of(paced)
    send_unpaced(paced, host)
    assert not is_loopback(host)
    assert algorithm_of(paced) == before


def test_a_system_that_refuses_costs_nothing_but_speed() -> None:
    """As for a connection that is closed already."""
    closed = socket.socket()
    closed.close()
    send_unpaced(closed, "127.0.0.1")


@asynccontextmanager
async def no_lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield


async def test_both_ends_of_a_call_over_the_loopback_send_unpaced(serve_app) -> None:
    """The connection of the client and the one that the server accepted."""
    app = create_app(title="Test", description="A test.", lifespan=no_lifespan, readiness=list, verifier=None)
    url = serve_app(app)
    port = int(url.rpartition(":")[2])
    async with PeerClient(derive_peer_keys("k" * 32, Role.GATEWAY)) as client:
        answer = await client.request(
            PeerAddress("storage-1", url, Role.STORAGE), "GET", "/healthz", timeout_s=10, is_public=True
        )
        with own_socket(local=port) as server_end, own_socket(remote=port) as client_end:
            found = algorithm_of(server_end), algorithm_of(client_end)
    assert answer.status_code == 200
    assert found == ("reno", "reno")


def own_socket(local: int | None = None, remote: int | None = None) -> socket.socket:
    """This process' end of an established connection, by one of its ports."""
    for found in psutil.Process().net_connections(kind="tcp"):
        if found.raddr and (found.laddr.port == local or found.raddr.port == remote):
            return socket.socket(fileno=os.dup(found.fd))
    raise AssertionError("there is no such connection")
