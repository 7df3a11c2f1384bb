"""What the gateway needs from the other services, and the chunk that travels between them and a file.

Adapters: `replicas.storage_client` and the clients in `shared`; fakes stand in the tests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from blake3 import blake3

from shared.byte_budget import ByteLease
from shared.consensus_calls.client import DEFAULT_RETAIN_S, ReadContext
from shared.contracts.access import Requester
from shared.contracts.calls import AnswerT, Command, Proposed, Query, ResultT
from shared.contracts.cluster import StorageNode
from shared.contracts.reconcile import VerifyReport
from shared.contracts.time import TimeSource

ChunkBytes = bytes | bytearray
"""Bytes of a chunk, which nobody changes: a bytearray is one into which they were received."""


@dataclass(frozen=True, slots=True)
class FileChunk:
    """Immutable bytes of a file and their name, the hex BLAKE3-256."""

    digest: str
    data: ChunkBytes

    @classmethod
    def of(cls, data: ChunkBytes) -> FileChunk:
        """Name `data`. 0.12 ms per MiB: less than handing it to a thread and back would cost."""
        return cls(blake3(data).hexdigest(), data)


class LeasedChunk:
    """A chunk with the lease that covers its bytes: given back when its block is left, unless somebody has taken it over."""

    __slots__ = ("_lease", "chunk")

    def __init__(self, chunk: FileChunk, lease: ByteLease) -> None:
        self.chunk = chunk
        self._lease: ByteLease | None = lease

    def __enter__(self) -> FileChunk:
        return self.chunk

    def __exit__(self, *_: object) -> None:
        if self._lease is not None:
            self._lease.release()

    def take_over(self) -> ByteLease:
        """The lease, which whoever calls this releases."""
        lease, self._lease = self._lease, None
        assert lease is not None, "somebody has taken it over"
        return lease


@dataclass(frozen=True, slots=True)
class ReadChunk:
    """What a node sent of a chunk, not verified yet. `fence`: of the answer, None from a node that has none."""

    data: ChunkBytes
    fence: int | None = None


@dataclass(frozen=True, slots=True)
class HeldChunks:
    """What a node says of the chunks that it was asked about: those it holds durably, and those of them that it has verified.

    `fence`: as of `ReadChunk`; None also where several answers had different ones.
    """

    present: AbstractSet[str]
    verified: AbstractSet[str]
    fence: int | None = None


class Metadata(Protocol):
    """The ordered truth. `shared.consensus_calls.client.ConsensusClient` is the real one."""

    async def propose(
        self,
        command: Command[ResultT],
        *,
        request_id: str | None = None,
        retain_s: int = DEFAULT_RETAIN_S,
        fingerprint: str | None = None,
        requester: Requester | None = None,
        deadline_s: float | None = None,
    ) -> Proposed[ResultT]:
        """Have `command` ordered, once per `request_id`; raises the typed error of a rejection."""

    async def read(self, query: Query[AnswerT], *, deadline_s: float | None = None) -> tuple[AnswerT, ReadContext]:
        """A linearizable answer."""


class ChunkNodes(Protocol):
    """All storage nodes. The caller bounds every call, and cancels one that it no longer waits for; errors are TrivetErrors.

    Awaitables and not coroutines: a call that shares a request with others is a future, and costs no task.
    """

    def put_chunk(self, node: StorageNode, digest: str, data: ChunkBytes, *, start_index: int) -> Awaitable[int | None]:
        """Ends when the chunk is durable on `node`: the fence of the acknowledgement, None from a node that has none."""

    def get_chunk(self, node: StorageNode, digest: str, size_bytes: int) -> Awaitable[ReadChunk]:
        """The bytes that `node` keeps under `digest`; `size_bytes` are expected. The caller verifies them."""

    def has_chunks(self, node: StorageNode, digests: Sequence[str], *, verify: bool = False) -> Awaitable[HeldChunks]:
        """Which of `digests` the node holds; with `verify` it first reads from the medium those not verified lately."""

    async def start_verify(self, node: StorageNode) -> VerifyReport:
        """Have the node begin a pass over everything it holds; VerifyInProgressError while one is under way."""

    async def verify_report(self, node: StorageNode) -> VerifyReport:
        """Of the pass under way, else of the last one."""

    async def cancel_verify(self, node: StorageNode) -> VerifyReport:
        """End the pass under way early, if there is one."""

    async def probe(self, node: StorageNode, *, timeout_s: float) -> None:
        """Returns when `node` is ready to serve."""


class Clock(TimeSource, Protocol):
    """`shared.timekeeping.time_client.TimeClient` is the real one. A gateway has no disk: what it reads back raises its floor."""

    def receive(self, hlc: int) -> object:
        """Later stamps are greater than `hlc`, unless it is too far ahead of a verified time."""

    def seed(self, hlc: int) -> None:
        """Later stamps are greater than `hlc`, whatever the host's clock says. Called before the first stamp is given."""
