"""An operator at the admin API, and what the nodes themselves say that they hold."""

from __future__ import annotations

import asyncio
import math
import shutil
import time
from typing import Any, Final

import httpx

from local_cluster.cluster import Cluster
from tests.faults.harness.fault_cluster import GATEWAYS, STORAGE

QUICK: Final[dict[str, dict[str, str]]] = {
    "*": {"TRIVET_GC_GRACE_S": "5", "TRIVET_MAX_DOWNLOAD_AGE_S": "5", "TRIVET_RECONCILE_INTERVAL_S": "1"},
    "consensus": {"TRIVET_HEARTBEAT_GRACE_S": "6", "TRIVET_CURSOR_RETENTION_S": "5"},
    "storage": {"TRIVET_HEARTBEAT_INTERVAL_S": "1", "TRIVET_HEARTBEAT_RETRY_BASE_S": "0.5"},
}
"""Seconds in place of minutes and days."""

REST_WITHIN_S: Final = 180.0
_POLL_S: Final = 0.5


class NotAtRestError(AssertionError):
    """The cluster did not come to where it promises to come."""


class Operator:
    """Asks one gateway after the other until one answers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._headers = cluster.bearer

    async def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """A call on an operations listener, tried again while no gateway serves it."""
        problem: object = None
        async with httpx.AsyncClient(timeout=20, trust_env=False) as client:  # noqa: TID251 - as a person's tool would
            for _ in range(20):
                for gateway in GATEWAYS:
                    url = f"{self._cluster.operations_url(gateway)}{path}"
                    try:
                        answer = await client.request(method, url, headers=self._headers, **request)
                    except httpx.HTTPError as error:
                        problem = error
                        continue
                    if answer.status_code < 500:
                        return answer
                    problem = answer.text
                await asyncio.sleep(_POLL_S)
        raise NotAtRestError(f"{method} {path} is not answered: {problem}")

    async def describe(self) -> dict[str, Any]:
        """GET /v1/cluster."""
        document: dict[str, Any] = (await self.ask("GET", "/v1/cluster")).json()
        return document

    async def admitted(self) -> dict[str, str]:
        """The nodes of the node map and their states."""
        return {node["id"]: node["state"] for node in (await self.describe())["nodes"]}

    async def wait_for_replicas(self, within_s: float = REST_WITHIN_S) -> float:
        """Seconds until no live node lacks a chunk, by its own word."""
        return await self._wait("all replicas", lambda found: found["under_replicated_chunks"] == 0, within_s)

    async def wait_until_gone(self, node_id: str, within_s: float = REST_WITHIN_S) -> float:
        """Seconds until a draining node is removed."""
        return await self._wait(
            f"{node_id} is removed", lambda found: all(node["id"] != node_id for node in found["nodes"]), within_s
        )

    async def wait_for_state(self, node_id: str, state: str, within_s: float = REST_WITHIN_S) -> float:
        """Seconds until a node is in that state."""
        return await self._wait(
            f"{node_id} is {state}",
            lambda found: any((node["id"], node["state"]) == (node_id, state) for node in found["nodes"]),
            within_s,
        )

    async def _wait(self, what: str, condition: Any, within_s: float) -> float:
        """Seconds until `condition` holds. While bytes are still being restored, the time counts anew with each that was."""
        began = progressed = time.monotonic()
        found: dict[str, Any] = {}
        left_bytes = math.inf
        while time.monotonic() - progressed < within_s:
            found = await self.describe()
            if condition(found):
                return time.monotonic() - began
            if 0 < (found["remaining_bytes"] or 0) < left_bytes:
                left_bytes, progressed = found["remaining_bytes"], time.monotonic()
            await asyncio.sleep(_POLL_S)
        raise NotAtRestError(f"{what}: not within {within_s:.0f} s; {found}")

    async def wipe(self, node_id: str) -> None:
        """Take away what a node that does not run, and its Redis, have on disk."""
        redis = node_id.replace("storage", "redis")
        await asyncio.to_thread(self._cluster.kill_all, [node_id, redis])
        for name in (node_id, redis):
            folder = self._cluster.layout.data_dir(name)
            await asyncio.to_thread(shutil.rmtree, folder)
            folder.mkdir(mode=0o700)

    async def held_bytes(self) -> int:
        """Of all chunks on all nodes of the node map, as the nodes say themselves."""
        return sum([node["used_bytes"] or 0 for node in (await self.describe())["nodes"]])

    async def wait_for_held_bytes(self, expected: int, within_s: float = REST_WITHIN_S) -> float:
        """Seconds until the nodes hold exactly so much: every replica that there should be, and no other byte."""
        return await self._wait(
            f"the nodes hold {expected} bytes",
            lambda found: sum(node["used_bytes"] or 0 for node in found["nodes"]) == expected,
            within_s,
        )

    async def verify(self, within_s: float = REST_WITHIN_S) -> dict[str, Any]:
        """A pass over every chunk on every node, to its end."""
        started = await self.ask("POST", "/v1/cluster/verify")
        assert started.status_code in {202, 409}, started.text
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            report: dict[str, Any] = (await self.ask("GET", "/v1/cluster/verify")).json()
            if report["state"] == "finished":
                return report
            await asyncio.sleep(_POLL_S)
        raise NotAtRestError(f"verify does not end: {report}")


def spare_of(states: dict[str, str]) -> list[str]:
    """Processes of storage nodes that the cluster does not count."""
    return [name for name in STORAGE if name not in states]
