"""Requests while something else happens to the cluster, and how many of them failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.containers.conftest import FILES, Deployment


@contextmanager
def requests_under_way(cluster: Deployment) -> Iterator[dict[str, int]]:
    """Puts and gets, one after the other, until the block ends; each may be repeated once, a second later."""
    counts = {"requests": 0, "failed": 0, "slow": 0}
    over = threading.Event()

    def once(number: int) -> bool:
        url = f"{FILES}/under-way-{number % 20}"
        curl = "curl -K k8s/secrets/curl.conf -f -s -m 20"
        script = f"echo {number} | {curl} -T - {url} && {curl} {url}"
        try:
            return f"{number}\n" in cluster.engine.run("sh", "-ec", script, cwd=cluster.checkout)
        except AssertionError as error:
            print(error)
            return False

    def requests() -> None:
        while not over.is_set():
            counts["requests"] += 1
            began_s = time.monotonic()
            if not once(counts["requests"]):
                over.wait(1.0)
                counts["failed"] += not once(counts["requests"])
            counts["slow"] += time.monotonic() - began_s > 5

    thread = threading.Thread(target=requests)
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join()
        print(f"under way: {counts}")
