"""Schedules that are written down, for bugs that random ones meet too seldom to rely on.

Each goes well with the product's rules, step by step under the eyes of the oracle, and breaks a promise with its bug.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from shared.contracts.cluster import NodeState
from shared.placement import expected_holders, live_nodes
from tests.simulation.garbage.log import REFERENCE_RETENTION_S, REPLICA_COUNT, scratch_folder
from tests.simulation.garbage.node import Node
from tests.simulation.garbage.oracle import ViolationError
from tests.simulation.garbage.world import World

_LIMIT: Final = 5_000


class Stage:
    """A cluster of four nodes on which nothing happens by chance. `holders` should hold the one chunk, `other` should not."""

    def __init__(self, folder: Path) -> None:
        self.world = World(0, folder, nodes=4)
        self.world.kernel.loss = 0.0
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

    def upload(self, *, copies: int) -> None:
        """Store a file of the chunk on so many nodes."""
        world = self.world
        world.draw_copies = lambda: copies  # type: ignore[method-assign]
        gateway, before = world.gateways[0], len(world.oracle.files)
        world.kernel.spawn(gateway.party, gateway.upload("key", [self.digest], keeps_bytes=True))
        self.idle()
        assert len(world.oracle.files) == before + 1, "the upload did not end well"

    def delete_and_condemn(self) -> None:
        """Delete the file, and let so much time pass that its chunk is condemned."""
        gateway = self.world.gateways[0]
        self.world.kernel.spawn(gateway.party, gateway.delete("key"))
        self.idle()
        for _ in range(3):
            self.world.log.pass_time(REFERENCE_RETENTION_S)

    def set_state(self, node: Node, state: NodeState) -> None:
        """The failure detector's verdict."""
        self.world.kernel.spawn(self.world.leader.party, self.world.leader.set_state(node.id, state))
        self.idle()

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


def violation_of(scenario: Callable[[Stage], None]) -> str | None:
    """What a scenario complains about, or None when it goes well."""
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
        stage = Stage(Path(folder))
        try:
            scenario(stage)
        except ViolationError as violation:
            return str(violation)
        finally:
            stage.world.log.close()
    return None
