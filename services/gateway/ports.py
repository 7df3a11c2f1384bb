"""What the gateway needs from the other services, and the chunk that travels between them and a file.

Adapters: `replicas.storage_client` and the clients in `shared`; fakes stand in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from blake3 import blake3

from shared.consensus_calls.client import DEFAULT_RETAIN_S, ReadContext
from shared.contracts.chunks import NodeStatus
from shared.contracts.cluster import StorageNode
from shared.contracts.metadata import Answer, Command, ProposalResult, Query
from shared.contracts.time import TimeSource


@dataclass(frozen=True, slots=True)
class FileChunk:
    """Immutable bytes of a file and their name, the hex BLAKE3-256."""

    digest: str
    data: bytes

    @classmethod
    def of(cls, data: bytes) -> FileChunk:
        """Name `data`. 0.12 ms per MiB: less than handing it to a thread and back would cost."""
        return cls(blake3(data).hexdigest(), data)


class Metadata(Protocol):
    """The ordered truth. `shared.consensus_calls.client.ConsensusClient` is the real one."""

    async def propose(
        self,
        command: Command,
        *,
        request_id: str | None = None,
        retain_s: int = DEFAULT_RETAIN_S,
        fingerprint: str | None = None,
        deadline_s: float | None = None,
    ) -> ProposalResult:
        """Have `command` ordered, once per `request_id`; raises the typed error of a rejection."""

    async def read(self, query: Query, *, deadline_s: float | None = None) -> tuple[Answer, ReadContext]:
        """A linearizable answer."""


class ChunkNodes(Protocol):
    """All storage nodes. Every call is bounded by the caller's `asyncio.timeout`; errors are TrivetErrors."""

    async def put_chunk(self, node: StorageNode, digest: str, data: bytes, *, start_index: int) -> int | None:
        """Returns when the chunk is durable on `node`: the fence of the acknowledgement, None from a node that has none."""

    async def get_chunk(self, node: StorageNode, digest: str) -> bytes:
        """The bytes that `node` keeps under `digest`; the caller verifies them."""

    async def has_chunks(self, node: StorageNode, digests: Sequence[str]) -> set[str]:
        """Those of `digests` that `node` holds durably."""

    async def status(self, node: StorageNode) -> NodeStatus:
        """The node about itself."""

    async def probe(self, node: StorageNode, *, timeout_s: float) -> None:
        """Returns when `node` is ready to serve."""


class Clock(TimeSource, Protocol):
    """`shared.timekeeping.time_client.TimeClient` is the real one. A gateway has no disk: what it reads back raises its floor."""

    def receive(self, hlc: int) -> object:
        """Later stamps are greater than `hlc`, unless it is too far ahead of a verified time."""

    def seed(self, hlc: int) -> None:
        """Later stamps are greater than `hlc`, whatever the host's clock says. Called before the first stamp is given."""
