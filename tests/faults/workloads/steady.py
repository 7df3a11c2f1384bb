"""Polite clients that measure: how many of their requests fail, after one retry too, and how long they take.

For rows that promise progress. Every file is written once and read back by its writer, so a wrong byte is seen here as well.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from tests.faults.harness.client import Client, Reply

BODY_BYTES = 10 * 1024
MAX_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Attempted:
    """One request and its retry. Times are monotonic seconds."""

    began: float
    took_s: float
    is_write: bool
    first: Reply
    last: Reply

    @property
    def is_done(self) -> bool:
        """After one retry at the latest."""
        return self.last.status in {200, 201}


class Steady:
    """`pause_s` is how long each of the clients rests between two requests."""

    name = "steady"

    def __init__(
        self,
        client: Client,
        seed: int,
        *,
        clients: int = 6,
        pause_s: float = 0.05,
        body_bytes: int = BODY_BYTES,
        gateways: Sequence[str] = (),
    ) -> None:
        self._client = client
        self._seed = seed
        self._clients = clients
        self._pause_s = pause_s
        self._body_bytes = body_bytes
        self._gateways = gateways or client.gateways
        self.attempted: list[Attempted] = []
        self.written: dict[str, bytes] = {}
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()

    def loops(self, stopping: asyncio.Event) -> Sequence[Coroutine[Any, Any, None]]:
        """One coroutine per client."""
        return [self._loop(number, stopping) for number in range(self._clients)]

    async def _loop(self, number: int, stopping: asyncio.Event) -> None:
        draw = random.Random(f"{self._seed} steady {number}")
        mine: list[str] = []
        turn = number
        while not stopping.is_set():
            turn += 1
            gateway = self._gateways[turn % len(self._gateways)]
            if mine and draw.random() < 0.5:
                key = draw.choice(mine)
                done = await self._try_twice(gateway, "GET", key, None)
                if done.is_done and done.last.body != self.written[key]:
                    self.wrong.append(f"{key} has other bytes than were written: {done.last}")
            else:
                key, body = f"steady-{number}-{turn}", draw.randbytes(self._body_bytes)
                done = await self._try_twice(gateway, "PUT", key, body)
                if done.is_done:
                    self.written[key] = body
                    mine.append(key)
            await asyncio.sleep(draw.uniform(0, 2 * self._pause_s))

    async def _try_twice(self, gateway: str, method: str, key: str, body: bytes | None) -> Attempted:
        first = last = await self._client.call(gateway, method, key, body=body)
        if first.status not in {200, 201}:
            await asyncio.sleep(min(MAX_WAIT_S, float(first.headers.get("retry-after", 1))))
            other = next((one for one in self._gateways if one != gateway), gateway)
            last = await self._client.call(other, method, key, body=body)
        done = Attempted(first.called / 1e9, (first.returned - first.called) / 1e9, method == "PUT", first, last)
        self.attempted.append(done)
        self.counts["requests"] += 1
        self.counts["failed at first"] += first is not last
        self.counts["failed after one retry"] += not done.is_done
        return done

    async def read_everything(self) -> None:
        """Everything acknowledged is there, whole, at some gateway in turn."""
        for number, (key, body) in enumerate(sorted(self.written.items())):
            gateway = self._client.gateways[number % len(self._client.gateways)]
            reply = await self._client.call(gateway, "GET", key)
            if reply.status != 200 or reply.body != body:
                self.wrong.append(f"{key} was acknowledged and is lost: {reply}")

    def violations(self) -> list[str]:
        """Of everything so far."""
        return self.wrong

    def between(self, begin: float, end: float = float("inf"), *, writes_only: bool = False) -> list[Attempted]:
        """Requests that began between two moments (monotonic seconds)."""
        return [one for one in self.attempted if begin <= one.began < end and (one.is_write or not writes_only)]


def percentile_s(requests: Sequence[Attempted], share: float) -> float:
    """How long the slowest but `1 - share` of them took at most."""
    took = sorted(one.took_s for one in requests)
    return took[min(len(took) - 1, int(share * len(took)))] if took else 0.0


def failed_share(requests: Sequence[Attempted], *, after_retry: bool = True) -> float:
    """Of all requests."""
    failed = [one for one in requests if not (one.is_done if after_retry else one.first is one.last)]
    return len(failed) / max(1, len(requests))
