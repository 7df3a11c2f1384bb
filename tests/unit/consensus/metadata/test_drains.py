"""Drains, proofs of removal, and the states that storage nodes have since entries of version 3.

docs/promises.md, "Epochs, drains and removals".
"""

from __future__ import annotations

import pytest

from shared.contracts.cluster import NodeState, StorageNode
from shared.contracts.files import Durability
from shared.contracts.metadata import (
    AdmitNode,
    DrainNode,
    GetCluster,
    RecordRun,
    RemovalProof,
    RemoveNode,
    SetNodeState,
    UpdateNode,
)
from shared.errors import (
    DrainInProgressError,
    InvalidRequestError,
    NodeDrainingError,
    NodeNotFoundError,
    RemovalNotProvedError,
    TooFewNodesError,
)
from tests.unit.consensus.metadata.builders import Log, publish, run, stamp

VICTIM = "storage-1"


@pytest.fixture
def log(tmp_path) -> Log:
    made = Log(tmp_path / "metadata", entry_version=3)
    made.apply(AdmitNode(node_id="storage-4", stamp=stamp()))
    for number in range(1, 5):
        dial_in(made, f"storage-{number}")
    return made


def dial_in(log: Log, node_id: str) -> None:
    log.apply(UpdateNode(node_id=node_id, url=f"http://{node_id}", zone="z", capacity_bytes=1 << 30, stamp=stamp()))


def node(log: Log, node_id: str = VICTIM) -> StorageNode:
    return next(node for node in log.ask(GetCluster()).node_map.nodes if node.id == node_id)


def epoch(log: Log) -> int:
    return log.store.node_map().epoch


def set_state(log: Log, state: NodeState, node_id: str = VICTIM, *, seen: NodeState | None = None) -> int:
    return log.apply(SetNodeState(node_id=node_id, state=state, seen=seen, stamp=stamp()))["epoch"]


def drain(log: Log, node_id: str = VICTIM, *, min_left: int | None = 3) -> dict:
    return log.apply(DrainNode(node_id=node_id, min_left=min_left, stamp=stamp()))


def remove(
    log: Log, node_id: str = VICTIM, *, proof: RemovalProof | None = None, is_forced: bool | None = None
) -> dict:
    return log.apply(RemoveNode(node_id=node_id, proof=proof, is_forced=is_forced, stamp=stamp()))


def proof_of(log: Log, node_id: str = VICTIM, **changes: int) -> RemovalProof:
    """What is found now of a node that drains."""
    found = node(log, node_id)
    fields = {"log_index": log.store.last_applied, "epoch": epoch(log), "incarnation": found.incarnation}
    return RemovalProof(**fields | changes)


def tick(log: Log) -> None:
    log.apply(publish("tick", durability=Durability(target=3, acknowledged=1, nodes=["storage-2"]), epoch=epoch(log)))


# --- drains -------------------------------------------------------------------------------------------------------


def test_a_draining_node_is_in_the_map_with_the_index_at_which_that_began(log):
    """The epoch rises, so that everybody asks again."""
    before = epoch(log)
    result = drain(log)
    assert result == {"epoch": before + 1, "log_index": log.store.last_applied}
    assert (node(log).state, node(log).draining_since) == (NodeState.DRAINING, log.store.last_applied)
    assert log.store.node_map() == log.ask(GetCluster()).node_map


def test_draining_again_changes_nothing(log):
    """The drain in force began when it began, whoever asks again, forced or not."""
    first = drain(log)
    for min_left in (3, None):
        assert drain(log, min_left=min_left) == first
    assert set_state(log, NodeState.DRAINING) == first["epoch"]
    assert node(log).draining_since == first["log_index"]


def test_an_upload_that_counts_a_draining_node_is_refused(log):
    """From the drain entry on; one that counts others passes."""
    counted = publish("a", epoch=epoch(log), start_index=3)
    log.apply(counted)
    drain(log)
    with pytest.raises(NodeDrainingError) as refused:
        log.apply(counted)
    assert refused.value.definite
    assert refused.value.is_transient
    assert refused.value.facts == {"node_id": VICTIM}
    tick(log)


def test_an_upload_that_counts_a_node_whose_drain_was_cancelled_passes(log):
    """It is written to again."""
    drain(log)
    set_state(log, NodeState.ACTIVE)
    assert node(log).draining_since is None
    log.apply(publish("a", epoch=epoch(log), start_index=3))


def test_before_version_3_a_draining_node_counts(tmp_path):
    """Members of an older version let it pass, and all must come to the same state."""
    log = Log(tmp_path / "m", entry_version=2)
    set_state(log, NodeState.DRAINING)
    log.apply(publish("a", epoch=epoch(log)))
    assert node(log).draining_since is None


@pytest.mark.parametrize(("min_left", "is_refused"), [(3, False), (4, True)])
def test_as_many_nodes_are_left_as_a_chunk_has_replicas(log, min_left, is_refused):
    """Just enough pass; one too few is refused, and nothing is half done."""
    before = log.store.node_map()
    if is_refused:
        with pytest.raises(TooFewNodesError) as refused:
            drain(log, min_left=min_left)
        assert refused.value.facts == {"left": 3, "needed": 4}
        assert log.store.node_map() == before
    else:
        drain(log, min_left=min_left)


@pytest.mark.parametrize("state", [NodeState.INACTIVE, NodeState.SUSPECT])
def test_only_nodes_that_live_are_left(log, state):
    """A silent node holds up no replica; one that is only suspected does."""
    set_state(log, state, "storage-2")
    if state == NodeState.INACTIVE:
        with pytest.raises(TooFewNodesError):
            drain(log)
    else:
        drain(log)


def test_a_node_that_never_dialled_in_is_not_left(log):
    """It has no address to write to."""
    remove(log, "storage-4", is_forced=True)
    log.apply(AdmitNode(node_id="storage-5", stamp=stamp()))
    with pytest.raises(TooFewNodesError):
        drain(log)


def test_one_node_drains_at_a_time(log):
    """The next one begins when the first is over."""
    drain(log, "storage-2", min_left=1)
    with pytest.raises(DrainInProgressError) as refused:
        drain(log, min_left=1)
    assert refused.value.facts == {"node_id": "storage-2"}
    set_state(log, NodeState.ACTIVE, "storage-2")
    drain(log, min_left=1)


def test_a_forced_drain_asks_nothing(log):
    """The operator knows."""
    drain(log, "storage-2", min_left=None)
    drain(log, min_left=None)
    assert node(log).draining_since == log.store.last_applied


def test_an_unknown_node_is_refused(log):
    """Typed."""
    with pytest.raises(NodeNotFoundError):
        drain(log, "storage-9")


def test_a_drain_that_began_before_version_3_begins_anew_with_it(tmp_path):
    """Uploads that counted the node were published until then, so the proof needs a later index."""
    log = Log(tmp_path / "m")
    set_state(log, NodeState.DRAINING)
    log.raise_entry_version(3)
    before = epoch(log)
    assert node(log).draining_since is None
    assert drain(log, min_left=None) == {"epoch": before + 1, "log_index": log.store.last_applied}
    assert node(log).draining_since == log.store.last_applied
    assert log.store.node_map() == log.ask(GetCluster()).node_map


# --- removal ------------------------------------------------------------------------------------------------------


def test_a_proved_node_is_removed(log):
    """The proof names an index after the drain began, and the epoch and incarnation of now."""
    drain(log)
    tick(log)
    remove(log, proof=proof_of(log))
    assert VICTIM not in [node.id for node in log.store.node_map().nodes]
    log.apply(AdmitNode(node_id=VICTIM, stamp=stamp()))
    assert (node(log).state, node(log).draining_since) == (NodeState.JOINING, None)


def test_removal_without_proof_is_refused(log):
    """Draining or not; nothing is changed."""
    for is_forced in (None, False):
        with pytest.raises(RemovalNotProvedError):
            remove(log, is_forced=is_forced)
    drain(log)
    before = log.store.node_map()
    with pytest.raises(RemovalNotProvedError) as refused:
        remove(log)
    assert refused.value.definite
    assert log.store.node_map() == before


def test_a_proof_at_the_index_of_the_drain_is_too_early(log):
    """The drain must have begun before it: uploads up to that index counted the node."""
    since = drain(log)["log_index"]
    tick(log)
    for log_index in (since - 1, since):
        with pytest.raises(RemovalNotProvedError):
            remove(log, proof=proof_of(log, log_index=log_index))
    remove(log, proof=proof_of(log, log_index=since + 1))


def test_a_proof_of_a_node_that_does_not_drain_is_refused(log):
    """Uploads count it."""
    tick(log)
    with pytest.raises(RemovalNotProvedError):
        remove(log, proof=proof_of(log))


def test_a_proof_of_an_earlier_drain_is_refused(log):
    """Between the two it was written to."""
    drain(log)
    tick(log)
    early = proof_of(log)
    set_state(log, NodeState.ACTIVE)
    drain(log)
    with pytest.raises(RemovalNotProvedError):
        remove(log, proof=early)
    with pytest.raises(RemovalNotProvedError):
        remove(log, proof=proof_of(log, log_index=early.log_index))


def test_a_proof_of_another_epoch_is_refused(log):
    """Others were expected to hold the chunks then."""
    drain(log)
    tick(log)
    proved = proof_of(log)
    set_state(log, NodeState.INACTIVE, "storage-3")
    with pytest.raises(RemovalNotProvedError):
        remove(log, proof=proved)


def test_a_proof_of_another_incarnation_is_refused(log):
    """Whatever the epoch says."""
    log.apply(RecordRun(node_id=VICTIM, run=run(), stamp=stamp()))
    drain(log)
    tick(log)
    before = node(log).incarnation
    log.apply(RecordRun(node_id=VICTIM, run=run(disk_id="e" * 32, boot_id="f" * 32), stamp=stamp()))
    tick(log)
    with pytest.raises(RemovalNotProvedError):
        remove(log, proof=proof_of(log, incarnation=before))


def test_a_lost_node_is_removed_by_force(log):
    """It drains or not."""
    remove(log, is_forced=True)
    drain(log, "storage-2", min_left=None)
    remove(log, "storage-2", is_forced=True)
    assert [node.id for node in log.store.node_map().nodes] == ["storage-3", "storage-4"]


def test_before_version_3_a_removal_needs_no_proof(tmp_path):
    """As members of an older version have it."""
    log = Log(tmp_path / "m", entry_version=2)
    remove(log)
    assert VICTIM not in [node.id for node in log.store.node_map().nodes]


# --- states -------------------------------------------------------------------------------------------------------


def test_a_node_joins_until_it_dials_in(log):
    """Then it is active; what it announces later leaves its state alone."""
    log.apply(AdmitNode(node_id="storage-5", stamp=stamp()))
    assert node(log, "storage-5").state == NodeState.JOINING
    dial_in(log, "storage-5")
    assert node(log, "storage-5").state == NodeState.ACTIVE
    set_state(log, NodeState.SUSPECT, "storage-5")
    dial_in(log, "storage-5")
    assert node(log, "storage-5").state == NodeState.SUSPECT


def test_joining_cannot_be_set(log):
    """A node that holds chunks does not join again."""
    with pytest.raises(InvalidRequestError):
        set_state(log, NodeState.JOINING)


def test_what_was_decided_from_an_outdated_state_changes_nothing(log):
    """A node that an operator has begun to drain is not taken back by a failure detector that saw it active."""
    since = drain(log)
    assert set_state(log, NodeState.INACTIVE, seen=NodeState.ACTIVE) == since["epoch"]
    assert node(log).draining_since == since["log_index"]
    assert set_state(log, NodeState.ACTIVE, seen=NodeState.DRAINING) > since["epoch"]
    assert (node(log).state, node(log).draining_since) == (NodeState.ACTIVE, None)


def test_drains_survive_a_restart_of_the_member(log):
    """They are in the tables, and count in the state's hash."""
    drain(log)
    before, state_hash = log.store.node_map(), log.store.state_hash()
    log.store.close()
    again = Log(log.path, is_initialised=False)
    assert (again.store.node_map(), again.store.state_hash()) == (before, state_hash)
    set_state(again, NodeState.ACTIVE)
    assert again.store.node_map() == again.ask(GetCluster()).node_map
