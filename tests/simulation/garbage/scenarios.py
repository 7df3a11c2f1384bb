"""Schedules that are written down, for bugs that random ones meet too seldom to rely on.

Each goes well with the product's rules, step by step under the eyes of the oracle, and breaks a promise with its bug.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from shared.contracts.cluster import NodeState
from shared.placement import expected_holders, live_nodes
from tests.simulation.garbage.log import REFERENCE_RETENTION_S, REPLICA_COUNT, Log, scratch_folder
from tests.simulation.garbage.node import Node
from tests.simulation.garbage.oracle import Version, ViolationError
from tests.simulation.garbage.world import World

_LIMIT: Final = 5_000


@dataclass(frozen=True, slots=True)
class Backup:
    """So many entries of a log, and the files that they make."""

    entries: int
    files: dict[str, Version]


class Stage:
    """A cluster of four nodes on which nothing happens by chance. `holders` should hold the one chunk, `other` should not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = World(0, folder, nodes=4)
        self._logs: list[Log] = []
        self.world.kernel.loss = 0.0
        self.world.draw_patience = lambda: False  # type: ignore[method-assign]
        self.digest = self.world.digests[0]
        self.idle()
        self.run("follow")
        expected = expected_holders(self.digest, live_nodes(self.world.log.node_map), REPLICA_COUNT)
        self.holders = [self.world.nodes[node.id] for node in expected]
        (self.other,) = [node for node in self.world.nodes.values() if node not in self.holders]

    def idle(self) -> None:
        """Let everything happen that is under way."""
        self.until(lambda: False)

    def until(self, condition: Callable[[], bool]) -> None:
        """Let things happen until the condition holds, or nothing is left."""
        for _ in range(_LIMIT):
            if condition() or not self.world.kernel.step():
                return
            self.world.oracle.check()
        raise AssertionError("it does not end")

    def run(self, loop: str, nodes: Iterable[Node] | None = None) -> None:
        """One pass of a loop on some nodes, or on all."""
        for node in self.world.nodes.values() if nodes is None else nodes:
            node.loop(loop, getattr(node, loop))
        self.idle()

    def upload(self, *, copies: int, gateway: int = 0, digest: str = "", is_small: bool = False) -> None:
        """Store a file of the chunk, or of `digest`, on so many nodes."""
        self.begin_upload(copies=copies, gateway=gateway, digest=digest, is_small=is_small)
        before = self.version
        self.idle()
        assert self.version > before, "the upload did not end well"

    def begin_upload(self, *, copies: int, gateway: int = 0, digest: str = "", is_small: bool = False) -> None:
        """Let an upload be under way."""
        self.world.draw_copies = lambda: copies  # type: ignore[method-assign]
        writer = self.world.gateways[gateway]
        steps = writer.upload("key", [digest or self.digest], keeps_bytes=True, is_small=is_small)
        self.world.kernel.spawn(writer.party, steps)

    @property
    def version(self) -> int:
        """Of the file; 0 when there is none."""
        return self.world.oracle.files["key"].version if "key" in self.world.oracle.files else 0

    def read(self, *, gateway: int = 0) -> None:
        """Read the file."""
        reader = self.world.gateways[gateway]
        self.world.kernel.spawn(reader.party, reader.read("key"))
        self.idle()

    def delete_and_condemn(self) -> None:
        """Delete the file, and let so much time pass that its chunk is condemned."""
        self.delete()
        self.condemn()

    def delete(self) -> None:
        """Delete the file."""
        gateway = self.world.gateways[0]
        self.world.kernel.spawn(gateway.party, gateway.delete("key"))
        self.idle()

    def condemn(self) -> None:
        """Let so much time pass that the chunks of deleted files are condemned."""
        for _ in range(3):
            self.world.log.pass_time(REFERENCE_RETENTION_S)

    def set_state(self, node: Node, state: NodeState) -> None:
        """The failure detector's verdict."""
        self.world.kernel.spawn(self.world.leader.party, self.world.leader.set_state(node.id, state))
        self.idle()

    def wipe(self, node: Node) -> None:
        """The node comes back with an empty disk, and the log hears of it."""
        self.world.oracle.lost([self.digest], self.world.kernel.step_count)
        node.wipe()
        self.idle()

    def back_up(self) -> Backup:
        """The cluster as it is now."""
        return Backup(len(self.world.log.proposals), dict(self.world.oracle.files))

    def restore(self, backup: Backup) -> None:
        """Another cluster begins with the backup, at the same addresses; no gateway is started anew."""
        world, old = self.world, self.world.log
        self._logs.append(old)
        world.log = world.oracle.log = old.restored(self.folder, "restored", backup.entries)
        world.oracle.files = dict(backup.files)
        for node in world.nodes.values():
            node.hand_over()
        self.idle()

    def close(self) -> None:
        """Give the files back."""
        for log in (*self._logs, self.world.log):
            log.close()

    def require_replicas(self) -> None:
        """Since there were N replicas, no step of the product may have left fewer.

        Raises:
            ViolationError: there are.
        """
        left = sum(node.holds_good(self.digest) for node in self.world.nodes.values())
        if left < REPLICA_COUNT:
            raise ViolationError(f"{left} replicas are left")


def pull_before_an_old_condemnation(stage: Stage) -> None:
    """A node that lags behind pulls a chunk that was condemned and stored again, and hears of the condemnation later."""
    *holders, late = stage.holders
    stage.upload(copies=2)
    stage.run("follow")
    assert not late.holds_good(stage.digest)
    stage.delete_and_condemn()
    stage.run("follow", holders)
    stage.upload(copies=2)
    stage.run("compare", [late])
    assert late.holds_good(stage.digest), "it expects the chunk still, and pulls it"
    stage.run("follow", [late])
    assert late.holds_good(stage.digest)


def surplus_that_is_missed(stage: Stage) -> None:
    """A node holds a chunk in place of one that was slow, and that has not pulled it yet."""
    slow, *_ = stage.holders
    stage.set_state(slow, NodeState.SUSPECT)
    stage.upload(copies=3)
    assert not slow.holds_good(stage.digest)
    stage.run("follow")
    stage.run("check_candidates")
    stage.require_replicas()


def surplus_on_an_old_replica(stage: Stage) -> None:
    """An expected holder has a replica of an earlier time; another node drops a new one because of it."""
    old, *rest = stage.holders
    stage.upload(copies=3)
    stage.set_state(old, NodeState.SUSPECT)
    stage.run("follow")
    stage.delete_and_condemn()
    stage.run("follow", [*rest, stage.other])
    stage.upload(copies=3)
    assert stage.other.holds_good(stage.digest), "a suspect node is written to last"
    stage.run("check_candidates", [stage.other])
    stage.run("follow", [old])
    stage.require_replicas()


def two_epochs_in_flight(stage: Stage) -> None:
    """Two nodes each drop a replica because the other has one: by node maps that follow each other.

    Both have it from the same upload: a confirmation for one with a later start index would raise that of the first, too.
    """
    away, *rest = stage.holders
    stage.upload(copies=4)
    stage.set_state(away, NodeState.INACTIVE)
    stage.run("follow")
    assert stage.other.holds_good(stage.digest), "it stands in"
    away.loop("check_candidates", away.check_candidates)
    stage.until(lambda: all(node.confirmed for node in [*rest, stage.other]))
    held: list[Any] = []
    stage.until(lambda: bool(held.extend(stage.world.kernel.hold(away.party)) or held))
    assert held, "the last answer is on its way"
    stage.set_state(away, NodeState.ACTIVE)
    stage.run("follow", [*rest, stage.other])
    stage.run("check_candidates", [stage.other])
    stage.world.kernel.release(held)
    stage.idle()
    stage.require_replicas()


def refused_publish(stage: Stage) -> None:
    """A small upload begins without a read, and its chunk is condemned between its puts and its publish."""
    stage.upload(copies=3)
    stage.delete()
    stage.begin_upload(copies=3, is_small=True)
    held: list[Any] = []
    stage.until(lambda: bool(held.extend(stage.world.kernel.hold(stage.world.log_party)) or held))
    assert all(node.holds_good(stage.digest) for node in stage.holders), "the publish is on its way"
    stage.condemn()
    stage.world.kernel.release(held)
    stage.idle()
    assert stage.world.counts["refused without a read"], "the chunk was condemned in time"
    stage.run("follow")
    stage.require_replicas()


def upload_of_what_was_confirmed(stage: Stage) -> None:
    """A gateway knows who holds a chunk when it stores it again; meanwhile the chunk was condemned."""
    stage.upload(copies=3)
    stage.read()
    stage.delete_and_condemn()
    stage.upload(copies=3)
    stage.run("follow")
    stage.require_replicas()


def read_after_a_lost_disk(stage: Stage) -> None:
    """A gateway knows who holds a chunk when one of them loses its disk."""
    stage.upload(copies=3)
    stage.read()
    stage.wipe(stage.holders[0])
    stage.read()


def restore_at_the_same_addresses(stage: Stage) -> None:
    """A gateway knows a version that another cluster, made from a backup of its own, gives to other content.

    The product gives restored clusters indexes of their own; two that were restored under one generation have them in common.
    """
    other_digest = blake3(b"other content").hexdigest()
    stage.upload(copies=3)
    backup = stage.back_up()
    while stage.world.log.index < backup.entries + 100:
        stage.world.log.pass_time(0)
    stage.upload(copies=3, digest=other_digest)
    stage.read()
    version = stage.version
    stage.restore(backup)
    while stage.world.log.index < version - 1:
        stage.world.log.pass_time(0)
    stage.upload(copies=3, gateway=1, is_small=True)
    assert stage.version == version
    stage.read()


def violation_of(scenario: Callable[[Stage], None]) -> str | None:
    """What a scenario complains about, or None when it goes well."""
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
        stage = Stage(Path(folder))
        try:
            scenario(stage)
        except ViolationError as violation:
            return str(violation)
        finally:
            stage.close()
    return None
