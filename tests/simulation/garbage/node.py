"""A storage node as far as garbage and reconcile go: what it holds, what it should hold, and what it may delete.

What is decided here is decided by the functions that the product decides by (`services.storage.reconcile.rules`,
`shared.placement`); around them stands a model of the loop and of the tier. A tier does these things in one step each, and
so does the model: store with max(start index), raise a start index if the chunk is held, delete under a condition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from services.storage.reconcile import rules
from shared.contracts.cluster import NodeMap, NodeRun, NodeState
from shared.contracts.metadata import GetCluster
from shared.contracts.references import CheckReferences, CondemnChunks, ListReferenceChanges, ListReferences
from shared.errors import ChunkNotFoundError, NotReadyError
from shared.placement import expected_holders, is_expected_holder, live_nodes, read_order
from tests.simulation.garbage.kernel import Call, MessageLostError, Party, Pause, Steps
from tests.simulation.garbage.log import REFERENCE_RETENTION_S, REPLICA_COUNT, STAMP
from tests.simulation.garbage.oracle import Ack, ViolationError

if TYPE_CHECKING:
    from tests.simulation.garbage.world import World

_PAGE: Final = 2
"""Small, so that a handful of chunks already comes in several pages."""


@dataclass(slots=True)
class Replica:
    """One chunk on one disk. `is_verified` is kept in memory: it is unknown after a restart.

    `pulled_index` is not the node's but the schedule's: what the replica is as good as since it was pulled.
    """

    start_index: int
    is_good: bool = True
    is_verified: bool = True
    pulled_index: int = 0


@dataclass(slots=True)
class Disk:
    """What survives the process.

    Attributes:
        lost: chunks that were found bad, with their start indexes: to be fetched again.
        expected: what this node should hold, as far as it has followed the log; None before the first listing.
        position: the log index and the chunk of a version up to which it has.
        placement: what `expected` was computed from.
    """

    disk_id: str
    counter: int = 0
    chunks: dict[str, Replica] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    expected: set[str] | None = None
    position: tuple[int, int] = (0, 0)
    placement: tuple[Any, ...] = ()

    def copy(self) -> Disk:
        """As a volume's snapshot."""
        chunks = {digest: Replica(row.start_index, row.is_good, False) for digest, row in self.chunks.items()}
        expected = None if self.expected is None else set(self.expected)
        return Disk(self.disk_id, self.counter, chunks, dict(self.lost), expected, self.position, self.placement)


class Node:
    """One storage node and its loops. Each loop is one process, begun by the schedule now and then."""

    def __init__(self, world: World, node_id: str, zone: str) -> None:
        self.id = node_id
        self.zone = zone
        self.party = Party(node_id)
        self._world = world
        self._disks = 0
        self.disk = self._new_disk()
        self.old_disk: Disk | None = None
        self._forget_run()
        self.start()

    # --- life -------------------------------------------------------------------------------------------------------

    def _new_disk(self) -> Disk:
        self._disks += 1
        return Disk(f"{self.id}-disk-{self._disks}")

    def _forget_run(self) -> None:
        self.fence: int | None = None
        self.node_map: NodeMap | None = None
        self._busy: set[str] = set()
        self.confirmed: list[str] = []
        self.drained: tuple[int, int] | None = None
        for replica in self.disk.chunks.values():
            replica.is_verified = False

    def _begin_run(self) -> None:
        self.disk.counter += 1
        self.boot_id = f"{self.id}-boot-{self._world.draw_name()}"

    def crash(self) -> None:
        """The process ends."""
        self._world.kernel.crash(self.party)
        self._forget_run()

    def start(self) -> None:
        """The process begins again."""
        self._begin_run()
        self._world.kernel.start(self.party)
        self.loop("heartbeat", self.heartbeat)

    def wipe(self) -> None:
        """Everything on its disk is gone; it starts with an empty one."""
        self.crash()
        self.disk = self._new_disk()
        self.old_disk = None
        self.start()

    def roll_back(self) -> None:
        """Its volume goes back to the snapshot that was taken."""
        assert self.old_disk is not None
        self.crash()
        self.disk, self.old_disk = self.old_disk, None
        self.start()

    def hand_over(self) -> None:
        """Its disk goes into the service of a cluster that was restored: it keeps the chunks, and what it followed is void."""
        self.crash()
        self.disk.expected, self.disk.position, self.disk.placement = None, (0, 0), ()
        self.old_disk = None
        self.start()

    def holds_good(self, digest: str) -> bool:
        """Whether its disk has the right bytes."""
        replica = self.disk.chunks.get(digest)
        return replica is not None and replica.is_good

    # --- requests -----------------------------------------------------------------------------------------------------

    def put(self, digest: str, start_index: int) -> tuple[int, Ack]:
        """Store a chunk: the fence that goes with the acknowledgement. One step of the tier."""
        if self.fence is None:
            raise NotReadyError("Nothing is acknowledged before this disk is recorded.")
        replica = self.disk.chunks.get(digest)
        is_hit = replica is not None and self._verify(digest, replaces=True)
        if replica is None or not is_hit:
            known = replica.start_index if replica is not None else self.disk.lost.pop(digest, 0)
            self.disk.chunks[digest] = replica = Replica(max(known, start_index))
        replica.start_index = max(replica.start_index, start_index)
        is_hopeless = is_hit and not replica.is_good and replica.is_verified
        return self.fence, self._ack(is_hopeless=is_hopeless)

    def read(self, digest: str) -> tuple[int, int | None, Ack]:
        """As `get`, with the fence that every answer to a gateway carries."""
        return self.get(digest), self.fence, self._ack()

    def has(self, digest: str) -> tuple[bool, int | None, Ack]:
        """Whether the catalog lists the chunk; with the fence."""
        return digest in self.disk.chunks, self.fence, self._ack()

    def _ack(self, *, is_hopeless: bool = False) -> Ack:
        return Ack(self._world.kernel.step_count, self.disk.disk_id, is_hopeless)

    def get(self, digest: str) -> int:
        """The bytes, for which their start index stands here. A bad replica is found out."""
        replica = self.disk.chunks.get(digest)
        if replica is None:
            raise ChunkNotFoundError("This node does not hold the chunk.", digest=digest)
        if not replica.is_good:
            self._quarantine(digest)
            raise ChunkNotFoundError("This node holds no good replica of the chunk.", digest=digest)
        return replica.start_index

    def confirm(self, epoch: int, digest: str, start_index: int) -> Steps:
        """Whether this node holds the chunk for good, with the start index that the asker has recorded.

        And, for the oracle alone, whether the replica went bad after it had been verified, which the node cannot know.
        """
        if not self._is_confirmed(epoch, digest):
            return self._epoch, False, False
        yield Pause()
        replica = self.disk.chunks.get(digest)
        if replica is None or not self._is_confirmed(epoch, digest):
            return self._epoch, False, False
        self.record_start_index(replica, start_index)
        self.confirmed.append(digest)
        is_hopeless = self.is_verified(replica) and not replica.is_good
        yield Pause()
        return self._epoch, True, is_hopeless

    def record_start_index(self, replica: Replica, start_index: int) -> None:
        """Durably, before a confirmation is sent."""
        replica.start_index = max(replica.start_index, start_index)

    def _is_confirmed(self, epoch: int, digest: str) -> bool:
        return rules.counts_as_confirmation(
            asker_epoch=epoch,
            answerer_epoch=self._epoch,
            is_expected_holder=self._is_expected_here(digest),
            is_verified=digest in self.disk.chunks and self._verify(digest),
        )

    def is_verified(self, replica: Replica) -> bool:
        """Whether this run wrote it, or read it."""
        return replica.is_verified

    def _verify(self, digest: str, *, replaces: bool = False) -> bool:
        """Read the replica from the disk unless it is verified; a bad one is found out, and replaced by those who can."""
        replica = self.disk.chunks[digest]
        if self.is_verified(replica):
            return True
        if not replica.is_good:
            if not replaces:
                self._quarantine(digest)
            return False
        replica.is_verified = True
        return True

    def _quarantine(self, digest: str) -> None:
        self.disk.lost[digest] = self.disk.chunks.pop(digest).start_index

    # --- loops --------------------------------------------------------------------------------------------------------

    def loop(self, name: str, steps: Callable[[], Steps]) -> None:
        """Begin one pass of a loop unless one is under way."""
        if not self.party.is_up or name in self._busy:
            return
        self._busy.add(name)
        run = self.party.run

        def end(_value: Any, _error: BaseException | None) -> None:
            if self.party.run == run:
                self._busy.discard(name)

        self._world.kernel.spawn(self.party, steps(), end)

    def heartbeat(self) -> Steps:
        """Tell the leader which disk this is, and how far it is drained; the answer says what acknowledgements are worth."""
        run = NodeRun(disk_id=self.disk.disk_id, counter=self.disk.counter, boot_id=self.boot_id)
        drained, leader = self.drained, self._world.leader
        fence = yield Call(leader.party, lambda: leader.on_heartbeat(self, run, drained))
        self.fence = fence

    def follow(self) -> Steps:
        """Follow the log's references from the last position, and delete what it condemned."""
        has_more = True
        while has_more:
            if self.disk.expected is None or self.disk.placement != self._placement():
                yield from self._list_references()
            after_index, after_chunk = self.disk.position
            question = ListReferenceChanges(after_index=after_index, after_chunk=after_chunk, limit=_PAGE)
            _, (cluster, changes) = yield self._ask_log(GetCluster(), question)
            self._see(cluster.node_map)
            if self.disk.placement != self._placement():
                continue
            if changes.must_restart:
                self.disk.expected = None
                continue
            yield from self._take_in(changes)
            has_more = changes.has_more

    def _take_in(self, changes: Any) -> Steps:
        assert self.disk.expected is not None
        condemned = zip(_digests(changes.condemned), changes.condemned_indexes, changes.is_referenced, strict=True)
        for digest in _digests(changes.added):
            if self._is_expected_here(digest):
                self.disk.expected.add(digest)
        for digest, condemned_index, is_referenced in condemned:
            if not is_referenced:
                self.disk.expected.discard(digest)
            self._delete_condemned(digest, condemned_index)
            yield Pause()
        self.disk.position = changes.next_index, changes.next_chunk

    def _delete_condemned(self, digest: str, condemned_index: int) -> None:
        replica = self.disk.chunks.get(digest)
        if replica is not None and rules.may_delete_condemned(replica.start_index, condemned_index):
            if condemned_index <= replica.pulled_index:
                raise ViolationError(
                    f"{self.id} pulled {digest[:4]} for a reference and from a replica of {replica.pulled_index}, and "
                    f"deletes it for what was condemned at {condemned_index}"
                )
            del self.disk.chunks[digest]
        if digest in self.disk.lost and rules.may_delete_condemned(self.disk.lost[digest], condemned_index):
            del self.disk.lost[digest]

    def _list_references(self) -> Steps:
        """List all references anew, page by page; each page is of a state of its own."""
        expected: set[str] = set()
        after, begin, placement = b"", 0, self._placement()
        while True:
            index, (cluster, page) = yield self._ask_log(GetCluster(), ListReferences(after=after, limit=_PAGE))
            self._see(cluster.node_map)
            if after and placement != self._placement():
                expected, after = set(), b""
                continue
            if not after:
                begin, placement = index, self._placement()
            expected.update(digest for digest in _digests(page.digests) if self._is_expected_here(digest))
            if not page.has_more:
                break
            after = page.digests[-32:]
        self.disk.expected, self.disk.placement, self.disk.position = expected, placement, (begin, 0)

    def compare(self) -> Steps:
        """Pull what is missing."""
        if self.disk.expected is None or self.node_map is None or self.disk.placement != self._placement():
            return
        for digest in sorted(self.disk.expected - self.disk.chunks.keys()):
            yield from self._pull(digest)

    def _pull(self, digest: str) -> Steps:
        assert self.node_map is not None
        reference_index = self.disk.position[0]
        expected = expected_holders(digest, live_nodes(self.node_map), REPLICA_COUNT)
        others = [node for node in read_order(digest, self.node_map) if node not in expected]
        for holder in [*expected, *others]:
            if holder.id == self.id:
                continue
            node = self._world.nodes[holder.id]
            try:
                source_index = yield Call(node.party, lambda node=node: node.get(digest))
            except (MessageLostError, ChunkNotFoundError):
                continue
            self._store_pulled(digest, rules.pulled_start_index(source_index, reference_index))
            replica = self.disk.chunks[digest]
            replica.pulled_index = max(replica.pulled_index, source_index, reference_index)
            return

    def _store_pulled(self, digest: str, start_index: int) -> None:
        known = self.disk.chunks.get(digest)
        if known is not None and self._verify(digest, replaces=True):
            known.start_index = max(known.start_index, start_index)
            return
        kept = known.start_index if known is not None else self.disk.lost.pop(digest, 0)
        self.disk.chunks[digest] = Replica(max(kept, start_index))

    def check_candidates(self) -> Steps:
        """What is held and not expected is surplus when a file refers to it, and an orphan when none does and it is old."""
        if self.disk.expected is None or self.node_map is None or self.disk.placement != self._placement():
            return
        is_draining = self._is_draining()
        held = {
            digest: replica.start_index
            for digest, replica in sorted(self.disk.chunks.items())
            if is_draining or digest not in (self.disk.expected or ())
        }
        if not held and not is_draining:
            return
        question = CheckReferences(digests=b"".join(map(bytes.fromhex, held)), age_s=REFERENCE_RETENTION_S)
        index, (cluster, checked) = yield self._ask_log(GetCluster(), question)
        self._see(cluster.node_map)
        referenced = [
            digest for digest, is_referenced in zip(held, checked.is_referenced, strict=True) if is_referenced
        ]
        self.drained = (index, self._epoch) if self._is_draining() and is_draining and not referenced else None
        condemned = dict(zip(held, checked.condemned_indexes, strict=True))
        unreferenced = [digest for digest in held if digest not in referenced]
        yield from self._condemn(held, unreferenced, condemned, checked.aged_index, index)
        for digest in referenced:
            if not self._is_expected_here(digest):
                yield from self._drop_surplus(digest, self._epoch, held[digest])

    def _condemn(
        self, held: dict[str, int], digests: list[str], condemned: dict[str, int], aged_index: int, index: int
    ) -> Steps:
        orphans = []
        for digest in digests:
            self._delete_condemned(digest, condemned[digest])
            if not rules.may_delete_condemned(held[digest], condemned[digest]) and self.is_orphan(
                digest, held[digest], aged_index, index
            ):
                orphans.append(digest)
            yield Pause()
        if orphans:
            yield self._propose(
                CondemnChunks(
                    digests=b"".join(map(bytes.fromhex, orphans)),
                    start_indexes=[held[digest] for digest in orphans],
                    stamp=STAMP,
                )
            )

    def is_orphan(self, _digest: str, recorded: int, aged_index: int, index: int) -> bool:
        """Whether a chunk that a page of references at `index` does not list is proposed for condemnation."""
        return rules.is_orphan_candidate(recorded, aged_index, index)

    def _drop_surplus(self, digest: str, epoch: int, sent: int) -> Steps:
        assert self.node_map is not None
        expected = [node.id for node in expected_holders(digest, live_nodes(self.node_map), REPLICA_COUNT)]
        confirmed, hopeless = [], 0
        for node_id in expected:
            node = self._world.nodes[node_id]
            try:
                _, is_held, is_hopeless = yield Call(node.party, lambda node=node: node.confirm(epoch, digest, sent))
            except MessageLostError:
                continue
            if is_held:
                confirmed.append(node_id)
                hopeless += is_hopeless
        replica = self.disk.chunks.get(digest)
        if replica is not None and rules.may_drop_surplus(
            recorded_start_index=replica.start_index,
            sent_start_index=sent,
            decision_epoch=epoch,
            current_epoch=self._epoch,
            confirmed_by=confirmed,
            expected=expected,
            replica_count=REPLICA_COUNT,
        ):
            del self.disk.chunks[digest]
            self._world.oracle.relied_on(digest, hopeless)

    def refetch(self) -> Steps:
        """Fetch a lost chunk again; it is stored only if it is lost still."""
        if self.node_map is None:
            return
        for digest in sorted(self.disk.lost):
            for holder in read_order(digest, self.node_map):
                node = self._world.nodes[holder.id]
                try:
                    yield Call(node.party, lambda node=node, digest=digest: node.get(digest))
                except (MessageLostError, ChunkNotFoundError):
                    continue
                if digest in self.disk.lost:
                    self.disk.chunks[digest] = Replica(self.disk.lost.pop(digest))
                break

    def scrub(self) -> Steps:
        """Read everything again."""
        for digest in sorted(self.disk.chunks):
            replica = self.disk.chunks.get(digest)
            if replica is not None and not replica.is_good:
                self._quarantine(digest)
            elif replica is not None:
                replica.is_verified = True
            yield Pause()

    # --- helpers --------------------------------------------------------------------------------------------------------

    @property
    def _epoch(self) -> int:
        return 0 if self.node_map is None else self.node_map.epoch

    def _see(self, node_map: NodeMap) -> None:
        if self.node_map is None or node_map.epoch > self.node_map.epoch:
            self.node_map = node_map

    def _placement(self) -> tuple[Any, ...]:
        if self.node_map is None:
            return ()
        return tuple(
            (node.id, node.zone, node.capacity_bytes, node.state, bool(node.url)) for node in self.node_map.nodes
        )

    def _is_expected_here(self, digest: str) -> bool:
        if self.node_map is None:
            return False
        return is_expected_holder(bytes.fromhex(digest), self.id, live_nodes(self.node_map), REPLICA_COUNT)

    def _is_draining(self) -> bool:
        return self.node_map is not None and any(
            node.id == self.id and node.state == NodeState.DRAINING for node in self.node_map.nodes
        )

    def _ask_log(self, *queries: Any) -> Call:
        return Call(self._world.log_party, lambda: self._world.log.read(*queries))

    def _propose(self, command: Any) -> Call:
        return Call(self._world.log_party, lambda: self._world.log.propose(command))


def _digests(raw: bytes) -> list[str]:
    return [raw[at : at + 32].hex() for at in range(0, len(raw), 32)]
