"""Kills a storage node and the consensus leader again and again while a client is at work, and brings them back."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self

import httpx

from local_cluster.cluster import Cluster

NODE = "storage-2"
_BREATH_S = 1.5
"""Between two acts: a leader is elected in less, and a client meets every state."""


class Nemesis:
    """At work until the block is left, which waits until all is well again. `kills`: whom it killed, in order."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.kills: list[str] = []
        self.failures: list[Exception] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()
        asyncio.run(self._cluster.start())
        assert not self.failures, self.failures

    def _work(self) -> None:
        try:
            while True:
                # At once: some journeys are over before the leader is killed.
                self._kill(NODE)
                if self._is_over.wait(_BREATH_S):
                    return
                self._kill(self._leader())
                if self._is_over.wait(2 * _BREATH_S):
                    return
                asyncio.run(self._cluster.start())
                if self._is_over.wait(_BREATH_S):
                    return
        except Exception as error:  # noqa: BLE001 - shown when the block is left
            self.failures.append(error)

    def _kill(self, name: str) -> None:
        self._cluster.kill(name)
        self.kills.append(name)

    def _leader(self) -> str:
        with httpx.Client(headers=self._cluster.bearer, timeout=30, trust_env=False) as client:
            while True:
                answer = client.get(f"{self._cluster.gateway_url}/v1/cluster")
                if answer.is_success and answer.json()["leader"] is not None:
                    return str(answer.json()["leader"])
