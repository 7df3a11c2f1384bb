"""Clients that take their time (docs/faults.md, "Bad input": B10 and B11), all at once, and an ordinary client beside them."""

from __future__ import annotations

import select
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import cast

import httpx
import pytest

from local_cluster.cluster import Cluster
from shared.units import MIB
from tests.credentials import bearer_line

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

SLOWLORIS = 500
DEADLINE_S = 60.0


@dataclass
class Outcome:
    """What became of the attacks; times are seconds since each began."""

    half_heads: list[tuple[float, bytes]] = field(default_factory=list)
    trickled: tuple[float, bytes] = (0.0, b"")
    unread_closed_s: float = 0.0
    ordinary: list[int] = field(default_factory=list)


def _drain(connection: socket.socket) -> bytes:
    received = bytearray()
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return bytes(received)


def _address(cluster: Cluster) -> tuple[str, int]:
    url = httpx.URL(cluster.gateway_url)
    return url.host, url.port or 80


def _readable(connections: set[socket.socket]) -> list[socket.socket]:
    """Those from which there is something to read within a second. Not by select(2), which ends at the 1,024th open file."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        return [cast("socket.socket", key.fileobj) for key, _ in selector.select(1.0)]


def _half_heads(address: tuple[str, int], outcome: Outcome) -> None:
    """500 connections that never finish their head, each sending another byte now and then."""
    began: dict[socket.socket, float] = {}
    try:
        for _ in range(SLOWLORIS):
            connection = socket.create_connection(address, timeout=DEADLINE_S)
            began[connection] = time.monotonic()
            connection.sendall(b"GET /v1/time HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: ")
        waiting = set(began)
        deadline = time.monotonic() + DEADLINE_S
        while waiting and time.monotonic() < deadline:
            answered = _readable(waiting)
            for connection in answered:
                outcome.half_heads.append((time.monotonic() - began[connection], _drain(connection)))
                waiting.discard(connection)
            if not answered:
                for connection in waiting:
                    connection.sendall(b"x")
    finally:
        for connection in began:
            connection.close()


def _trickle(cluster: Cluster, path: str, outcome: Outcome) -> None:
    """A body at one byte a second."""
    began = time.monotonic()
    with socket.create_connection(_address(cluster), timeout=DEADLINE_S) as connection:
        fields = f"host: 127.0.0.1\r\n{bearer_line(cluster)}content-length: 1000000"
        connection.sendall(f"PUT {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        while not _readable({connection}) and time.monotonic() - began < DEADLINE_S:
            connection.sendall(b"x")
        outcome.trickled = time.monotonic() - began, _drain(connection)


def _read_nothing(cluster: Cluster, path: str, outcome: Outcome) -> None:
    """Ask for a large file and never take it: closed is when the other side is seen to be gone."""
    began = time.monotonic()
    with socket.create_connection(_address(cluster), timeout=DEADLINE_S) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{bearer_line(cluster)}\r\n".encode())
        poll = select.poll()
        poll.register(connection, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        assert poll.poll(DEADLINE_S * 1000), "never closed"
        outcome.unread_closed_s = time.monotonic() - began


def _ordinary(cluster: Cluster, bucket: str, outcome: Outcome, stop: threading.Event) -> None:
    with httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=10, trust_env=False) as client:
        while not stop.is_set():
            try:
                outcome.ordinary.append(client.put(f"/v1/files/{bucket}/ordinary", content=b"x").status_code)
                outcome.ordinary.append(client.get(f"/v1/files/{bucket}/ordinary").status_code)
            except httpx.TransportError:
                outcome.ordinary.append(0)
            stop.wait(0.05)


@pytest.fixture(scope="module")
def outcome(well_cluster) -> Outcome:
    """All attacks against one gateway, once."""
    bucket, url = "slow-clients", well_cluster.gateway_url
    with httpx.Client(base_url=url, headers=well_cluster.bearer, timeout=30, trust_env=False) as client:
        assert client.put(f"/v1/buckets/{bucket}").status_code in {200, 201}
        assert client.put(f"/v1/files/{bucket}/large", content=bytes(64 * MIB)).is_success
    found, stop = Outcome(), threading.Event()
    attacks = [
        threading.Thread(target=_half_heads, args=(_address(well_cluster), found)),
        threading.Thread(target=_trickle, args=(well_cluster, f"/v1/files/{bucket}/trickled", found)),
        threading.Thread(target=_read_nothing, args=(well_cluster, f"/v1/files/{bucket}/large", found)),
    ]
    ordinary = threading.Thread(target=_ordinary, args=(well_cluster, bucket, found, stop))
    for thread in (*attacks, ordinary):
        thread.start()
    for thread in attacks:
        thread.join(2 * DEADLINE_S)
    stop.set()
    ordinary.join(DEADLINE_S)
    return found


def test_b10_five_hundred_half_heads_are_408_within_ten_seconds(outcome) -> None:
    """A byte now and then does not help them."""
    assert len(outcome.half_heads) == SLOWLORIS
    assert all(answer.startswith(b"HTTP/1.1 408 ") for _, answer in outcome.half_heads)
    slowest_s = max(seconds for seconds, _ in outcome.half_heads)
    print(f"the last of them after {slowest_s:.2f} s")
    assert slowest_s <= 10.0


def test_b10_others_are_served_meanwhile(outcome) -> None:
    """99 of 100 requests."""
    succeeded = sum(status in {200, 201} for status in outcome.ordinary)
    print(f"{succeeded} of {len(outcome.ordinary)} requests")
    assert len(outcome.ordinary) >= 100
    assert succeeded >= 0.99 * len(outcome.ordinary)


def test_b11_a_body_of_a_byte_a_second_is_408(outcome) -> None:
    """Within 30 s."""
    seconds, answer = outcome.trickled
    print(f"after {seconds:.2f} s")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert seconds <= 30.0


def test_b11_a_reader_that_never_reads_is_cut_off(outcome) -> None:
    """Within 30 s."""
    print(f"after {outcome.unread_closed_s:.2f} s")
    assert 0.0 < outcome.unread_closed_s <= 30.0
