"""What gateways do to chunks: uploads with all their attempts, parts of uploads, other changes, and backups.

Every attempt of an upload is a proposal of its own, begun after the refusal of the one before was read; it puts every chunk
again with its new start index, and counts no acknowledgement of an earlier one. A small upload begins without a read, with
what its gateway remembers of an earlier one, and only what was read refuses it for good. A part is stored as a file is.

Nothing of an upload by parts is kept here: each call may go to any gateway, and the log knows the rest. What gateways read:
`reader`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from blake3 import blake3

from services.gateway.replicas.confirmations import Confirmations
from shared.contracts.backups import BeginBackup, EndBackup, RenewBackup
from shared.contracts.cluster import NodeMap
from shared.contracts.files import Durability, FileContent
from shared.contracts.metadata import AnyCommand, GetBucket, GetCluster, ProposalResult, PublishFile
from shared.contracts.uploads import CompleteUpload, GetUpload, PiecePage, PutPart
from shared.errors import ChunkNotFoundError, error_from_problem
from shared.placement import read_order, write_order
from tests.simulation.garbage.kernel import Call, MessageLostError, Party, Pause, Steps, Wait
from tests.simulation.garbage.log import REPLICA_COUNT, STAMP
from tests.simulation.garbage.objects import CHUNK_BYTES, Content, Name
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
    """What an upload begins with: a log index, the node map and the bucket's incarnation there or of earlier.

    A part has no incarnation: its upload knows the bucket.
    """

    start_index: int
    node_map: NodeMap
    incarnation: int = 0
    bucket: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A version that a gateway remembers, and its tags, which change beside it."""

    version: int
    patch_index: int
    content: Content
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class UploadHandle:
    """What a client knows an upload by parts by."""

    upload: int
    nonce: str


class Memory:
    """What a gateway remembers, all of it of one cluster. How it remembers confirmations is the product's code.

    Attributes:
        answers: by digest and node, the fence and the truth of what the node said last.
        records: of files that are lists of chunks, by name.
        pages: of composed content, by version and offset.
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
        self.records: dict[Name, Record] = {}
        self.pages: dict[tuple[int, int], PiecePage] = {}

    def see_cluster(self, cluster_id: str | None) -> bool:
        """An answer of consensus came: whatever is remembered of another cluster is worth nothing. Whether it is another one."""
        if cluster_id == self._cluster_id:
            return False
        self.clear()
        self._cluster_id = cluster_id
        return True

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

    def upload(self, name: Name, chunks: list[str], *, keeps_bytes: bool, is_small: bool = False) -> Steps:
        """Store a file. `keeps_bytes`: they are still in memory when an attempt is refused."""
        bucket, key = name

        def command(context: Context, tallies: dict[str, _Tally], attempt_id: str) -> PublishFile:
            return PublishFile(
                bucket=bucket,
                incarnation=context.incarnation,
                key=key,
                content_type="",
                etag=attempt_id,
                stamp=STAMP,
                **_stored(context, tallies, attempt_id),
            )

        def read_context() -> Steps:
            return (yield from self._read_context(bucket))

        remembered = self._remembered_context(bucket) if is_small else None
        yield from self._store(chunks, read_context, command, keeps_bytes=keeps_bytes, context=remembered)

    def put_part(self, handle: UploadHandle, number: int, chunks: list[str], *, keeps_bytes: bool) -> Steps:
        """Store a part of an upload."""

        def command(context: Context, tallies: dict[str, _Tally], attempt_id: str) -> PutPart:
            return PutPart(
                upload=handle.upload,
                nonce=handle.nonce,
                number=number,
                stamp=STAMP,
                **_stored(context, tallies, attempt_id),
            )

        def read_context() -> Steps:
            return (yield from self._read_upload(handle))

        yield from self._store(chunks, read_context, command, keeps_bytes=keeps_bytes)

    def _store(
        self,
        chunks: list[str],
        read_context: Callable[[], Steps],
        command: Callable[[Context, dict[str, _Tally], str], PublishFile | PutPart],
        *,
        keeps_bytes: bool,
        context: Context | None = None,
    ) -> Steps:
        """All attempts of a file or a part."""
        request_id, tallies = self._world.log.new_request_id(), None
        has_read = context is None
        if context is None:
            context = yield from read_context()
        for attempt in range(_MAX_ATTEMPTS):
            if context is None:
                return
            tallies = yield from self._put_all(chunks, context, tallies, must_fetch=attempt > 0 and not keeps_bytes)
            if tallies is None:
                return
            attempt_id = self._world.log.new_request_id()
            acks = {digest: dict(tally.acks) for digest, tally in tallies.items()}
            result = yield from self.propose(command(context, tallies, attempt_id), request_id, attempt_id, acks)
            if result.problem is None:
                return
            if has_read and not error_from_problem(result.problem).is_transient:
                return
            self._world.counts["refused without a read"] += not has_read
            self.memory.contexts.clear()
            context, has_read = (yield from read_context()), True

    def propose(
        self,
        command: AnyCommand,
        request_id: str,
        attempt_id: str | None = None,
        acks: Mapping[str, Mapping[str, Ack]] | None = None,
    ) -> Steps:
        """What became of one attempt of a change. Raises MessageLostError: the outcome stays unknown."""
        for _ in range(_MAX_QUESTIONS):
            try:
                return (
                    yield Call(
                        self._world.log_party,
                        lambda: self._world.change(command, request_id, attempt_id=attempt_id, acks=acks),
                    )
                )
            except MessageLostError:
                continue
        raise MessageLostError

    def _remembered_context(self, bucket: str) -> Context | None:
        known = [context for context in self.memory.contexts if context.bucket == bucket]
        if not known:
            return None
        self._world.counts["uploads without a read"] += 1
        draw = self._world.chance.choice
        return replace(draw(known), incarnation=draw(known).incarnation)

    def _read_context(self, bucket: str) -> Steps:
        """What an upload may begin with, or None: there is no bucket."""
        index, (cluster, found) = yield self._ask_log(GetCluster(), GetBucket(bucket=bucket))
        self.memory.see_cluster(cluster.cluster_id)
        if found.bucket is None:
            return None
        context = Context(index, cluster.node_map, found.bucket.incarnation, bucket)
        self.memory.contexts.append(context)
        return context

    def _read_upload(self, handle: UploadHandle) -> Steps:
        """What a part may begin with, or None: no such upload is under way."""
        question = GetUpload(upload=handle.upload, nonce=handle.nonce, limit=1)
        index, (cluster, answer) = yield self._ask_log(GetCluster(), question)
        return None if answer.upload is None else Context(index, cluster.node_map)

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

    # --- other changes ------------------------------------------------------------------------------------------------

    def change(self, command: AnyCommand) -> Steps:
        """Anything that the log decides by itself: it happens once, however often it is asked for."""
        yield from self.propose(command, self._world.log.new_request_id())

    def complete(self, handle: UploadHandle, *, is_whole: bool) -> Steps:
        """Join the parts that there are, or some of them; and ask once more, perhaps."""
        _, (answer,) = yield self._ask_log(GetUpload(upload=handle.upload, nonce=handle.nonce))
        world = self._world
        parts = [(part.number, part.etag) for part in answer.parts if is_whole or world.chance.random() < 0.7]
        if not parts:
            return
        yield Pause()
        command = CompleteUpload(upload=handle.upload, nonce=handle.nonce, parts=parts, stamp=STAMP)
        result = yield from self.propose(command, world.log.new_request_id())
        if result.problem is None and world.chance.random() < 0.3:
            again: ProposalResult = yield from self.propose(command, world.log.new_request_id())
            world.counts["completed again"] += again.problem is None

    def back_up(self, backup_id: str, lease_s: int) -> Steps:
        """Pin what exists, renew the pin perhaps, and let it go or forget it."""
        world = self._world
        begin = BeginBackup(backup_id=backup_id, owner=self.party.name, lease_s=lease_s, stamp=STAMP)
        yield Call(world.log_party, lambda: world.propose(begin))
        yield Pause()
        if world.chance.random() < 0.3:
            renew = RenewBackup(backup_id=backup_id, lease_s=lease_s, stamp=STAMP)
            yield Call(world.log_party, lambda: world.propose(renew))
        yield Wait(lambda: world.chance.random() < 0.02)
        if world.chance.random() < 0.5:
            end = EndBackup(backup_id=backup_id, stamp=STAMP)
            yield Call(world.log_party, lambda: world.propose(end))

    def _ask_log(self, *queries: Any) -> Call:
        return Call(self._world.log_party, lambda: self._world.log.read(*queries))


def _stored(context: Context, tallies: dict[str, _Tally], attempt_id: str) -> dict[str, Any]:
    """What a file and a part say about how they are stored."""
    fences: dict[str, int] = {}
    for tally in tallies.values():
        for node_id, fence in tally.fences.items():
            fences[node_id] = min(fence, fences.get(node_id, fence))
    return {
        "content": FileContent(
            size_bytes=len(tallies) * CHUNK_BYTES,
            chunk_size_bytes=CHUNK_BYTES,
            chunk_digests=b"".join(map(bytes.fromhex, tallies)),
            digest=blake3(attempt_id.encode()).hexdigest(),
        ),
        "start_index": context.start_index,
        "epoch": context.node_map.epoch,
        "durability": Durability(target=REPLICA_COUNT, acknowledged=WRITE_QUORUM, nodes=sorted(fences)),
        "fences": fences,
    }


def _one_less(tally: _Tally) -> None:
    tally.under_way -= 1
