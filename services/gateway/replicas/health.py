"""Which storage nodes a request asks first, and the probes that find failed nodes ready again.

One record per node: its circuit breaker, and until when it is asked last: for writes because it is full, for reads because it
lacked a chunk. A node whose
circuit is open is probed in the background; a change of the node in the node map (a new address, active again) probes it at once.
"""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog

from services.gateway.replicas.circuit_breaker import CircuitBreaker, CircuitState
from shared.background_tasks import BackgroundTasks
from shared.contracts.cluster import NodeMap, StorageNode
from shared.errors import ChunkNotFoundError, DiskFullError, OverloadedError, TrivetError

logger = structlog.get_logger(__name__)

FULL_NODE_PAUSE_S: Final = 10.0
PROBE_TIMEOUT_S: Final = 1.0
LACKING_NODE_PAUSE_S: Final = 5.0
"""A node that lacks one chunk that it should hold lacks many, mostly: it was away, or its disk is new. Until it has them back,
every read that asks it first asks once more than it has to."""


class NodeProbe(Protocol):
    """Asks a node whether it can serve."""

    async def probe(self, node: StorageNode, *, timeout_s: float) -> None:
        """Returns when the node says that it is ready; raises TrivetError otherwise."""


@dataclass(slots=True)
class _Record:
    breaker: CircuitBreaker
    node: StorageNode
    full_until_s: float = 0.0
    lacking_until_s: float = 0.0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    probing: asyncio.Task[object] | None = None
    opened_s: float = 0.0
    last_error: weakref.ref[TrivetError] | None = None

    def is_probed(self) -> bool:
        return self.probing is not None and not self.probing.done()


class NodeHealth:
    """Shared by everything in a gateway that talks to storage nodes."""

    def __init__(
        self, probe: NodeProbe, tasks: BackgroundTasks, *, reconnect_base_s: float, reconnect_limit_s: float
    ) -> None:
        self._probe = probe
        self._tasks = tasks
        self._base_s = reconnect_base_s
        self._limit_s = reconnect_limit_s
        self._records: dict[str, _Record] = {}

    def statistics(self) -> dict[str, bool]:
        """Whether the circuit of a node is open, by node id."""
        return {node_id: record.breaker.is_open for node_id, record in self._records.items()}

    async def unserved_s(self, nodes: Sequence[StorageNode]) -> dict[str, float]:
        """Those of `nodes` that are not ready when they are asked now, all at once, by id.

        Each with the seconds for which requests have avoided it, 0 where they do not yet. Nothing is changed by that: a node that
        has much to do may be late for a probe.
        """
        are_ready = await asyncio.gather(*map(self._is_ready, nodes))
        unready = [node.id for node, is_ready in zip(nodes, are_ready, strict=True) if not is_ready]
        return {node_id: self._avoided_s(node_id) for node_id in unready}

    def _avoided_s(self, node_id: str) -> float:
        record = self._records.get(node_id)
        return time.monotonic() - record.opened_s if record is not None and record.breaker.is_open else 0.0

    def is_circuit_closed(self, node_id: str) -> bool:
        """Whether the last request to the node did not fail; a probe that was answered since does not count."""
        record = self._records.get(node_id)
        return record is None or record.breaker.state is CircuitState.CLOSED

    def split(self, order: Sequence[StorageNode]) -> tuple[list[StorageNode], list[StorageNode]]:
        """`order` for a read, as (preferred nodes, nodes whose circuit is open: the last resort), each in the order given.

        Of the preferred ones, those that lacked a chunk a moment ago come last.
        """
        preferred, avoided = self._split(order)
        now_s = time.monotonic()
        lacking = [
            node for node in preferred if (record := self._records.get(node.id)) and record.lacking_until_s > now_s
        ]
        return [*(node for node in preferred if node not in lacking), *lacking], avoided

    def _split(self, order: Sequence[StorageNode]) -> tuple[list[StorageNode], list[StorageNode]]:
        preferred: list[StorageNode] = []
        avoided: list[StorageNode] = []
        for node in order:
            record = self._records.get(node.id)
            (avoided if record is not None and record.breaker.is_open else preferred).append(node)
        return preferred, avoided

    def split_for_write(self, order: Sequence[StorageNode]) -> tuple[list[StorageNode], list[StorageNode]]:
        """As `split`, for a write: nodes that said a moment ago that they are full are a last resort, too."""
        preferred, avoided = self._split(order)
        now_s = time.monotonic()
        full = [node for node in preferred if (record := self._records.get(node.id)) and record.full_until_s > now_s]
        return [node for node in preferred if node not in full], full + avoided

    def answered(self, node: StorageNode) -> None:
        """A request to `node` succeeded."""
        if (record := self._records.get(node.id)) is not None:
            record.breaker.answered()
            record.wake.set()

    def failed(self, node: StorageNode, error: TrivetError) -> None:
        """A request to `node` ended in `error`. The same error object again is that of another call in the same request."""
        record = self._record(node)
        if record.last_error is not None and record.last_error() is error:
            return
        record.last_error = weakref.ref(error)
        if isinstance(error, DiskFullError):
            record.full_until_s = time.monotonic() + FULL_NODE_PAUSE_S
        if isinstance(error, ChunkNotFoundError):
            record.lacking_until_s = time.monotonic() + LACKING_NODE_PAUSE_S
        if record.breaker.failed(error):
            record.opened_s = time.monotonic()
            logger.warning("circuit of a storage node opened", storage_node=node.id, reason=error.code)
        self._probe_while_open(record)

    def hung(self, node: StorageNode) -> None:
        """`node` took far longer than usual for a request while others answered."""
        record = self._record(node)
        self._open(record, "too slow")
        self._probe_while_open(record)

    def suspect(self, node: StorageNode) -> None:
        """`node` was slower than another one: probe it, and open its circuit unless it answers."""
        record = self._record(node)
        if not record.is_probed():
            self._start(record, self._check(record))

    def node_map_changed(self, node_map: NodeMap) -> None:
        """Forget removed nodes; probe at once those whose address or state changed."""
        known = {node.id: node for node in node_map.nodes}
        for node_id, record in list(self._records.items()):
            node = known.get(node_id)
            if node is None:
                del self._records[node_id]
                record.breaker.half_open()
                record.wake.set()
            elif (node.url, node.state) != (record.node.url, record.node.state):
                record.node = node
                record.wake.set()

    def _record(self, node: StorageNode) -> _Record:
        record = self._records.get(node.id)
        if record is None:
            breaker = CircuitBreaker(base_s=self._base_s, limit_s=self._limit_s)
            record = self._records[node.id] = _Record(breaker, node)
        return record

    def _probe_while_open(self, record: _Record) -> None:
        if record.breaker.is_open and not record.is_probed():
            self._start(record, self._probe_until_answered(record))

    def _start(self, record: _Record, work: Coroutine[Any, Any, None]) -> None:
        # Here and not in the task: what happens before its first step must wake it, too.
        record.wake.clear()
        try:
            record.probing = self._tasks.start(f"probe {record.node.id}", work)
        except OverloadedError:
            # Without a probe the circuit would stay open for ever.
            record.breaker.half_open()

    async def _check(self, record: _Record) -> None:
        if not await self._is_ready(record.node):
            self._open(record, "slow, and not ready when asked")
        # Even when it is ready: a request that failed meanwhile opened the circuit and left the probing to this task.
        await self._probe_until_answered(record)

    def _open(self, record: _Record, reason: str) -> None:
        if record.breaker.open():
            record.opened_s = time.monotonic()
            logger.warning("circuit of a storage node opened", storage_node=record.node.id, reason=reason)

    async def _probe_until_answered(self, record: _Record) -> None:
        while record.breaker.is_open:
            # Spreads the probes of many gateways; nothing secret depends on it.
            pause_s = record.breaker.next_probe_s(random.random())  # noqa: S311
            try:
                async with asyncio.timeout(pause_s):
                    await record.wake.wait()
            except TimeoutError:
                pass
            record.wake.clear()
            if record.breaker.is_open and await self._is_ready(record.node):
                record.breaker.half_open()
                logger.info("circuit of a storage node half-open", storage_node=record.node.id)

    async def _is_ready(self, node: StorageNode) -> bool:
        try:
            await self._probe.probe(node, timeout_s=PROBE_TIMEOUT_S)
        except TrivetError:
            return False
        return True
