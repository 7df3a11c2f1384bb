"""A log, and storage nodes that call each other in memory: everything of reconcile but HTTP, Raft and the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blake3 import blake3
from prometheus_client import CollectorRegistry

from services.storage.foreground import Foreground
from services.storage.metrics import StorageMetrics
from services.storage.peers import PeerReplica
from services.storage.placement_view import PlacementView
from services.storage.ports import Chunk
from services.storage.reconcile.comparison import Comparison
from services.storage.reconcile.database import FILE_NAME, ReconcileDatabase
from services.storage.reconcile.expected_chunks import ExpectedChunks
from services.storage.reconcile.extra_chunks import ExtraChunks
from services.storage.reconcile.follower import Follower
from services.storage.reconcile.pace import Pace
from services.storage.reconcile.pulls import Puller
from services.storage.reconcile.reconciler import ReconcileParts, Reconciler
from services.storage.reconcile.references import References
from services.storage.reconcile.rules import counts_as_confirmation
from services.storage.reconcile.signals import Signals
from services.storage.reconcile.verify import Verifier
from shared.byte_budget import ByteBudget
from shared.consensus_calls.client import ReadContext
from shared.contracts.calls import Proposed
from shared.contracts.chunks import ConfirmResponse
from shared.contracts.cluster import NodeMap, NodeState, StorageNode
from shared.contracts.metadata import Answer, AnyCommand, AnyQuery, ClusterAnswer, GetCluster
from shared.contracts.references import (
    CheckedReferences,
    CheckReferences,
    CondemnChunks,
    CondemnedChunks,
    ListReferenceChanges,
    ListReferences,
    ReferenceChanges,
    ReferencePage,
)
from shared.contracts.time import ClockState, Stamp
from shared.errors import ChunkNotFoundError, LeaderUnavailableError, PeerUnreachableError, TrivetError
from shared.partitions import PartitionTable, SetSum
from shared.units import GIB, MIB
from tests.chance import random_bytes
from tests.unit.storage.fake_tier import FakeTier

Bodies = dict[bytes, bytes]
"""Chunks by raw digest."""


def make_chunks(count: int, size_bytes: int = 100) -> Bodies:
    bodies = [random_bytes(size_bytes) for _ in range(count)]
    return {blake3(body).digest(): body for body in bodies}


class Log:
    """What consensus answers about references. `page` is the size of its pages."""

    def __init__(self, page: int = 10_000) -> None:
        self.index = 1
        self.page = page
        self.versions: dict[int, list[tuple[bytes, int]]] = {}
        self.condemned: dict[bytes, int] = {}
        self.horizon = 0
        self.aged_index = 0
        self.nodes: list[StorageNode] = []
        self.epoch = 1
        self.queries: list[AnyQuery] = []
        self.is_away = False

    def publish(self, chunks: Bodies) -> int:
        self.index += 1
        self.versions[self.index] = [(digest, len(body)) for digest, body in chunks.items()]
        return self.index

    def forget(self, version: int) -> None:
        """A version is deleted, and its retention has passed."""
        self.index += 1
        gone = {digest for digest, _ in self.versions.pop(version)} - set(self.references())
        self.condemned |= dict.fromkeys(gone, self.index)

    def references(self) -> dict[bytes, int]:
        return dict(sorted(chunk for version in self.versions.values() for chunk in version))

    def set_node(self, name: str, state: NodeState = NodeState.ACTIVE) -> None:
        self.index += 1
        self.epoch += 1
        node = StorageNode(id=name, url=f"http://{name}", zone="z", state=state, capacity_bytes=10 * GIB)
        self.nodes = sorted([*(node for node in self.nodes if node.id != name), node], key=lambda node: node.id)

    async def read(self, query: AnyQuery) -> tuple[Answer, ReadContext]:
        if self.is_away:
            raise LeaderUnavailableError("nobody leads")
        self.queries.append(query)
        return self._answer(query), ReadContext(self.index, 1, self.epoch, 0)

    async def propose(self, command: AnyCommand) -> Proposed[Any]:
        if self.is_away:
            raise LeaderUnavailableError("nobody leads")
        assert isinstance(command, CondemnChunks)
        self.index += 1
        digests = [command.digests[at : at + 32] for at in range(0, len(command.digests), 32)]
        for digest, start in zip(digests, command.start_indexes, strict=True):
            if digest not in self.references() and self.condemned.get(digest, 0) <= start:
                self.condemned[digest] = self.index
        return Proposed(self.index, 1, CondemnedChunks(condemned=len(digests)))

    def stamp(self) -> Stamp:
        return Stamp(hlc=1, state=ClockState.LOGICAL)

    def _answer(self, query: AnyQuery) -> Answer:
        if isinstance(query, GetCluster):
            node_map = NodeMap(epoch=self.epoch, nodes=self.nodes)
            return ClusterAnswer(cluster_id="c", leader_id="m", members=[], node_map=node_map)
        if isinstance(query, ListReferences):
            left = [chunk for chunk in self.references().items() if chunk[0] > query.after]
            page = left[: self.page]
            return ReferencePage(
                digests=b"".join(digest for digest, _ in page),
                sizes=[size for _, size in page],
                has_more=len(left) > len(page),
            )
        if isinstance(query, CheckReferences):
            digests = [query.digests[at : at + 32] for at in range(0, len(query.digests), 32)]
            references = self.references()
            return CheckedReferences(
                is_referenced=[digest in references for digest in digests],
                condemned_indexes=[self.condemned.get(digest, 0) for digest in digests],
                aged_index=self.aged_index,
            )
        assert isinstance(query, ListReferenceChanges)
        return self._changes(query.after_index)

    def _changes(self, after: int) -> ReferenceChanges:
        """One entry to a page, so that callers have to go on."""
        indexes = sorted(index for index in {*self.versions, *self.condemned.values()} if index > after)
        at = indexes[0] if indexes else self.index
        added = self.versions.get(at, [])
        condemned = [digest for digest, index in self.condemned.items() if index == at]
        references = self.references()
        is_restart = after < self.horizon
        return ReferenceChanges(
            added=b"" if is_restart else b"".join(digest for digest, _ in added),
            added_sizes=[] if is_restart else [size for _, size in added],
            condemned=b"" if is_restart else b"".join(condemned),
            condemned_indexes=[] if is_restart else [at] * len(condemned),
            is_referenced=[] if is_restart else [digest in references for digest in condemned],
            next_index=at if len(indexes) > 1 else self.index,
            next_chunk=0,
            has_more=len(indexes) > 1,
            horizon=self.horizon,
            must_restart=is_restart,
        )


class QuickTier(FakeTier):
    """Sums up one group without looking at the others."""

    async def sums(self, group: int | None) -> list[SetSum]:
        if group is None:
            return await super().sums(None)
        table = PartitionTable()
        prefix = f"{group:02x}"
        table.fill((bytes.fromhex(name), len(body)) for name, body in self.bodies.items() if name.startswith(prefix))
        return table.group(group)

    def wipe(self) -> None:
        """Another disk."""
        self.bodies.clear()
        self.recorded.clear()
        self.verified.clear()


class Node:
    """One node. `lies` are what it sends in place of chunks; `is_away` when it answers nothing."""

    def __init__(self, name: str, log: Log, folder: Path, world: dict[str, Node], *, replica_count: int = 3) -> None:
        self.name = name
        self.log = log
        self.tier = QuickTier()
        self.is_away = False
        self.lies: dict[str, bytes] = {}
        self.confirms: list[tuple[int, dict[str, int]]] = []
        self.asked: list[str] = []
        self._world = world
        self._folder = folder / name
        self._folder.mkdir(exist_ok=True)
        self._replica_count = replica_count
        self.now_s = 0.0
        """Of the clock by which the node map has an age."""
        world[name] = self
        self.make()

    def make(self) -> None:
        """As a start of the process does, with whatever the folder holds."""
        self.registry = CollectorRegistry()
        self.metrics = StorageMetrics(self.registry)
        self.view = PlacementView(self.name, self._replica_count, lambda: self.now_s)
        self.database = ReconcileDatabase(self._folder / FILE_NAME)
        self.expected = ExpectedChunks(self.database, "c")
        self.foreground = Foreground()
        self.pace = Pace(1000 * MIB, self.foreground)
        self.budget = ByteBudget(32 * MIB)
        references = References(self.log, self.log, gc_grace_s=1)
        tier, view, expected, pace, metrics = self.tier, self.view, self.expected, self.pace, self.metrics
        self.extra = ExtraChunks(
            tier, self, view=view, references=references, expected=expected, pace=pace, metrics=metrics
        )
        self.follower = Follower(
            tier, references, view=view, expected=expected, extra=self.extra, pace=pace, metrics=metrics
        )
        self.comparison = Comparison(tier, expected, pace)
        self.puller = Puller(
            tier,
            self,
            view=view,
            log=references,
            expected=expected,
            budget=self.budget,
            pace=pace,
            metrics=metrics,
        )
        signals = Signals()
        self.verifier = Verifier(tier, self, expected=expected, budget=self.budget, pace=pace, signals=signals)
        parts = ReconcileParts(
            database=self.database,
            expected=expected,
            view=view,
            references=references,
            follower=self.follower,
            comparison=self.comparison,
            puller=self.puller,
            extra=self.extra,
            verifier=self.verifier,
            signals=signals,
        )
        self.reconciler = Reconciler(parts, metrics, interval_s=0.03)

    async def open(self) -> None:
        await self.database.open()
        await self.expected.load()
        await self.verifier.load()

    async def close(self) -> None:
        await self.database.close()

    async def follow_and_compare(self) -> None:
        assert await self.follower.follow() is not None
        position = self.expected.position
        assert position is not None
        await self.comparison.run(position.log_index)

    async def hold(self, chunks: Bodies, start_index: int = 1) -> None:
        for digest, body in chunks.items():
            await self.tier.put(Chunk(digest.hex(), len(body), (body,)), start_index)

    def holds(self) -> set[bytes]:
        return set(map(bytes.fromhex, self.tier.bodies))

    def wants(self) -> set[bytes]:
        """Of what the log refers to."""
        return {digest for digest in self.log.references() if self.view.is_expected(digest)}

    async def reread(self, digest: str) -> bytes:
        return await self.tier.get(digest)

    # What the others are asked.

    async def get_replica(self, node: StorageNode, digest: str) -> PeerReplica:
        (found,) = await self.get_replicas(node, [bytes.fromhex(digest)])
        if isinstance(found, TrivetError):
            raise found
        return found

    async def get_replicas(self, node: StorageNode, digests: Sequence[bytes]) -> list[PeerReplica | TrivetError]:
        await asyncio.sleep(0)
        peer = self._world[node.id]
        self.asked.append(node.id)
        if peer.is_away:
            raise PeerUnreachableError("away", peer=node.id)
        return [peer.give(digest.hex()) for digest in digests]

    def give(self, digest: str) -> PeerReplica | TrivetError:
        if digest in self.lies:
            return PeerReplica(self.lies[digest], 0)
        if digest not in self.tier.bodies:
            return ChunkNotFoundError("absent")
        return PeerReplica(self.tier.bodies[digest], self.tier.recorded[digest])

    async def confirm(self, node: StorageNode, epoch: int, start_indexes: dict[str, int]) -> ConfirmResponse:
        await asyncio.sleep(0)
        peer = self._world[node.id]
        if peer.is_away:
            raise PeerUnreachableError("away", peer=node.id)
        return await peer.answer_confirm(epoch, start_indexes)

    async def answer_confirm(self, epoch: int, start_indexes: dict[str, int]) -> ConfirmResponse:
        self.confirms.append((epoch, start_indexes))
        own = -1 if self.view.epoch is None else self.view.epoch
        confirmed = []
        for digest, index in start_indexes.items():
            held = await self.tier.has([digest], index)
            if held and counts_as_confirmation(
                asker_epoch=epoch,
                answerer_epoch=own,
                is_expected_holder=self.view.is_expected(bytes.fromhex(digest)),
                is_verified=self.tier.is_verified(digest),
            ):
                confirmed.append(digest)
        return ConfirmResponse(epoch=self.view.epoch, confirmed=confirmed)
