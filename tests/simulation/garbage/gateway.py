"""What gateways do to chunks: uploads with all their attempts, deletions, readers that repair, backups.

An upload goes as DESIGN.md, section 13 says: every attempt is a proposal of its own, begun after the refusal of the one before
was read; it puts every chunk again with its new start index, and counts no acknowledgement of an earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from shared.contracts.backups import BeginBackup, EndBackup, RenewBackup
from shared.contracts.cluster import NodeMap
from shared.contracts.metadata import DeleteFile, Durability, FileContent, GetCluster, GetFile, PublishFile
from shared.contracts.names import DEFAULT_BUCKET
from shared.errors import ChunkNotFoundError, TrivetError, error_from_problem
from shared.placement import expected_holders, live_nodes, read_order, write_order
from tests.simulation.garbage.kernel import Call, MessageLostError, Party, Pause, Steps, Wait
from tests.simulation.garbage.log import REPLICA_COUNT, STAMP
from tests.simulation.garbage.oracle import Ack

if TYPE_CHECKING:
    from tests.simulation.garbage.world import World

WRITE_QUORUM: Final = 2
_MAX_ATTEMPTS: Final = 4
_MAX_QUESTIONS: Final = 4
"""How often an unknown outcome is asked for before the client is told so."""


@dataclass(frozen=True, slots=True)
class Context:
    """What an upload begins with: a log index, and the node map there or of earlier."""

    start_index: int
    node_map: NodeMap


@dataclass(slots=True)
class _Tally:
    """The acknowledgements of one chunk in one attempt."""

    fences: dict[str, int] = field(default_factory=dict)
    acks: dict[str, Ack] = field(default_factory=dict)
    under_way: int = 0


class Gateway:
    """One gateway. It remembers the last context it read, and may begin an upload with it."""

    def __init__(self, world: World, name: str) -> None:
        self.party = Party(name)
        self._world = world
        self._last: Context | None = None

    # --- writing ------------------------------------------------------------------------------------------------------

    def upload(self, key: str, chunks: list[str], *, keeps_bytes: bool) -> Steps:
        """Store a file. `keeps_bytes`: they are still in memory when an attempt is refused."""
        request_id = self._world.log.new_request_id()
        context = self._last
        if context is None or self._world.chance.random() < 0.8:
            context = yield from self._read_context()
        for attempt in range(_MAX_ATTEMPTS):
            tallies = {}
            for digest in chunks:
                if attempt and not keeps_bytes and not (yield from self._fetch(digest, context)):
                    return
                tallies[digest] = yield from self._put(digest, context)
                if len(tallies[digest].acks) < WRITE_QUORUM:
                    self._world.counts["quorum not reached"] += 1
                    return
            refusal = yield from self._publish(key, request_id, context, tallies)
            if refusal is None or not refusal.is_transient:
                return
            context = yield from self._read_context()

    def _read_context(self) -> Steps:
        index, (cluster,) = yield self._ask_log(GetCluster())
        self._last = Context(index, cluster.node_map)
        return self._last

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
        return tally

    def _put_at(self, node_id: str, digest: str, context: Context, tally: _Tally) -> Steps:
        node = self._world.nodes[node_id]
        fence, ack = yield Call(node.party, lambda: node.put(digest, context.start_index))
        incarnation = next(known.incarnation for known in context.node_map.nodes if known.id == node_id)
        if fence >= incarnation:
            tally.fences[node_id], tally.acks[node_id] = fence, ack

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
            bucket=DEFAULT_BUCKET,
            incarnation=1,
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
            lambda: self._world.delete(DeleteFile(bucket=DEFAULT_BUCKET, key=key, stamp=STAMP)),
        )

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, key: str) -> Steps:
        """Read a file slowly, and put back what expected holders lack."""
        index, (answer, cluster) = yield self._ask_log(GetFile(bucket=DEFAULT_BUCKET, key=key), GetCluster())
        if answer.file is None:
            return
        raw = answer.file.content.chunk_digests
        for digest in (raw[at : at + 32].hex() for at in range(0, len(raw), 32)):
            lacking, is_found = [], False
            for holder in read_order(digest, cluster.node_map):
                node = self._world.nodes[holder.id]
                try:
                    yield Call(node.party, lambda node=node, digest=digest: node.get(digest))
                except ChunkNotFoundError:
                    lacking.append(holder.id)
                except MessageLostError:
                    continue
                else:
                    is_found = True
                    break
            expected = [node.id for node in expected_holders(digest, live_nodes(cluster.node_map), REPLICA_COUNT)]
            for node_id in set(lacking) & set(expected) if is_found else ():
                node = self._world.nodes[node_id]
                try:
                    yield Call(node.party, lambda node=node, digest=digest: node.put(digest, index))
                except (MessageLostError, TrivetError):
                    continue
            yield Pause()

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
