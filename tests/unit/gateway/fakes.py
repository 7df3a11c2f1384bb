"""Storage nodes that misbehave on command, a clock, and the real state machine without Raft around it.

`FakeNodes` passes the contract tests that real storage processes pass (tests/integration/gateway/test_chunk_nodes.py).
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from blake3 import blake3

from services.consensus.metadata.entries import KNOWN_ENTRY_VERSION, CommittedEntry, encode_proposal
from services.consensus.metadata.store import MetadataStore
from services.gateway.ports import HeldChunks, ReadChunk
from shared.consensus_calls.client import DEFAULT_RETAIN_S, ReadContext
from shared.contracts.access import Requester
from shared.contracts.calls import Proposed
from shared.contracts.cluster import NodeMap, NodeState, StorageNode
from shared.contracts.metadata import (
    AdmitNode,
    AnnounceMember,
    Answer,
    AnyCommand,
    AnyQuery,
    ClusterAnswer,
    InitCluster,
    Proposal,
    RaiseEntryVersion,
    UpdateNode,
)
from shared.contracts.reconcile import VerifyReport, VerifyState
from shared.contracts.time import ClockState, Stamp
from shared.errors import (
    ChunkCorruptError,
    ChunkNotFoundError,
    DigestMismatchError,
    PeerUnreachableError,
    TrivetError,
    VerifyInProgressError,
    error_from_problem,
)
from shared.units import GIB
from tests.fresh_metadata import open_store


def node(node_id: str, *, state: NodeState = NodeState.ACTIVE) -> StorageNode:
    return StorageNode(id=node_id, url=f"http://{node_id}", zone=node_id, state=state, capacity_bytes=GIB)


def node_map(*node_ids: str) -> NodeMap:
    return NodeMap(epoch=1, nodes=[node(node_id) for node_id in sorted(node_ids)])


def unreachable(node_id: str = "x") -> PeerUnreachableError:
    return PeerUnreachableError("refused", definite=True, peer=node_id)


class FakeClock:
    """Counts."""

    def __init__(self) -> None:
        self._ticks = itertools.count(1)
        self.received: list[int] = []
        self.seeded: list[int] = []

    def stamp(self) -> Stamp:
        return Stamp(hlc=next(self._ticks) << 32, state=ClockState.LOGICAL)

    def receive(self, hlc: int) -> None:
        self.received.append(hlc)

    def seed(self, hlc: int) -> None:
        self.seeded.append(hlc)


class FakeNodes:
    """Chunks in dictionaries. By node id: `errors` are raised, `hanging` never answers, `spoiled` sends other bytes,
    `rotten` lists its chunks until it is asked for their bytes or to verify them, `unread` verifies none until it is asked to."""

    def __init__(self) -> None:
        self.chunks: dict[str, dict[str, bytes]] = {}
        self.errors: dict[str, TrivetError] = {}
        self.hanging: set[str] = set()
        self.spoiled: set[str] = set()
        self.rotten: set[str] = set()
        self.unread: set[str] = set()
        self.verifies: dict[str, VerifyReport] = {}
        self.fences: dict[str, int] = {}
        """Of the answers about chunks; a node that is not in it gives none."""
        self.released = asyncio.Event()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.start_indexes: dict[tuple[str, str], int] = {}
        """By node id and digest: what the last put of it said."""
        self.under_way = 0
        self.most_under_way = 0
        self.on_call: Callable[[str, str], None] = lambda _what, _node_id: None

    def of(self, node_id: str) -> dict[str, bytes]:
        return self.chunks.setdefault(node_id, {})

    def holders(self, digest: str) -> set[str]:
        return {node_id for node_id, chunks in self.chunks.items() if digest in chunks}

    async def _enter(self, what: str, target: StorageNode) -> dict[str, bytes]:
        self.calls[what, target.id] += 1
        self.on_call(what, target.id)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(0)
            if target.id in self.hanging:
                await self.released.wait()
        finally:
            self.under_way -= 1
        if target.id in self.errors:
            raise self.errors[target.id]
        return self.of(target.id)

    async def put_chunk(self, target: StorageNode, digest: str, data: bytes, *, start_index: int) -> int | None:
        chunks = await self._enter("put", target)
        self.start_indexes[target.id, digest] = start_index
        if blake3(data).hexdigest() != digest:
            raise DigestMismatchError("The body is not the chunk that its name says.")
        chunks[digest] = data
        return self.fences.get(target.id)

    async def get_chunk(self, target: StorageNode, digest: str, size_bytes: int) -> ReadChunk:
        chunks = await self._enter("get", target)
        if target.id in self.rotten:
            raise ChunkCorruptError("The chunk has rotted here.")
        if digest not in chunks:
            raise ChunkNotFoundError("This node does not hold the chunk.")
        data = chunks[digest]
        sent = bytes(reversed(data)) + b"?" if target.id in self.spoiled else data
        return ReadChunk(sent, self.fences.get(target.id))

    async def has_chunks(self, target: StorageNode, digests: Sequence[str], *, verify: bool = False) -> HeldChunks:
        chunks = await self._enter("has", target)
        present = {digest for digest in digests if digest in chunks}
        is_rotten, is_unread = target.id in self.rotten, target.id in self.unread
        if verify and is_rotten:
            return HeldChunks(set(), set(), self.fences.get(target.id))
        is_verified = not is_rotten and (verify or not is_unread)
        return HeldChunks(present, present if is_verified else set(), self.fences.get(target.id))

    async def start_verify(self, target: StorageNode) -> VerifyReport:
        await self._enter("verify", target)
        if self._report(target).state == VerifyState.RUNNING:
            raise VerifyInProgressError("A verify is under way here.")
        self.verifies[target.id] = VerifyReport(state=VerifyState.RUNNING)
        return self.verifies[target.id]

    async def verify_report(self, target: StorageNode) -> VerifyReport:
        await self._enter("verify_report", target)
        return self._report(target)

    async def cancel_verify(self, target: StorageNode) -> VerifyReport:
        await self._enter("cancel_verify", target)
        report = self._report(target)
        if report.state == VerifyState.RUNNING:
            self.verifies[target.id] = report.model_copy(update={"state": VerifyState.CANCELLED})
        return self._report(target)

    def _report(self, target: StorageNode) -> VerifyReport:
        return self.verifies.get(target.id, VerifyReport(state=VerifyState.NEVER))

    async def probe(self, target: StorageNode, *, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._enter("probe", target)
        except TimeoutError as error:
            raise PeerUnreachableError("no answer", peer=target.id) from error


@dataclass(frozen=True, slots=True)
class Beginning:
    """What the first commands to a state machine came to.

    Attributes:
        file: its tables then.
        answers: to the commands, by their order.
    """

    file: bytes
    answers: tuple[Proposed[Any], ...]


_BEGINNINGS: dict[Hashable, Beginning] = {}


class LocalMetadata:
    """`services.gateway.ports.Metadata` on the real state machine: every command is committed the moment it is proposed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_beginning = False
        self._known_answers: Iterator[Proposed[Any]] | None = None
        self._new_answers: list[Proposed[Any]] = []
        self.errors: list[TrivetError] = []
        self.lost_answers: list[TrivetError] = []
        """Raised instead of an answer, after the command was applied."""
        self.proposed: list[AnyCommand] = []
        self.retentions_s: list[int] = []
        self.known: dict[str, dict[str, object]] = {}
        """By node id: what the leader knows of it besides the log."""
        self._ids = itertools.count()

    @cached_property
    def store(self) -> MetadataStore:
        return open_store(self._path)

    async def begin(self, name: Hashable, first: Callable[[], Awaitable[None]]) -> None:
        """Make the `first` commands; all further state machines that begin under this name are copies of what came of them.

        Most tests take less time than the dozen commands that they begin with.
        """
        if self._is_beginning or self._path.exists():
            await first()
            return
        self._is_beginning = True
        known = _BEGINNINGS.get(name)
        if known is None:
            await first()
            self.store.close()
            _BEGINNINGS[name] = Beginning(self._path.read_bytes(), tuple(self._new_answers))
            del self.store
        else:
            self._path.write_bytes(known.file)
            self._known_answers = iter(known.answers)
            await first()
            assert next(self._known_answers, None) is None, f"{name} begins with other commands each time"
            self._known_answers = None
        self._is_beginning = False

    async def propose(
        self,
        command: AnyCommand,
        *,
        request_id: str | None = None,
        retain_s: int = DEFAULT_RETAIN_S,
        fingerprint: str | None = None,
        requester: Requester | None = None,
        deadline_s: float | None = None,
    ) -> Proposed[Any]:
        self.proposed.append(command)
        self.retentions_s.append(retain_s)
        if self.errors:
            raise self.errors.pop(0)
        request_id = request_id or f"r{next(self._ids)}"
        if self._known_answers is not None:
            return next(self._known_answers)
        proposal = Proposal(
            request_id=request_id,
            retain_s=retain_s,
            fingerprint=fingerprint,
            attempt_id=None if fingerprint is None else f"a{next(self._ids)}",
            requester=requester,
            command=command,
        )
        entry = CommittedEntry(self.store.last_applied + 1, 1, encode_proposal(proposal))
        (result,) = self.store.apply_batch([entry])
        assert result is not None
        if self.lost_answers:
            raise self.lost_answers.pop(0)
        if result.problem is not None:
            raise error_from_problem(result.problem)
        answer = Proposed.of(type(command), result.log_index, result.term, result.result)
        if self._is_beginning:
            self._new_answers.append(answer)
        return answer

    async def read(self, query: AnyQuery, *, deadline_s: float | None = None) -> tuple[Answer, ReadContext]:
        results = self.store.answer([query], term=1)
        (result,) = results.results
        if result.answer is None:
            raise error_from_problem(result.problem or {})
        answer = result.answer
        if isinstance(answer, ClusterAnswer):
            nodes = [each.model_copy(update=self.known.get(each.id, {})) for each in answer.node_map.nodes]
            answer = answer.model_copy(update={"node_map": answer.node_map.model_copy(update={"nodes": nodes})})
        context = ReadContext(
            results.log_index, results.term, results.epoch, results.hlc, results.cluster_id, results.access_index
        )
        return answer, context

    async def make_cluster(self, clock: FakeClock, *node_ids: str) -> None:
        """Bucket `default` and these nodes, as after a first start."""

        async def first() -> None:
            await self.propose(InitCluster(cluster_id="test-cluster", admitted_nodes=[], stamp=clock.stamp()))
            for node_id in node_ids:
                await self.propose(AdmitNode(node_id=node_id, stamp=clock.stamp()))
                facts = node(node_id)
                await self.propose(
                    UpdateNode(node_id=node_id, url=facts.url, zone=facts.zone, capacity_bytes=GIB, stamp=clock.stamp())
                )

        await self.begin((type(clock), node_ids), first)

    async def upgrade(self, clock: FakeClock) -> None:
        """Every kind of entry may be proposed."""
        stamp = clock.stamp()
        await self.propose(AnnounceMember(member_id="m", entry_version=KNOWN_ENTRY_VERSION, stamp=stamp))
        await self.propose(RaiseEntryVersion(entry_version=KNOWN_ENTRY_VERSION, stamp=stamp))
