"""The operations listener of a real process; the clock service, because it is the quickest to start."""

from __future__ import annotations

import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.integration.clock.support import ClockProcess
from tests.waiting import block_until

DESCRIPTORS = 200
"""So that the data port takes 100 connections (`shared.web.descriptors.max_connections`)."""


def half_a_request(stack: ExitStack, port: int) -> socket.socket:
    """A connection that has begun to ask, so that it is not idle."""
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
    connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n")
    return connection


def test_a_crowd_on_the_data_port_does_not_shut_out_probes(tmp_path: Path) -> None:
    """Every place of the data port is taken by half requests: it refuses the next one, and the operations port answers."""
    clock = ClockProcess(tmp_path, prefix=("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"), ntp_servers="")
    clock.start()
    try:
        with ExitStack() as stack:
            for _ in range(DESCRIPTORS // 2 + 5):
                half_a_request(stack, clock.port)

            def is_crowded() -> bool:
                # One of which nothing has been read yet is idle, and gives way.
                half_a_request(stack, clock.port)
                return not _is_served(clock)

            block_until(is_crowded, "every place is taken")
            assert clock.operations("/healthz").json() == {"status": "alive"}
            assert clock.operations("/readyz").status_code == 200
            assert "process_open_fds" in clock.operations("/metrics").text
    finally:
        clock.stop()


def _is_served(clock: ClockProcess) -> bool:
    try:
        return clock.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_both_listeners_end_with_the_process(tmp_path: Path) -> None:
    """By the signal, after an orderly stop, and at once: nothing on the operations port is waited for."""
    clock = ClockProcess(tmp_path, ntp_servers="")
    clock.start()
    try:
        with ExitStack() as stack:
            half_a_request(stack, clock.operations_port)
            assert clock.stop(signal.SIGTERM) == -signal.SIGTERM
    finally:
        clock.stop()
    for port in (clock.port, clock.operations_port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_taken_operations_port_ends_the_start(tmp_path: Path) -> None:
    """With the reason in the log, and before anything is served."""
    clock = ClockProcess(tmp_path, ntp_servers="")
    with socket.create_server(("127.0.0.1", clock.operations_port)):
        assert clock.spawn().wait(20) == 3
    assert "address already in use" in clock.log.lower()
    assert "Traceback" not in clock.log
