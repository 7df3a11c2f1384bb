"""Crashes, errors and delays at a chosen system call of a real process, with no change to its code (strace -e inject).

`when` counts per thread: the nth call of that name, and on those paths, in one thread. A SIGKILL comes on entering the call,
so the call itself does not happen any more.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

WATCHED = "fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat"
"""The calls after which something is durable, named or gone."""

EVERY_READ = "read,readv,pread64,preadv,preadv2"
"""All calls that give bytes of a file: which of them a service uses is its own affair."""

EVERY_SYNC = "fsync,fdatasync,sync_file_range,syncfs"
"""All calls that make bytes durable."""

_ATTACH_WITHIN_S = 20.0
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)$")
_SPAN_LINE = re.compile(r"^(?P<thread>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<name>\w+)\()(?P<rest>.*)$")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_PATH = re.compile(r'"([^"]+)"|<([^>]+)>')


@dataclass(frozen=True, slots=True)
class Injection:
    """What happens at which calls.

    Attributes:
        calls: names of system calls, comma-separated.
        action: as strace writes it: `signal=SIGKILL`, `error=EIO`, `delay_enter=200000` (microseconds),
            `retval=0` (success, and the call is not made).
        when: `3` the third only, `3+` from the third on; empty: always.
        paths: only calls on exactly these paths, or on descriptors that are open on them.
    """

    calls: str
    action: str
    when: str = ""
    paths: Sequence[Path] = field(default=())

    def options(self) -> list[str]:
        when = f":when={self.when}" if self.when else ""
        chosen = ["-e", f"trace={self.calls}", "-e", f"inject={self.calls}:{self.action}{when}"]
        for path in self.paths:
            chosen += ["-P", str(path)]
        # With the filter, calls that are not asked for cost nothing; but strace 6.1 then forgets to send signals.
        return chosen if self.action.startswith("signal=") else ["--seccomp-bpf", *chosen]


@dataclass(frozen=True, slots=True)
class TracedCall:
    """One line of a trace: the call, and the paths in its arguments."""

    thread: int
    name: str
    paths: tuple[str, ...]
    text: str

    @property
    def was_injected(self) -> bool:
        """Whether strace changed it (a call that was cut short by a signal shows `= ?`)."""
        return "(INJECTED)" in self.text or self.text.endswith("= ?")


def crash_at(calls: str, nth: int, *paths: Path) -> Injection:
    """SIGKILL before the nth such call of a thread."""
    return Injection(calls, "signal=SIGKILL", str(nth), paths)


def wrapper(injection: Injection, trace: Path) -> list[str]:
    """What to put before a command. The process that is started is the command itself; strace looks on from aside."""
    return ["strace", "-D", "-f", *_common(trace), *injection.options(), "--"]


def recorder(trace: Path, calls: str = WATCHED, *, max_text_bytes: int = 32) -> list[str]:
    """As `wrapper`, changing nothing: a trace of `calls`, with so many bytes of what each writes."""
    limits = ["-s", str(max_text_bytes)]
    return ["strace", "-D", "-f", "--seccomp-bpf", *_common(trace), *limits, "-e", f"trace={calls}", "--"]


class Attached:
    """strace attached to all threads of a running process, within a `with`."""

    def __init__(self, pid: int, injection: Injection, trace: Path) -> None:
        self._pid = pid
        # The filter can only be set up by a process that is started under strace.
        options = [option for option in injection.options() if option != "--seccomp-bpf"]
        self._command = ["strace", "-f", *_common(trace), *options, "-p", str(pid)]

    def __enter__(self) -> Self:
        self._strace = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        give_up_at = time.monotonic() + _ATTACH_WITHIN_S
        while not self._is_on_every_thread():
            assert self._strace.poll() is None, f"strace ended: {self._strace.stderr.read()}"
            assert time.monotonic() < give_up_at, "strace did not attach"
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._strace.terminate()
        self._strace.communicate()

    def _is_on_every_thread(self) -> bool:
        statuses = [path.read_text() for path in Path(f"/proc/{self._pid}/task").glob("*/status")]
        return bool(statuses) and all(f"TracerPid:\t{self._strace.pid}\n" in status for status in statuses)


def read_trace(trace: Path) -> list[TracedCall]:
    """The calls of a finished or growing trace, in order; a call that was interrupted by another thread's line is one."""
    calls: list[TracedCall] = []
    for line in trace.read_text().splitlines():
        found = _LINE.match(line)
        if found is not None:
            paths = tuple(quoted or opened for quoted, opened in _PATH.findall(found[3]))
            calls.append(TracedCall(int(found[1]), found[2], paths, line.rstrip()))
    return calls


@dataclass(frozen=True, slots=True)
class Span:
    """One system call from its beginning to its end.

    Attributes:
        began, ended: count lines of the trace: strace stops the caller at both, so the order is causal.
    """

    name: str
    text: str
    began: int
    ended: int

    def is_sync_of(self, path_end: str) -> bool:
        """Whether it made a file durable whose path ends so."""
        is_of_file = f"{path_end}>" in self.text
        return self.name in {"fsync", "fdatasync"} and is_of_file and self.text.endswith("= 0")

    def is_write_to(self, path_end: str) -> bool:
        """Whether it wrote to a place in a file whose path ends so."""
        return self.name.startswith("pwrite") and f"{path_end}>" in self.text

    def data(self) -> bytes:
        """What it wrote or sent, as far as the trace has it."""
        return b"".join(
            text.encode("latin-1").decode("unicode_escape").encode("latin-1") for text in _STRING.findall(self.text)
        )


def read_spans(trace: Path) -> list[Span]:
    """All calls that ended, by their ends; the two lines of one that another thread's line interrupted are put together."""
    spans: list[Span] = []
    open_calls: dict[tuple[str, str], tuple[int, str]] = {}
    for number, line in enumerate(trace.read_text(errors="replace").splitlines()):
        found = _SPAN_LINE.match(line)
        if found is None:
            continue
        name = found["name"] or found["resumed"]
        began, text = open_calls.pop((found["thread"], name), (number, "")) if found["resumed"] else (number, "")
        text += found["rest"]
        if text.endswith("<unfinished ...>"):
            open_calls[found["thread"], name] = began, text
        else:
            spans.append(Span(name, text, began, number))
    return spans


def most_per_thread(calls: Sequence[TracedCall], name: str) -> int:
    """How often the busiest thread made that call: the range of `when`."""
    return max(Counter(call.thread for call in calls if call.name == name).values(), default=0)


def _common(trace: Path) -> list[str]:
    return ["-qq", "-y", "-e", "signal=none", "-o", str(trace)]
