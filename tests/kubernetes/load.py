"""Requests while something else happens to the cluster: `python load.py HOST:PORT KEY_FILE`, until standard input ends.

It stands where an ingress would, in the network of a node in front of the service, and says as one that its clients use TLS.
Two of four workers keep their connections, two make a new one for each request. What fails is repeated once, a second later.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from pathlib import Path
from typing import Final

BODY_BYTES: Final = 4096
NAMES: Final = 20
PAUSE_S: Final = 0.1
"""After each request of a worker: what is measured is the cluster, not how much this machine can do."""


class Worker(threading.Thread):
    """Puts and gets in turn, and compares.

    Attributes:
        took_s: of every attempt that succeeded.
        repeated: what the first attempts that failed said.
        failed: what the second ones said.
    """

    def __init__(self, number: int, host: str, authorization: str, over: threading.Event) -> None:
        super().__init__()
        self.number = number
        self.took_s: list[float] = []
        self.repeated: list[str] = []
        self.failed: list[str] = []
        self._host = host
        self._headers = {"Authorization": authorization, "X-Forwarded-Proto": "https", "Host": "gateway.trivet.svc"}
        self._over = over
        self._keeps = number % 2 == 0
        self._connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        turn = 0
        while not self._over.is_set():
            path = f"/v1/files/default/load-{self.number}-{turn % NAMES}"
            body = f"{self.number} {turn} ".encode().ljust(BODY_BYTES, b".")
            self._twice("PUT", path, body)
            if not self.failed:
                self._twice("GET", path, body)
            turn += 1

    def _twice(self, method: str, path: str, body: bytes) -> None:
        for outcomes in (self.repeated, self.failed):
            began_s = time.monotonic()
            problem = self._once(method, path, body)
            took_s = time.monotonic() - began_s
            if problem is None:
                self.took_s.append(took_s)
                break
            outcomes.append(f"{time.strftime('%H:%M:%S')} {method} after {took_s:.2f} s: {problem}")
            self._close()
            self._over.wait(1.0)
        if not self._keeps:
            self._close()
        self._over.wait(PAUSE_S)

    def _once(self, method: str, path: str, body: bytes) -> str | None:
        """What went wrong."""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(self._host, timeout=20)
            self._connection.request(method, path, body if method == "PUT" else None, self._headers)
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        if answer.status not in {200, 201, 204}:
            return f"{answer.status} {text[:300]!r}"
        return "other bytes" if method == "GET" and text != body else None

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def main() -> None:
    """Entry point."""
    host, key_file = sys.argv[1:]
    # As `curl -K` reads it.
    authorization = Path(key_file).read_text(encoding="utf-8").split('"')[1].removeprefix("Authorization: ")
    over = threading.Event()
    workers = [Worker(number, host, authorization, over) for number in range(4)]
    for worker in workers:
        worker.start()
    sys.stdin.read()
    over.set()
    for worker in workers:
        worker.join()
    took_s = sorted(took for worker in workers for took in worker.took_s)
    json.dump(
        {
            "requests": len(took_s),
            "p50_ms": round(took_s[len(took_s) // 2] * 1e3),
            "p99_ms": round(took_s[len(took_s) * 99 // 100] * 1e3),
            "longest_ms": round(took_s[-1] * 1e3),
            "repeated": [each for worker in workers for each in worker.repeated],
            "failed": [each for worker in workers for each in worker.failed],
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
