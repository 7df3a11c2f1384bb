"""A hybrid logical clock that does not go back across restarts either: its upper bound lies on disk.

A crash forgets the last timestamp given. So a bound ahead of it is made durable first, renewed every second, and a
restarted clock starts above the bound it finds. Without a disk (the gateway) the floor is raised from outside.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Final

import structlog
from blake3 import blake3

from shared.disk.durable_files import replace_file
from shared.timekeeping.hybrid_logical_clock import MAX_HLC, HybridLogicalClock, Reception, hlc_from_ns, ns_from_hlc
from shared.units import NANOSECONDS_PER_SECOND

logger = structlog.get_logger(__name__)

BOUND_AHEAD_NS: Final = 3 * NANOSECONDS_PER_SECOND
RENEWAL_INTERVAL_S: Final = 1.0

_FORMAT: Final = "trivet-hlc-bound 1"


class DurableHybridClock:
    """Stamps, and keeps a durable bound above every stamp.

    Invariant: with a path, no timestamp is given that is greater than the bound on disk. Normally the bound is renewed
    in a thread long before it is reached; when a disk stalls or a peer pulls the clock far ahead, the caller pays for one
    fsync instead. A bound that cannot be written is logged and shown by `failure`: stamps go on, because time must
    not stop a store that does not depend on it (docs/promises.md, P7), but a restart may then go back.

    Not thread-safe: one event loop uses it.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._clock = HybridLogicalClock()
        self._bound = 0
        self._durable = 0
        self._write_lock = threading.Lock()
        self._floor_ns = 0
        self.failure: str | None = None
        self.inline_renewals = 0
        self.rejected = 0

    @property
    def last(self) -> int:
        """The greatest timestamp given or merged."""
        return self._clock.last

    def open(self, physical_ns: int) -> None:
        """Start above the bound of the last life and make the first own bound durable. Blocks for an fsync."""
        if self._path is None:
            return
        floor = self._read(self._path)
        if floor is None:
            floor = hlc_from_ns(physical_ns + BOUND_AHEAD_NS)
            logger.warning("the hlc bound on disk is damaged; starting ahead of the clock", path=str(self._path))
        self._clock.raise_floor(floor)
        self._floor_ns = ns_from_hlc(floor)
        self._renew(physical_ns)

    def close(self) -> None:
        """Leave exactly the last timestamp as the bound, so that a clean restart has no lead. Blocks for an fsync."""
        if self._path is not None and self.failure is None:
            self._write(self._clock.last, is_last=True)

    def now(self, physical_ns: int) -> int:
        """The next timestamp. Microseconds, except when the bound has to be renewed on the spot."""
        hlc = self._clock.now(physical_ns)
        if hlc > self._bound and self._path is not None:
            self.inline_renewals += 1
            self._renew(physical_ns)
        return hlc

    def receive(self, remote: int, physical_ns: int, *, is_verified: bool, announced_lead_ns: int = 0) -> Reception:
        """Merge a peer's timestamp, as `HybridLogicalClock.receive`; an announced lead is believed up to a restart's."""
        reception = self._clock.receive(
            remote, physical_ns, is_verified=is_verified, announced_lead_ns=min(announced_lead_ns, BOUND_AHEAD_NS)
        )
        if reception is Reception.REJECTED:
            self.rejected += 1
        return reception

    def raise_floor(self, floor: int) -> None:
        """Give only timestamps above `floor` from now on."""
        self._clock.raise_floor(floor)

    def lead_ns(self, physical_ns: int) -> int:
        """How far the last timestamp is ahead of `physical_ns`."""
        return self._clock.lead_ns(physical_ns)

    def restart_lead_ns(self, physical_ns: int) -> int:
        """How far the timestamps lead because this life started above the last one's bound; 0 once time has caught up."""
        return min(max(0, self._floor_ns - physical_ns), BOUND_AHEAD_NS)

    async def keep_bound_ahead(self, physical_ns: int) -> None:
        """Renew the bound in a thread."""
        if self._path is not None:
            bound = self._next_bound(physical_ns)
            await asyncio.to_thread(self._write, bound)
            self._bound = max(self._bound, bound)

    def _next_bound(self, physical_ns: int) -> int:
        ahead_ns = max(physical_ns, ns_from_hlc(self._clock.last)) + BOUND_AHEAD_NS
        return min(hlc_from_ns(ahead_ns), MAX_HLC)

    def _renew(self, physical_ns: int) -> None:
        bound = self._next_bound(physical_ns)
        self._write(bound)
        # Also after a failure: paying for a failing fsync at every stamp would stop the store.
        self._bound = bound

    def _write(self, bound: int, *, is_last: bool = False) -> None:
        # The renewal in the thread and one on the spot may meet; the lower bound must not win.
        with self._write_lock:
            if self._path is None or (bound <= self._durable and not is_last):
                return
            try:
                body = f"{_FORMAT} {bound:016x}"
                replace_file(self._path, f"{body} {_checksum(body)}\n".encode())
            except OSError as error:
                if self.failure is None:
                    logger.exception("the hlc bound cannot be made durable", path=str(self._path))
                self.failure = f"the hlc bound cannot be written: {error.strerror}"
            else:
                # Each renewal is a new file with its own fsync, so a success after a failure is a true one.
                self.failure = None
                self._durable = bound

    @staticmethod
    def _read(path: Path) -> int | None:
        """The bound on disk, 0 when there is none yet, None when it is damaged."""
        try:
            body, _, checksum = path.read_text().strip().rpartition(" ")
        except FileNotFoundError:
            return 0
        except (OSError, UnicodeDecodeError):
            return None
        name, _, bound = body.rpartition(" ")
        if checksum != _checksum(body) or name != _FORMAT:
            return None
        return int(bound, 16)


def _checksum(body: str) -> str:
    return blake3(body.encode()).hexdigest()[:8]
