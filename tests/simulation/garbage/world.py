"""One schedule: a cluster, a seed, and everything that may happen to chunks, in an order that nobody would choose.

A schedule has two stretches of chaos. After each the faults stop, and the cluster must come to rest: every chunk that is
referred to on exactly its expected holders, every other chunk gone. During the first rest some nodes stay away, so that the
second stretch begins with replicas of a time that the log has forgotten.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from blake3 import blake3

from services.consensus.metadata.database import RowDamagedError
from shared.contracts.cluster import NodeState
from shared.contracts.metadata import (
    AdmitNode,
    AnyCommand,
    DeleteFile,
    GetBucket,
    GetCluster,
    GetFile,
    ProposalResult,
    PublishFile,
    RemoveNode,
    UpdateNode,
)
from shared.contracts.uploads import ListPieces
from shared.errors import TrivetError, VersionGoneError, error_from_problem
from shared.placement import expected_holders, live_nodes
from shared.units import GIB
from tests.simulation.garbage import client_acts
from tests.simulation.garbage.gateway import WRITE_QUORUM, Gateway, Record
from tests.simulation.garbage.kernel import Kernel, Party
from tests.simulation.garbage.leader import Leader
from tests.simulation.garbage.log import (
    BUCKET,
    BUCKETS,
    REFERENCE_RETENTION_S,
    REPLICA_COUNT,
    STAMP,
    Log,
    pass_time,
)
from tests.simulation.garbage.node import Node
from tests.simulation.garbage.objects import Bucket, Name
from tests.simulation.garbage.oracle import Acks, LookedUp, Oracle, ViolationError

_SETTLE_ROUNDS: Final = 40
_ROUND_STEPS: Final = 20_000
_ROWS_PER_ENTRY: Final = (3, 8, 250)
_LIVE: Final = (NodeState.ACTIVE, NodeState.SUSPECT)


class World:
    """Everything that a schedule has, and what it does."""

    reference_retention_s = REFERENCE_RETENTION_S
    """What the leader tells the log."""

    def __init__(self, seed: int, *, nodes: int | None = None, profile: Profile | None = None) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.kernel = Kernel(self.chance)
        self.log = Log.create()
        self.log_party = Party("log")
        self.leader = Leader(self)
        self.nodes: dict[str, Node] = {}
        self.oracle = Oracle(self.log, self.nodes)
        self.oracle.objects.buckets = {bucket: Bucket() for bucket in BUCKETS}
        self.gateways = [Gateway(self, f"gateway-{number}") for number in (1, 2)]
        self._names = 0
        self._profile = profile or self.chance.choices(_PROFILES, _SHARES)[0]
        self.log.rows_per_entry = self.chance.choice(_ROWS_PER_ENTRY)
        chunks = range(self._profile.chunks)
        self.digests = [blake3(f"{seed}/{number}".encode()).hexdigest() for number in chunks]
        self._zones = self.chance.choice([1, 2, 4])
        for _ in range(nodes or self.chance.choice([4, 4, 5])):
            self._add_node()

    def draw_copies(self) -> int:
        """To how many nodes a gateway sends a chunk at once; a slow one has a stand-in."""
        return self.chance.choice(self._profile.copies)

    def draw_patience(self) -> bool:
        """Whether a gateway publishes only when every node has answered: then it counts as many as it can."""
        return self.chance.random() < self._profile.share_patient

    def draw_name(self) -> int:
        """A number that no other thing of this schedule has."""
        self._names += 1
        return self._names

    # --- the log, under the eyes of the oracle ---------------------------------------------------------------------------

    def change(
        self, command: AnyCommand, request_id: str, *, attempt_id: str | None = None, acks: Acks | None = None
    ) -> ProposalResult:
        """A proposal arrives at the log, perhaps not for the first time."""
        fingerprint = None if attempt_id is None else request_id
        result = self.log.append(command, request_id, attempt_id=attempt_id, fingerprint=fingerprint)
        if result.log_index == self.log.index:
            self.counts[command.kind if result.problem is None else result.problem["code"]] += 1
            if result.problem is None:
                self._require_bucket(command)
                self.oracle.accepted(command, result, acks)
        return result

    def propose(self, command: AnyCommand) -> dict[str, Any]:
        """As `change` of a request that nobody repeats. Raises the refusal."""
        result = self.change(command, self.log.new_request_id())
        if result.problem is not None:
            raise error_from_problem(result.problem)
        return result.result or {}

    def pass_time(self, elapsed_s: float) -> bool:
        """Let the log's clock go on, and some be forgotten; whether there is more to forget."""
        return bool(self.propose(pass_time(elapsed_s, reference_retention_s=self.reference_retention_s))["has_more"])

    def _require_bucket(self, command: AnyCommand) -> None:
        if isinstance(command, PublishFile):
            _, (answer,) = self.log.read(GetBucket(bucket=command.bucket))
            if answer.bucket is None or answer.bucket.incarnation != command.incarnation:
                raise ViolationError(f"{command.key} was published in a bucket that is gone")

    def look_up(self, name: Name, version: int | None, known: Record | None) -> LookedUp:
        """One linearizable read for a reader."""
        bucket, key = name
        question = GetFile(
            bucket=bucket,
            key=key,
            version=version,
            known_version=None if known is None else known.version,
            known_patch_index=None if known is None else known.patch_index,
            pages=True,
        )
        index, (answer, cluster) = self.log.read(question, GetCluster())
        return LookedUp(
            step=self.kernel.step_count,
            index=index,
            lived_s=self.log.lived_s,
            cluster=cluster,
            file=answer.file,
            is_unchanged=answer.is_unchanged,
            written=self.oracle.written(name, version),
            disks={node_id: run.disk_id for node_id, run in self.log.store.runs().items()},
        )

    def read_page(self, looked_up: LookedUp, question: ListPieces) -> tuple[int, list[Any]]:
        """Where a reader goes on. Raises VersionGoneError: it is too late."""
        try:
            return self.log.read(question)
        except VersionGoneError as error:
            self.counts[error.code] += 1
            if not self.oracle.may_be_gone(looked_up):
                raise ViolationError(f"a read at {looked_up.index} of {question.version} is broken off") from error
            raise

    # --- chaos --------------------------------------------------------------------------------------------------------

    def live(self) -> None:
        """The whole schedule.

        Raises:
            ViolationError: a promise was broken.
        """
        self.kernel.run_until_idle(_ROUND_STEPS)
        for steps in self._profile.steps:
            self.kernel.loss = self.chance.choice([0.0, 0.03, 0.1])
            for _ in range(steps):
                self._disturb()
                self.kernel.step()
                self.oracle.check()
            self._settle(is_last=steps == self._profile.steps[-1])

    def _disturb(self) -> None:
        """Begin something, or break something, or neither."""
        if self.chance.random() >= self._profile.share_acts:
            return
        act = self.chance.choices(_ACTS, self._profile.weights)[0]
        act(self)

    def _upload(self) -> None:
        gateway, name = self.draw_gateway(), self.draw_file()
        keeps_bytes, is_small = self.chance.random() < 0.5, self.chance.random() < 0.5
        steps = gateway.upload(name, self.draw_chunks(), keeps_bytes=keeps_bytes, is_small=is_small)
        self.kernel.spawn(gateway.party, steps)

    def _delete(self) -> None:
        bucket, key = self.draw_file()
        if (bucket, key) not in self.oracle.objects.present() and self.chance.random() < 0.8:
            return
        self.ask(DeleteFile(bucket=bucket, key=key, stamp=STAMP))

    def _back_up(self) -> None:
        gateway, lease_s = self.draw_gateway(), self.chance.randrange(20, 200)
        self.kernel.spawn(gateway.party, gateway.back_up(f"backup-{self.draw_name()}", lease_s))

    def _pass_time(self) -> None:
        self.pass_time(self.chance.randrange(*self._profile.elapsed_s))

    def _heartbeat(self) -> None:
        node = self._node()
        node.loop("heartbeat", node.heartbeat)

    def _follow(self) -> None:
        node = self._node()
        node.loop("follow", node.follow)

    def _compare(self) -> None:
        node = self._node()
        node.loop("compare", node.compare)

    def _check_candidates(self) -> None:
        node = self._node()
        node.loop("check_candidates", node.check_candidates)

    def _refetch(self) -> None:
        node = self._node()
        node.loop("refetch", node.refetch)

    def _scrub(self) -> None:
        node = self._node()
        node.loop("scrub", node.scrub)

    def _suspect(self) -> None:
        known = self.chance.choice(self.log.node_map.nodes)
        node = self.nodes[known.id]
        is_away = not node.party.is_up or node.party.is_paused
        if is_away or self.chance.random() < 0.5:
            state = self.chance.choice([NodeState.SUSPECT, NodeState.INACTIVE, NodeState.INACTIVE])
            self.kernel.spawn(self.leader.party, self.leader.set_state(known.id, state))

    def _drain(self) -> None:
        known = self.chance.choice(self.log.node_map.nodes)
        self.counts["drains"] += 1
        is_forced = self.chance.random() < 0.1
        self.kernel.spawn(self.leader.party, self.leader.drain(known.id, is_forced=is_forced))

    def _cancel_drain(self) -> None:
        draining = [node.id for node in self.log.node_map.nodes if node.state == NodeState.DRAINING]
        if draining:
            self.kernel.spawn(self.leader.party, self.leader.cancel_drain(self.chance.choice(draining)))

    def _admit(self) -> None:
        """A node that was removed comes back with the disk that it had, or a new one comes."""
        removed = [node_id for node_id in self.nodes if node_id not in self._admitted()]
        if len(self.log.node_map.nodes) < 6:
            if removed:
                self.kernel.spawn(self.leader.party, self.leader.admit(self.chance.choice(removed)))
            elif len(self.nodes) < 7:
                self._add_node()

    def _restart(self) -> None:
        node = self._node()
        if node.party.is_up:
            node.crash()
            self.counts["crashes"] += 1
        else:
            node.start()

    def _pause(self) -> None:
        node = self._node()
        node.party.is_paused = not node.party.is_paused

    def _cut(self) -> None:
        """A link is down; or a node hears of other nodes only, and goes on deciding by what it knows."""
        cuts = self.kernel.cuts
        if cuts and self.chance.random() < 0.5:
            cuts[:] = [cut for cut in cuts if cut[0] != cuts[0][0]]
            return
        node = self._node()
        services = ["log", "leader", *(gateway.party.name for gateway in self.gateways)]
        others = self.chance.choice([["log"], ["log"], services, [self.chance.choice([*services, *self.nodes])]])
        cuts += [(node.id, other) for other in others]

    def _wipe(self) -> None:
        node = self._node()
        digests = [digest for digest in node.disk.chunks if node.holds_good(digest)]
        if self.oracle.may_lose(digests):
            self.counts["wipes"] += 1
            self.oracle.lost(digests, self.kernel.step_count)
            node.wipe()

    def _roll_back(self) -> None:
        """A volume goes back to a snapshot; or, the first time, a snapshot is taken."""
        node = self._node()
        if node.old_disk is None:
            node.old_disk = node.disk.copy()
            return
        old = node.old_disk.chunks
        digests = [
            digest
            for digest, replica in node.disk.chunks.items()
            if replica.is_good
            and not (digest in old and old[digest].is_good and old[digest].start_index >= replica.start_index)
        ]
        if self.oracle.may_lose(digests):
            self.counts["roll-backs"] += 1
            self.oracle.lost(digests, self.kernel.step_count)
            node.roll_back()

    def _rot(self) -> None:
        """A replica goes bad on its disk."""
        node = self._node()
        good = [digest for digest in node.disk.chunks if node.holds_good(digest)]
        if good and self.oracle.may_lose([digest := self.chance.choice(good)]):
            self.counts["rotten"] += 1
            self.oracle.lost([digest], self.kernel.step_count)
            node.disk.chunks[digest].is_good = False
            if self.chance.random() < 0.5 and node.party.is_up:
                node.crash()
                node.start()

    def _remove_dead(self) -> None:
        """A node that does not come back is removed by force."""
        dead = [node for node_id, node in self.nodes.items() if not node.party.is_up and node_id in self._admitted()]
        if not dead or len(self.log.node_map.nodes) <= REPLICA_COUNT:
            return
        node = self.chance.choice(dead)
        digests = [digest for digest in node.disk.chunks if node.holds_good(digest)]
        if self.oracle.may_lose(digests):
            self.counts["removed by force"] += 1
            self.oracle.lost(digests, self.kernel.step_count)
            self.log.propose(RemoveNode(node_id=node.id, is_forced=True, stamp=STAMP))

    def _new_leader(self) -> None:
        self.kernel.crash(self.leader.party)
        self.leader.party.is_up = True

    def _restart_gateway(self) -> None:
        self.draw_gateway().restart()

    # --- rest ---------------------------------------------------------------------------------------------------------

    def _settle(self, *, is_last: bool) -> None:
        """The faults stop; what must be there at rest is there."""
        self._heal(is_last=is_last)
        for _ in range(_SETTLE_ROUNDS):
            before = self._picture()
            self._find_failures()
            self._cancel_hopeless_drain()
            self._work()
            if self._picture() == before and not self._complaints():
                break
            self._forget()
            self.oracle.check()
        else:
            raise ViolationError(f"the cluster does not come to rest: {self._complaints()}")
        self.oracle.restored()
        self.counts["rests"] += 1

    def _forget(self) -> None:
        """All that the log may forget by now."""
        elapsed_s = REFERENCE_RETENTION_S / 2
        while self.pass_time(elapsed_s):
            elapsed_s = 0

    def _heal(self, *, is_last: bool) -> None:
        self.kernel.loss = 0.0
        self.kernel.cuts.clear()
        away = [node for node in self.nodes.values() if not node.party.is_up]
        spare = max(0, len(self._admitted()) - REPLICA_COUNT - 1)
        staying = [] if is_last else [node for node in away if not self._holds_the_last(node)][:spare]
        for node in self.nodes.values():
            node.party.is_paused = False
            if not node.party.is_up and node not in staying:
                node.start()
        self.kernel.run_until_idle(_ROUND_STEPS)
        while sum(node.party.is_up for node in self.nodes.values() if node.id in self._admitted()) < REPLICA_COUNT + 1:
            self._add_node()
        for node in self.log.node_map.nodes:
            if node.state == NodeState.DRAINING and self.chance.random() < 0.3:
                self.kernel.spawn(self.leader.party, self.leader.cancel_drain(node.id))

    def _holds_the_last(self, node: Node) -> bool:
        """Whether a promised chunk has no good replica on a node that runs."""
        up = [other for other in self.nodes.values() if other.party.is_up and other.id in self._admitted()]
        promised = [digest for digest, count in self.oracle.promised.items() if count]
        return any(not any(other.holds_good(digest) for other in up) for digest in promised if node.holds_good(digest))

    def _find_failures(self) -> None:
        for node in self.log.node_map.nodes:
            if not self.nodes[node.id].party.is_up and node.state in _LIVE:
                self.kernel.spawn(self.leader.party, self.leader.set_state(node.id, NodeState.INACTIVE))

    def _cancel_hopeless_drain(self) -> None:
        """With fewer than N other nodes nothing is surplus, so a drain that was forced never ends."""
        nodes = self.log.node_map.nodes
        draining = [node.id for node in nodes if node.state == NodeState.DRAINING]
        if draining and sum(node.state in _LIVE for node in nodes) < REPLICA_COUNT:
            self.kernel.spawn(self.leader.party, self.leader.cancel_drain(draining[0]))

    def _work(self) -> None:
        """Every loop of every node, to its end."""
        for name in ("heartbeat", "follow", "refetch", "scrub", "compare", "check_candidates"):
            for node_id in sorted(self._admitted()):
                node = self.nodes[node_id]
                node.loop(name, getattr(node, name))
            before = self.kernel.step_count
            while self.kernel.step():
                self.oracle.check()
                if self.kernel.step_count - before > _ROUND_STEPS:
                    raise ViolationError(f"the pass {name} does not end")

    def _picture(self) -> Any:
        return (
            self.log.node_map.epoch,
            {node_id: sorted(node.disk.chunks) for node_id, node in self.nodes.items()},
        )

    def _complaints(self) -> list[str]:
        """What is not yet as it must be at rest."""
        node_map, needed = self.log.node_map, self.oracle.needed()
        complaints = [
            f"{node.id} still drains"
            for node in node_map.nodes
            if self.nodes[node.id].party.is_up and node.state == NodeState.DRAINING
        ]
        for digest in self.digests:
            holders = {
                node.id
                for node in node_map.nodes
                if digest in self.nodes[node.id].disk.chunks and self.nodes[node.id].party.is_up
            }
            if digest not in needed:
                complaints += [f"{digest[:4]} is still on {node_id}" for node_id in sorted(holders)]
            elif self.oracle.promised.get(digest):
                expected = {node.id for node in expected_holders(digest, live_nodes(node_map), REPLICA_COUNT)}
                complaints += [f"{digest[:4]} is not on {node_id}" for node_id in sorted(expected - holders)]
                complaints += [f"{digest[:4]} is too much on {node_id}" for node_id in sorted(holders - expected)]
        return complaints + self.oracle.complaints() + self.log.leaked_rows()

    # --- helpers --------------------------------------------------------------------------------------------------------

    def _add_node(self) -> None:
        node_id = f"storage-{len(self.nodes) + 1}"
        node = self.nodes[node_id] = Node(self, node_id, f"zone-{len(self.nodes) % self._zones}")
        self.log.propose(AdmitNode(node_id=node_id, stamp=STAMP))
        self.log.propose(
            UpdateNode(node_id=node_id, url=f"http://{node_id}", zone=node.zone, capacity_bytes=GIB, stamp=STAMP)
        )

    def _admitted(self) -> set[str]:
        return {node.id for node in self.log.node_map.nodes}

    def _node(self) -> Node:
        return self.chance.choice(list(self.nodes.values()))

    def ask(self, command: AnyCommand) -> None:
        """A client asks a gateway for a change."""
        gateway = self.draw_gateway()
        self.kernel.spawn(gateway.party, gateway.change(command))

    def draw_gateway(self) -> Gateway:
        """One of them."""
        return self.chance.choice(self.gateways)

    def draw_file(self) -> Name:
        """Where a file is, or may be."""
        return self.chance.choice(self._profile.buckets), f"k{self.chance.randrange(self._profile.keys)}"

    def draw_chunks(self) -> list[str]:
        """What is stored at once."""
        return self.chance.sample(self.digests, min(len(self.digests), self.chance.choice([1, 1, 2])))


@dataclass(frozen=True, slots=True)
class Profile:
    """What happens how often in a schedule.

    Attributes:
        steps: of the two stretches of chaos.
        chunks, keys: that there are at all; few of them meet more often.
        buckets: in which clients write.
        elapsed_s: by how much the log's clock goes on at once.
        copies, share_patient: see `draw_copies` and `draw_patience`.
        share_acts: of the steps, at which something begins. With few of them what is under way ends soon, and one thing comes
            after the other; with many everything is under way at once.
    """

    steps: tuple[int, int]
    chunks: int
    keys: int
    elapsed_s: tuple[int, int]
    weights: tuple[float, ...]
    copies: tuple[int, ...] = (WRITE_QUORUM, REPLICA_COUNT)
    share_patient: float = 0.2
    share_acts: float = 0.55
    buckets: tuple[str, ...] = BUCKETS


_CHOICES: Final[dict[Callable[[World], None], tuple[float, ...]]] = {
    # (everything may happen, few chunks that come and go, replicas that are too many while nodes come and go,
    # versions and parts of few chunks, a node that misses what the others are told, nodes that are
    # taken for dead and come back)
    World._upload: (12, 4, 4, 6, 3, 1),
    World._delete: (4, 5, 3, 2, 3, 0.1),
    client_acts.read: (6, 1, 1, 9, 0, 0),
    client_acts.begin_upload: (1.2, 0.8, 0.2, 2, 0, 0),
    client_acts.put_part: (6, 4, 0.5, 10, 0, 0),
    client_acts.copy_part: (2.5, 0.5, 0.2, 5, 0, 0),
    client_acts.complete_upload: (2.5, 1, 0.4, 5, 0, 0),
    client_acts.abort_upload: (0.3, 0.6, 0.1, 0.4, 0, 0),
    client_acts.set_versioning: (0.7, 0, 0, 1.2, 0, 0),
    client_acts.delete_version: (2.5, 1, 0, 5, 0, 0),
    client_acts.delete_many: (1.5, 0.5, 0, 2, 0, 0),
    client_acts.copy: (1.5, 0.3, 0, 3, 0, 0),
    client_acts.move: (0.7, 0.1, 0, 1.2, 0, 0),
    client_acts.restore: (0.7, 0, 0, 1.2, 0, 0),
    client_acts.tag: (1, 0, 0, 2, 0, 0),
    client_acts.make_bucket_again: (0.3, 0.1, 0.1, 0.3, 0, 0),
    World._back_up: (1, 0, 0, 1, 0, 0),
    World._pass_time: (4, 5, 4, 5, 8, 0),
    World._heartbeat: (10, 6, 12, 5, 0.3, 5),
    World._follow: (16, 24, 24, 20, 14, 20),
    World._compare: (14, 10, 3, 10, 0.3, 15),
    World._check_candidates: (14, 24, 30, 14, 24, 30),
    World._refetch: (2, 0.5, 0, 0.5, 0, 0),
    World._scrub: (1, 0.5, 0, 0.3, 0, 0),
    World._suspect: (8, 4, 12, 3, 0, 2),
    World._drain: (1, 0.5, 0.2, 0.3, 0, 0),
    World._cancel_drain: (0.5, 0.5, 0.5, 0.2, 0, 0),
    World._admit: (1, 0.5, 0, 0.3, 0, 0),
    World._restart: (2, 0.5, 0.3, 0.5, 0, 0),
    World._pause: (1, 1, 2, 0.5, 0, 0),
    World._cut: (2, 4, 2, 2, 2, 0),
    World._wipe: (1, 0.3, 0.1, 0.3, 0, 0),
    World._roll_back: (0.7, 0, 0, 0, 0, 0),
    World._rot: (2, 0.3, 0, 0.3, 0, 0),
    World._remove_dead: (0.5, 0.1, 0, 0, 0, 0),
    World._new_leader: (0.5, 0.2, 0.2, 0.2, 0, 0),
    World._restart_gateway: (0.5, 0.2, 0.2, 0.2, 0, 0),
}
_ACTS: Final = tuple(_CHOICES)
_WEIGHTS: Final = tuple(zip(*_CHOICES.values(), strict=True))
EVERYTHING: Final = Profile((500, 350), 5, 2, (1, 25), _WEIGHTS[0])
ISOLATED_NODE: Final = Profile(
    (1000, 1000), 1, 1, (30, 90), _WEIGHTS[4], copies=(4,), share_patient=0.9, share_acts=0.1, buckets=(BUCKET,)
)
FLAPPING_NODES: Final = Profile(
    (1000, 1000), 1, 1, (30, 90), _WEIGHTS[5], copies=(3, 4, 4), share_patient=0.8, share_acts=0.5, buckets=(BUCKET,)
)
_PROFILES: Final = (
    EVERYTHING,
    Profile((700, 500), 2, 1, (15, 60), _WEIGHTS[1], buckets=(BUCKET,)),
    Profile((600, 400), 1, 1, (15, 60), _WEIGHTS[2], copies=(3, 4, 4), share_patient=0.8, buckets=(BUCKET,)),
    Profile((600, 400), 3, 2, (5, 40), _WEIGHTS[3]),
    ISOLATED_NODE,
    FLAPPING_NODES,
)
_SHARES: Final = (2, 2, 1, 3, 1, 1)


def live(seed: int, profile: Profile | None = None) -> Counter[str]:
    """Live the schedule of `seed`, or the one that it has by a profile; how often everything happened.

    Raises:
        ViolationError: with the step at which a promise was broken.
    """
    world = World(seed, profile=profile)
    try:
        world.live()
    except (AssertionError, TrivetError, RowDamagedError, sqlite3.Error) as error:
        raise ViolationError(f"seed {seed}, step {world.kernel.step_count}: {error}") from error
    finally:
        world.log.close()
    return world.counts + world.oracle.objects.counts
