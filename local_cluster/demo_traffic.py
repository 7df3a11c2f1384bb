"""Readers and writers that go on while the demo breaks things, and count what they see."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx

READERS: Final = 3
WRITERS: Final = 1
WRITTEN_BYTES: Final = 16 << 10
TIMEOUT_S: Final = 15.0
SECONDS_SHOWN: Final = 30


@dataclass(slots=True)
class Tally:
    """What one kind of request did. `per_second` has a number for each second, the current one last."""

    done: int = 0
    slowest_s: float = 0.0
    per_second: deque[int] = field(default_factory=lambda: deque([0], maxlen=SECONDS_SHOWN))


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that readers ask for, and what its bytes must be."""

    key: str
    sha256: str


class Traffic:
    """Requests to one gateway from threads of their own.

    Attributes:
        failures: what went wrong, in words; a wrong byte and an error alike.
    """

    def __init__(self, gateway_url: str, bearer: Mapping[str, str], files: Sequence[StoredFile]) -> None:
        self.reads, self.writes = Tally(), Tally()
        self.failures: list[str] = []
        self._url, self._bearer, self._files = f"{gateway_url}/v1/files/default/", bearer, files
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._is_over = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the block runs."""
        loops = [lambda place=place: self._read(place) for place in range(READERS)] + [self._write] * WRITERS
        threads = [threading.Thread(target=loop, daemon=True) for loop in (*loops, self._tick)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in threads:
                thread.join(TIMEOUT_S)

    def _read(self, place: int) -> None:
        with self._client() as client:
            for file in itertools.islice(itertools.cycle(self._files), place * 7, None):
                if self._is_over.is_set():
                    return
                body = self._timed(self.reads, client, "GET", file.key)
                if body is not None and hashlib.sha256(body).hexdigest() != file.sha256:
                    self.failures.append(f"{file.key} came back with other bytes")

    def _write(self) -> None:
        with self._client() as client:
            while not self._is_over.is_set():
                self._timed(self.writes, client, "PUT", f"demo/live/{next(self._numbers):06}", bytes(WRITTEN_BYTES))

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self._url, headers=self._bearer, timeout=TIMEOUT_S, trust_env=False)

    def _timed(
        self, tally: Tally, client: httpx.Client, method: str, key: str, content: bytes | None = None
    ) -> bytes | None:
        """The body of the answer; None where there was none, or an error."""
        began = time.monotonic()
        try:
            answer = client.request(method, key, content=content)
        except httpx.TransportError as error:
            self.failures.append(f"{method} {key}: {error!r}")
            return None
        with self._lock:
            tally.done += 1
            tally.per_second[-1] += 1
            tally.slowest_s = max(tally.slowest_s, time.monotonic() - began)
        if answer.is_success:
            return answer.content
        self.failures.append(f"{method} {key}: {answer.status_code} {answer.text[:200]}")
        return None

    def _tick(self) -> None:
        while not self._is_over.wait(1.0):
            with self._lock:
                for tally in (self.reads, self.writes):
                    tally.per_second.append(0)
