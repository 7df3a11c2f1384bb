"""Names of NTP servers to addresses, apart from everything else: a resolver that hangs costs freshness, nothing more.

getaddrinfo cannot be cancelled and may take minutes. So each name is looked up in a daemon thread of its own: the loop
never waits for it, and neither does the end of the process.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from dataclasses import dataclass
from typing import Final

import structlog

from services.clock.settings import NtpServer
from shared.timekeeping.host_clock import HostClock
from shared.units import NANOSECONDS_PER_SECOND

logger = structlog.get_logger(__name__)

REFRESH_INTERVAL_NS: Final = 3600 * NANOSECONDS_PER_SECOND
FIRST_RETRY_NS: Final = 2 * NANOSECONDS_PER_SECOND
MAX_RETRY_NS: Final = 64 * NANOSECONDS_PER_SECOND
POOL_ADDRESSES: Final = 4
"""A pool's addresses are servers of different owners and count as sources of their own; other names are one source."""


@dataclass(slots=True)
class _Entry:
    addresses: tuple[str, ...] = ()
    due_ns: int = 0
    retry_ns: int = FIRST_RETRY_NS
    is_running: bool = False
    failure: str = ""


class Resolver:
    """The addresses last known for each server.

    Invariant: at most one look-up per name is under way. Threads write an entry under the lock, and only their own.
    """

    def __init__(self, servers: list[NtpServer], host: HostClock) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._entries = {server: _Entry() for server in servers}
        for server, entry in self._entries.items():
            if _is_address(server.host):
                entry.addresses = (server.host,)
                entry.due_ns = -1

    def addresses(self, server: NtpServer) -> tuple[str, ...]:
        """Numeric addresses, possibly from an hour ago; empty while nothing is known."""
        with self._lock:
            return self._entries[server].addresses

    def failure(self, server: NtpServer) -> str:
        """Why nothing is known, or the last look-up failed; empty when all is well."""
        with self._lock:
            entry = self._entries[server]
            return entry.failure or ("the name is being looked up" if not entry.addresses else "")

    def refresh(self) -> None:
        """Start the look-ups that are due; returns at once."""
        now_ns = self._host.monotonic_ns()
        for server, entry in self._entries.items():
            with self._lock:
                is_due = 0 <= entry.due_ns <= now_ns and not entry.is_running
                entry.is_running |= is_due
            if is_due:
                threading.Thread(target=self._look_up, args=(server, entry), name=f"dns {server}", daemon=True).start()

    def _look_up(self, server: NtpServer, entry: _Entry) -> None:
        try:
            found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_DGRAM)
            failure = ""
        except (OSError, UnicodeError) as error:
            found, failure = [], f"the name cannot be looked up: {error}"
        # IPv4 first: a host without an IPv6 route is still common, and the other way round is rare.
        found.sort(key=lambda info: info[0] != socket.AF_INET)
        wanted = POOL_ADDRESSES if server.host.endswith("pool.ntp.org") else 1
        addresses = tuple(dict.fromkeys(str(info[4][0]) for info in found))[:wanted]
        with self._lock:
            entry.failure = failure
            if addresses:
                entry.addresses = addresses
                entry.retry_ns = FIRST_RETRY_NS
                entry.due_ns = self._host.monotonic_ns() + REFRESH_INTERVAL_NS
            else:
                entry.due_ns = self._host.monotonic_ns() + entry.retry_ns
                entry.retry_ns = min(2 * entry.retry_ns, MAX_RETRY_NS)
            entry.is_running = False


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
