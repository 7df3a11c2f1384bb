"""Connections that stay on this machine: nothing on their way can be congested, so what is sent need not be spread over time.

Many hosts run BBR, which paces every connection by timers, the loopback too; there it costs more than half of what sending
1 MiB costs (benchmarks/RESULTS.md). What a path over a network gets stays the host's choice (X-75).
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Any, Final, Protocol

_UNPACED: Final = b"reno"
"""The one that every Linux kernel has and every process may choose; it sends what the window allows, at once."""


class SupportsOptions(Protocol):
    """A socket, or what an event loop hands out in its place."""

    def setsockopt(self, level: int, option: int, value: bytes, /) -> None:
        """As `socket.socket.setsockopt`."""


def send_unpaced(connection: SupportsOptions, peer_host: str) -> None:
    """Take pacing off a TCP connection if `peer_host`, a numeric address, is this machine's loopback.

    Does nothing where the system cannot: it costs speed only.
    """
    if is_loopback(peer_host) and hasattr(socket, "TCP_CONGESTION"):
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _UNPACED)


def is_loopback(host: str) -> bool:
    """Whether `host` is a numeric address of the loopback; IPv4 in the clothes of IPv6 counts."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def make_socket(address_info: tuple[Any, ...]) -> socket.socket:
    """A socket for a client that will connect to `address_info`, an entry of `getaddrinfo`."""
    family, kind, protocol, _, address = address_info
    made = socket.socket(family, kind, protocol)
    send_unpaced(made, address[0])
    return made
