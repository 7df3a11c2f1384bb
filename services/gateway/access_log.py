"""What a gateway writes on standard output about requests that change nothing: refusals, and reads if that is wanted (G-172).

Changes stand in the audit trail, which the log makes; these would cost a log entry each. So they are lines, chained
(`shared.audit_chain`) from each start of the gateway: the first names the start, and none can be changed, removed or put in
afterwards unnoticed. The end of a life can be cut off; whoever collects the lines elsewhere has it.

A request never waits for a line, and neither does the event loop: lines are put into a bounded queue, which one thread writes
a few times a second. What does not fit is counted, and the count is a line of its own. No line has a header, a query or a body.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, NamedTuple, Self

import msgspec
import structlog

from shared.audit_chain import NO_LINK, encode_row, next_link, to_line
from shared.contracts.names import MAX_KEY_BYTES
from shared.contracts.time import rfc3339
from shared.timekeeping.host_clock import HostClock, SystemHostClock

logger = structlog.get_logger(__name__)

QUEUE_LINES_MAX: Final = 10_000
BATCH_INTERVAL_S: Final = 0.25
CLOSE_WAIT_S: Final = 2.0
NAME_MAX: Final = 3 * MAX_KEY_BYTES
"""Characters that are shown of what a client says: as many as the longest key has in a path."""


class Caller(NamedTuple):
    """Who asked, as far as that is known.

    Attributes:
        principal: an identity, `anonymous` or `system`; empty where the credential proves nobody.
        access_key: the id of the key that was shown. Never anything of its secret.
        request: the id of the request.
        address: of the client.
    """

    principal: str = ""
    access_key: str = ""
    request: str = ""
    address: str = ""


class About(NamedTuple):
    """What was asked for, as far as that is known.

    Attributes:
        method, path: of the request; without its query, which may be that of a signed link.
        action, bucket, key: as the policy sees it.
    """

    method: str = ""
    path: str = ""
    action: str = ""
    bucket: str = ""
    key: str = ""


NOTHING: Final = About()


class AccessLine(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One line. Fields that say nothing are left out.

    Attributes:
        index: its place among the lines of one start of the gateway, from 1.
        event: `start`, `read`, `denied`, or `dropped`, with the `count` of lines that were not written.
        code: why it was denied.
        boot, gateway, writes: in the first line: which start of which gateway, and what it writes (`TRIVET_AUDIT_READS`).
    """

    index: int
    time: str
    event: str
    code: str = ""
    method: str = ""
    path: str = ""
    action: str = ""
    bucket: str = ""
    key: str = ""
    principal: str = ""
    access_key: str = ""
    request: str = ""
    address: str = ""
    count: int = 0
    boot: str = ""
    gateway: str = ""
    writes: str = ""


class _WaitingLine(NamedTuple):
    wall_ns: int
    event: str
    code: str
    caller: Caller
    about: About


class AccessLog:
    """Writes the lines of one start of a gateway. Use it as a context manager: leaving it writes what waits.

    `writes`: see `GatewaySettings.audit_reads`. `write` gets whole lines, in a thread of its own.

    Invariant: what `write` was given, but for a write that failed, is one chain.
    """

    def __init__(
        self, write: Callable[[str], object], clock: HostClock, *, boot_id: str, gateway_id: str, writes: str
    ) -> None:
        self._write = write
        self._clock = clock
        self._boot_id = boot_id
        self._gateway_id = gateway_id
        self._writes = writes
        self._waiting: deque[_WaitingLine] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._is_awake = False
        self._refused = 0
        self._failed = 0
        self._told_dropped = 0
        self._index = 0
        self._link = NO_LINK
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)

    def __enter__(self) -> Self:
        if self._writes != "none":
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._wake.set()
        if self._writes != "none":
            # Whoever reads our output may have stopped: the process ends all the same.
            self._thread.join(CLOSE_WAIT_S)

    @property
    def dropped(self) -> int:
        """Lines that were not written since the start, because too many waited or a write failed."""
        return self._refused + self._failed

    @property
    def has_reads(self) -> bool:
        """Whether reads are written: whoever makes many need not describe them otherwise."""
        return self._writes == "all"

    def denied(self, caller: Caller, code: str, about: About = NOTHING) -> None:
        """A request was refused, with the code of the error. Never waits."""
        if self._writes != "none":
            self._put(_WaitingLine(self._clock.wall_ns(), "denied", code, caller, about))

    def read(self, caller: Caller, about: About) -> None:
        """A request that changes nothing was allowed. Never waits."""
        if self._writes == "all":
            self._put(_WaitingLine(self._clock.wall_ns(), "read", "", caller, about))

    def _put(self, waiting: _WaitingLine) -> None:
        if len(self._waiting) >= QUEUE_LINES_MAX:
            self._refused += 1
            return
        self._waiting.append(waiting)
        if not self._is_awake:
            self._is_awake = True
            self._wake.set()

    def _run(self) -> None:
        self._write_waiting()
        while not self._closing.is_set():
            self._wake.wait()
            # Others join: one write for all lines of the moment.
            self._closing.wait(BATCH_INTERVAL_S)
            self._wake.clear()
            self._is_awake = False
            self._write_waiting()
        self._write_waiting()

    def _write_waiting(self) -> None:
        lines = [] if self._index else [self._start()]
        while self._waiting:
            lines.append(self._line_of(self._waiting.popleft()))
        if (dropped := self.dropped) > self._told_dropped:
            count, self._told_dropped = dropped - self._told_dropped, dropped
            lines.append(self._chained(AccessLine(self._index + 1, self._now(), "dropped", count=count)))
        if not lines:
            return
        try:
            self._write(b"".join(lines).decode("ascii"))
        except (OSError, ValueError) as error:
            # What arrived is not known: another chain begins, which says how many lines this one may lack.
            logger.warning("lines of the access log were lost", lines=len(lines), reason=str(error))
            self._failed += len(lines)
            self._index, self._link = 0, NO_LINK

    def _start(self) -> bytes:
        return self._chained(
            AccessLine(
                self._index + 1,
                self._now(),
                "start",
                boot=self._boot_id,
                gateway=self._gateway_id,
                writes=self._writes,
            )
        )

    def _line_of(self, waiting: _WaitingLine) -> bytes:
        caller, about = waiting.caller, waiting.about
        return self._chained(
            AccessLine(
                self._index + 1,
                rfc3339(waiting.wall_ns),
                waiting.event,
                code=waiting.code,
                method=about.method[:NAME_MAX],
                path=about.path[:NAME_MAX],
                action=about.action,
                bucket=about.bucket[:NAME_MAX],
                key=about.key[:NAME_MAX],
                principal=caller.principal,
                access_key=caller.access_key[:NAME_MAX],
                request=caller.request[:NAME_MAX],
                address=caller.address,
            )
        )

    def _now(self) -> str:
        return rfc3339(self._clock.wall_ns())

    def _chained(self, line: AccessLine) -> bytes:
        row = encode_row(line)
        self._index, self._link = line.index, next_link(self._link, row)
        return to_line(self._link, row)


def silent_log() -> AccessLog:
    """One that writes nothing."""
    return AccessLog(lambda _text: None, SystemHostClock(), boot_id="", gateway_id="", writes="none")
