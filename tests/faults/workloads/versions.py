"""Files of a bucket that keeps every version: written, copied, renamed, restored, deleted and read, at two gateways in turn.

Half of the changes carry an Idempotency-Key and are sent again at the other gateway while their outcome is unknown. In the end
the lists of all versions are the history, and must be one that these clients can have made (`checkers.versions`).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from tests.faults.checkers.history import Outcome
from tests.faults.checkers.versions import Kind, Row, Step, version_violations
from tests.faults.harness.client import Client, Reply

KEYS: Final = 5
TRIES_UNDER_ONE_KEY: Final = 3
_TRIES: Final = 10
_CHANGES: Final = (
    *[Kind.PUT] * 3,
    Kind.COPY,
    Kind.COPY,
    Kind.RENAME,
    Kind.RENAME,
    Kind.RESTORE,
    Kind.DELETE,
    Kind.READ,
)


class Versions:
    """`pause_s` is how long each of the clients rests between two requests, on average."""

    name = "versions"

    def __init__(self, client: Client, seed: int, *, clients: int = 3, pause_s: float = 0.1) -> None:
        self._client = client
        self._seed = seed
        self._clients = clients
        self._pause_s = pause_s
        self._bucket = f"{client.bucket}-kept"
        self._is_ready = False
        self._opening = asyncio.Lock()
        self._numbers = iter(range(1 << 62))
        self._steps: list[Step] = []
        self._lists: dict[str, list[Row]] = {}
        self._wrong: list[str] = []
        self.counts: Counter[str] = Counter()

    def loops(self, stopping: asyncio.Event) -> Sequence[Coroutine[Any, Any, None]]:
        """One coroutine per client."""
        return [self._loop(number, stopping) for number in range(self._clients)]

    async def read_everything(self) -> None:
        """All versions of all keys at every gateway, and their bytes at one of them."""
        for gateway in self._client.gateways:
            listed = await self._list(gateway)
            if listed is not None:
                self._lists[gateway] = listed

    def violations(self) -> list[str]:
        """Of everything so far; the history only after `read_everything`."""
        lists = list(self._lists.values())
        if not lists:
            return self._wrong
        if any(one != lists[0] for one in lists) or len(lists) < len(self._client.gateways):
            return [*self._wrong, f"the gateways list different versions: {self._lists}"]
        return self._wrong + version_violations(self._steps, lists[0])

    async def _loop(self, number: int, stopping: asyncio.Event) -> None:
        draw = random.Random(f"{self._seed} versions {number}")
        await self._open(draw.choice(self._client.gateways), stopping)
        while not stopping.is_set():
            gateways = draw.sample(self._client.gateways, len(self._client.gateways))
            kind, keys = draw.choice(_CHANGES), [f"k{one}" for one in draw.sample(range(KEYS), 2)]
            if kind == Kind.READ:
                await self._read(gateways[0], keys[0])
            else:
                await self._change(gateways, kind, keys, has_key=draw.random() < 0.5, draw=draw)
            await asyncio.sleep(draw.uniform(0, 2 * self._pause_s))

    async def _open(self, gateway: str, stopping: asyncio.Event) -> None:
        """Make the bucket, once; it keeps versions before anything is stored in it."""
        async with self._opening:
            while not self._is_ready and not stopping.is_set():
                made = await self._client.call(gateway, "PUT", path=f"/v1/buckets/{self._bucket}")
                body = json.dumps({"versioning": "enabled"}).encode()
                kept = await self._client.call(gateway, "PUT", path=f"/v1/buckets/{self._bucket}/settings", body=body)
                self._is_ready = made.outcome == kept.outcome == Outcome.OK
                await asyncio.sleep(self._pause_s)

    async def _read(self, gateway: str, key: str) -> None:
        reply = await self._client.call(gateway, "GET", path=self._path(key))
        step = Step(Kind.READ, key, reply.called, returned=reply.returned, where=str(reply))
        if reply.status in {200, 404} and reply.version is not None:
            step.outcome, step.version = Outcome.OK, reply.version
            step.value = reply.body.decode() if reply.status == 200 else None
            self._steps.append(step)
        self.counts["read" if step.outcome == Outcome.OK else "not read"] += 1

    async def _change(
        self, gateways: list[str], kind: Kind, keys: list[str], *, has_key: bool, draw: random.Random
    ) -> None:
        step = Step(kind, keys[0], 0)
        if kind in {Kind.COPY, Kind.RENAME}:
            step.source = keys[1]
        if kind == Kind.RESTORE:
            step.source, step.asked_version = keys[0], self._some_version(keys[0], draw)
            if step.asked_version is None:
                return
        if kind == Kind.PUT:
            step.value = f"{self._seed % (1 << 24):06x}-{next(self._numbers):09d}"
        headers = {"idempotency-key": f"versions-{next(self._numbers)}"} if has_key else {}
        self._steps.append(step)
        first: Reply | None = None
        for gateway in (gateways * TRIES_UNDER_ONE_KEY)[: TRIES_UNDER_ONE_KEY if has_key else 1]:
            reply = await self._send(gateway, step, headers)
            first = first or reply
            self._settle(step, first, reply)
            if reply.outcome != Outcome.UNKNOWN:
                break
        self.counts[f"{kind} {step.outcome}"] += 1

    async def _send(self, gateway: str, step: Step, headers: dict[str, str]) -> Reply:
        if step.kind == Kind.PUT:
            body = str(step.value).encode()
            return await self._client.call(gateway, "PUT", path=self._path(step.key), body=body, headers=headers)
        if step.kind == Kind.DELETE:
            return await self._client.call(gateway, "DELETE", path=self._path(step.key), headers=headers)
        asked: dict[str, object] = {
            "source": {"bucket": self._bucket, "key": step.source},
            "target": {"bucket": self._bucket, "key": step.key},
        }
        if step.kind == Kind.RESTORE:
            asked = {"bucket": self._bucket, "key": step.key, "version": step.asked_version}
        return await self._client.call(
            gateway, "POST", path=f"/v1/{step.kind}", body=json.dumps(asked).encode(), headers=headers
        )

    def _settle(self, step: Step, first: Reply, reply: Reply) -> None:
        """What is known of the change after this answer to it, `first` being that to the first try."""
        step.called, step.where = first.called, str(reply)
        # A try before may have happened, or may yet: a later refusal is about itself alone.
        step.outcome = reply.outcome
        if reply.outcome == Outcome.FAILED and first is not reply:
            step.outcome = Outcome.UNKNOWN
        if reply.outcome != Outcome.OK:
            return
        step.returned, step.version = reply.returned, reply.version or 0
        if step.source:
            step.source_version = json.loads(reply.body)["source_version"]

    def _some_version(self, key: str, draw: random.Random) -> int | None:
        """Of those of `key` that are known to have bytes."""
        known = [
            step.version
            for step in self._steps
            if step.key == key and step.outcome == Outcome.OK and step.kind not in {Kind.DELETE, Kind.READ}
        ]
        return draw.choice(known) if known else None

    async def _list(self, gateway: str) -> list[Row] | None:
        rows: list[Row] = []
        query = "limit=100"
        while True:
            reply = await self._persistently(gateway, f"/v1/versions/{self._bucket}?{query}")
            if reply.status != 200:
                self._wrong.append(f"the versions cannot be listed at {gateway}: {reply} {reply.problem}")
                return None
            page = json.loads(reply.body)
            for row in page["versions"]:
                value = None if row["is_marker"] else await self._bytes_of(gateway, row["key"], row["version"])
                rows.append(Row(row["key"], row["version"], value))
            if page["cursor"] is None:
                return rows
            query = f"limit=100&cursor={page['cursor']}"

    async def _bytes_of(self, gateway: str, key: str, version: int) -> str:
        reply = await self._persistently(gateway, f"{self._path(key)}?version={version}")
        if reply.status != 200:
            self._wrong.append(f"version {version} of {key} cannot be read at {gateway}: {reply} {reply.problem}")
        return reply.body.decode(errors="replace")

    async def _persistently(self, gateway: str, path: str) -> Reply:
        for _ in range(_TRIES):
            reply = await self._client.call(gateway, "GET", path=path)
            if 200 <= reply.status < 500:
                return reply
            await asyncio.sleep(0.5)
        return reply

    def _path(self, key: str) -> str:
        return f"/v1/files/{self._bucket}/{key}"
