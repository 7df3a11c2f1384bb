"""What gateways do to chunks: uploads with all their attempts, deletions, readers that repair, backups.

Every attempt of an upload is a proposal of its own, begun after the refusal of the one before was read; it puts every chunk
again with its new start index, and counts no acknowledgement of an earlier one. A small upload begins without a read, with
what its gateway remembers of an earlier one, and only what was read refuses it for good.

Readers count what nodes said earlier: a confirmation counts for an expected holder of the incarnation that the node map of
this read names, and while it is young. Writers count no such thing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from services.gateway.replicas.confirmations import Confirmations
from shared.contracts.backups import BeginBackup, EndBackup, RenewBackup
from shared.contracts.cluster import NodeMap
from shared.contracts.files import Durability, FileContent
from shared.contracts.metadata import DeleteFile, GetBucket, GetCluster, PublishFile
from shared.errors import ChunkNotFoundError, TrivetError, error_from_problem
from shared.placement import expected_holders, live_nodes, read_order, write_order
from tests.simulation.garbage.kernel import Call, MessageLostError, Party, Pause, Steps, Wait
from tests.simulation.garbage.log import BUCKET, REPLICA_COUNT, STAMP
from tests.simulation.garbage.oracle import Ack

if TYPE_CHECKING:
    from tests.simulation.garbage.world import World

WRITE_QUORUM: Final = 2
_MAX_ATTEMPTS: Final = 4
_MAX_QUESTIONS: Final = 4
"""How often an unknown outcome is asked for before the client is told so."""
_CONTEXTS: Final = 4
"""A small upload begins with any of so many: an older one than the product would take can only cause a refusal."""
_MAX_AGE_STEPS: Final = 400
"""How long a confirmation counts."""


@dataclass(frozen=True, slots=True)
class Context:
    """What an upload begins with: a log index, the node map and the bucket's incarnation there or of earlier."""

    start_index: int
    node_map: NodeMap
    incarnation: int


class Memory:
    """What a gateway remembers, all of it of one cluster. How it remembers confirmations is the product's code.

    Attributes:
        answers: by digest and node, the fence and the truth of what the node said last.
        records: version and chunks of files, by key.
    """

    def __init__(self, read_step: Callable[[], int]) -> None:
        self._read_step = read_step
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._cluster_id: str | None = None
        self.contexts: deque[Context] = deque(maxlen=_CONTEXTS)
        self.confirmations = Confirmations(max_age_s=_MAX_AGE_STEPS, read_s=self._read_step)
        self.answers: dict[tuple[str, str], tuple[int, Ack]] = {}
        self.records: dict[str, tuple[int, list[str]]] = {}

    def see_cluster(self, cluster_id: str | None) -> None:
        """An answer of consensus came: whatever is remembered of another cluster is worth nothing."""
        if cluster_id != self._cluster_id:
            self.clear()
            self._cluster_id = cluster_id

    def confirm(self, digest: str, node_id: str, fence: int | None, ack: Ack) -> None:
        """A node has answered that it holds a chunk."""
        self.confirmations.confirm(node_id, [digest], fence, ack.step)
        if fence is not None:
            self.answers[digest, node_id] = fence, ack


@dataclass(slots=True)
class _Tally:
    """The acknowledgements of one chunk in one attempt."""

    fences: dict[str, int] = field(default_factory=dict)
    acks: dict[str, Ack] = field(default_factory=dict)
    under_way: int = 0


class Gateway:
    """One gateway, and what it remembers."""

    def __init__(self, world: World, name: str) -> None:
        self.party = Party(name)
        self._world = world
        self.memory = Memory(lambda: world.kernel.step_count)

    def restart(self) -> None:
        """A process that begins remembers nothing."""
        self._world.kernel.crash(self.party)
        self.memory.clear()
        self._world.kernel.start(self.party)

    # --- writing ------------------------------------------------------------------------------------------------------

    def upload(self, key: str, chunks: list[str], *, keeps_bytes: bool, is_small: bool = False) -> Steps:
        """Store a file. `keeps_bytes`: they are still in memory when an attempt is refused."""
        request_id = self._world.log.new_request_id()
        context, tallies = self._remembered_context(is_small=is_small), None
        has_read = context is None
        if context is None:
            context = yield from self._read_context()
        for attempt in range(_MAX_ATTEMPTS):
            if context is None:
                return
            tallies = yield from self._put_all(chunks, context, tallies, must_fetch=attempt > 0 and not keeps_bytes)
            if tallies is None:
                return
            refusal = yield from self._publish(key, request_id, context, tallies)
            if refusal is None or (has_read and not refusal.is_transient):
                return
            self._world.counts["refused without a read"] += not has_read
            self.memory.contexts.clear()
            context, has_read = (yield from self._read_context()), True

    def _remembered_context(self, *, is_small: bool) -> Context | None:
        if not is_small or not self.memory.contexts:
            return None
        self._world.counts["uploads without a read"] += 1
        draw = self._world.chance.choice
        return replace(draw(self.memory.contexts), incarnation=draw(self.memory.contexts).incarnation)

    def _read_context(self) -> Steps:
        """What an upload may begin with, or None: there is no bucket."""
        index, (cluster, found) = yield self._ask_log(GetCluster(), GetBucket(bucket=BUCKET))
        self.memory.see_cluster(cluster.cluster_id)
        if found.bucket is None:
            return None
        context = Context(index, cluster.node_map, found.bucket.incarnation)
        self.memory.contexts.append(context)
        return context

    def _put_all(
        self, chunks: list[str], context: Context, _earlier: dict[str, _Tally] | None, *, must_fetch: bool
    ) -> Steps:
        """Put every chunk: the acknowledgements of each, or None when one cannot be stored. Those of `_earlier` count no more."""
        tallies = {}
        for digest in chunks:
            if must_fetch and not (yield from self._fetch(digest, context)):
                return None
            tallies[digest] = yield from self._put(digest, context)
            if len(tallies[digest].acks) < WRITE_QUORUM:
                self._world.counts["quorum not reached"] += 1
                return None
        return tallies

    def _put(self, digest: str, context: Context) -> Steps:
        """Send a chunk to N nodes, and to the next ones for those that refuse; wait for W. The rest goes on."""
        tally, order = _Tally(), write_order(digest, context.node_map)
        wanted = self._world.draw_copies()
        while order and len(tally.acks) < WRITE_QUORUM:
            batch, order = order[:wanted], order[wanted:]
            for node in batch:
                tally.under_way += 1
                self._world.kernel.spawn(
                    self.party, self._put_at(node.id, digest, context, tally), lambda *_: _one_less(tally)
                )
            yield Wait(lambda: len(tally.acks) >= WRITE_QUORUM or not tally.under_way)
        if self._world.draw_patience():
            yield Wait(lambda: not tally.under_way)
        return tally

    def _put_at(self, node_id: str, digest: str, context: Context, tally: _Tally) -> Steps:
        node = self._world.nodes[node_id]
        fence, ack = yield Call(node.party, lambda: node.put(digest, context.start_index))
        incarnation = next(known.incarnation for known in context.node_map.nodes if known.id == node_id)
        if fence >= incarnation:
            tally.fences[node_id], tally.acks[node_id] = fence, ack
        self.memory.confirm(digest, node_id, fence, ack)

    def _fetch(self, digest: str, context: Context) -> Steps:
        """Whether a node still has the bytes of a chunk that an earlier attempt stored."""
        for holder in read_order(digest, context.node_map):
            node = self._world.nodes[holder.id]
            try:
                yield Call(node.party, lambda node=node: node.get(digest))
            except (MessageLostError, ChunkNotFoundError):
                continue
            return True
        return False

    def _publish(self, key: str, request_id: str, context: Context, tallies: dict[str, _Tally]) -> Steps:
        """One attempt: None when it was accepted, else the refusal. Ends the upload when the outcome stays unknown."""
        attempt_id = self._world.log.new_request_id()
        fences: dict[str, int] = {}
        for tally in tallies.values():
            for node_id, fence in tally.fences.items():
                fences[node_id] = min(fence, fences.get(node_id, fence))
        command = PublishFile(
            bucket=BUCKET,
            incarnation=context.incarnation,
            key=key,
            content=FileContent(
                size_bytes=len(tallies),
                chunk_size_bytes=1,
                chunk_digests=b"".join(map(bytes.fromhex, tallies)),
                digest="00" * 32,
            ),
            content_type="",
            etag=attempt_id,
            start_index=context.start_index,
            epoch=context.node_map.epoch,
            durability=Durability(target=REPLICA_COUNT, acknowledged=WRITE_QUORUM, nodes=sorted(fences)),
            fences=fences,
            stamp=STAMP,
        )
        acks = {digest: dict(tally.acks) for digest, tally in tallies.items()}
        for _ in range(_MAX_QUESTIONS):
            try:
                result = yield Call(
                    self._world.log_party, lambda: self._world.publish(command, request_id, attempt_id, acks)
                )
            except MessageLostError:
                continue
            return None if result.problem is None else error_from_problem(result.problem)
        raise MessageLostError

    def delete(self, key: str) -> Steps:
        """Delete a file."""
        yield Call(
            self._world.log_party,
            lambda: self._world.delete(DeleteFile(bucket=BUCKET, key=key, stamp=STAMP)),
        )

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, key: str) -> Steps:
        """Read a file slowly, with the record and the confirmations that are remembered; put back what expected holders lack."""
        looked_up = yield Call(self._world.log_party, lambda: self._world.look_up(key))
        cluster, file = looked_up.cluster, looked_up.file
        self.memory.see_cluster(cluster.cluster_id)
        if file is None:
            return
        version, chunks = self.memory.records.get(key, (0, []))
        if version != file.version:
            raw = file.content.chunk_digests
            chunks = [raw[at : at + 32].hex() for at in range(0, len(raw), 32)]
            self.memory.records[key] = (file.version, chunks)
        self._world.oracle.served(looked_up, chunks)
        for digest in chunks:
            expected = expected_holders(digest, live_nodes(cluster.node_map), REPLICA_COUNT)
            remembered = self.memory.confirmations.holders(digest, expected)
            counted = {known.node.id: self.memory.answers[digest, known.node.id][1] for known in remembered}
            self._world.counts["remembered confirmations"] += len(counted)
            self._world.oracle.counted(looked_up, digest, counted)
            source, lacking = yield from self._find(digest, cluster.node_map)
            others = [node.id for node in expected if node.id not in {source, *lacking, *counted}]
            lacking += yield from self._ask(digest, others)
            for node_id in sorted(set(lacking) & {node.id for node in expected}) if source else ():
                node = self._world.nodes[node_id]
                try:
                    yield Call(node.party, lambda node=node, digest=digest: node.put(digest, looked_up.index))
                except (MessageLostError, TrivetError):
                    continue
            yield Pause()

    def _find(self, digest: str, node_map: NodeMap) -> Steps:
        """A node that gave the bytes, or None, and those that have none."""
        lacking: list[str] = []
        for holder in read_order(digest, node_map):
            node = self._world.nodes[holder.id]
            try:
                _, fence, ack = yield Call(node.party, lambda node=node: node.read(digest))
            except ChunkNotFoundError:
                self.memory.confirmations.refute(holder.id, digest)
                lacking.append(holder.id)
            except MessageLostError:
                continue
            else:
                self.memory.confirm(digest, holder.id, fence, ack)
                return holder.id, lacking
        return None, lacking

    def _ask(self, digest: str, node_ids: Collection[str]) -> Steps:
        """Ask nodes whether they hold a chunk: those that do not."""
        lacking = []
        for node_id in node_ids:
            node = self._world.nodes[node_id]
            try:
                is_held, fence, ack = yield Call(node.party, lambda node=node: node.has(digest))
            except MessageLostError:
                continue
            if is_held:
                self.memory.confirm(digest, node_id, fence, ack)
            else:
                self.memory.confirmations.refute(node_id, digest)
                lacking.append(node_id)
        return lacking

    def back_up(self, backup_id: str, lease_s: int) -> Steps:
        """Pin what exists, renew the pin perhaps, and let it go or forget it."""
        world = self._world
        begin = BeginBackup(backup_id=backup_id, owner=self.party.name, lease_s=lease_s, stamp=STAMP)
        yield Call(world.log_party, lambda: world.begin_backup(begin))
        yield Pause()
        if world.chance.random() < 0.3:
            renew = RenewBackup(backup_id=backup_id, lease_s=lease_s, stamp=STAMP)
            yield Call(world.log_party, lambda: world.begin_backup(renew))
        yield Wait(lambda: world.chance.random() < 0.02)
        if world.chance.random() < 0.5:
            end = EndBackup(backup_id=backup_id, stamp=STAMP)
            yield Call(world.log_party, lambda: world.end_backup(end))

    def _ask_log(self, *queries: Any) -> Call:
        return Call(self._world.log_party, lambda: self._world.log.read(*queries))


def _one_less(tally: _Tally) -> None:
    tally.under_way -= 1
