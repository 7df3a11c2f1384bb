"""Node incarnations: whose disk and Redis an acknowledgement rests on, as `apply` decides it."""

from __future__ import annotations

import pytest

from services.consensus.metadata.decisions import MAX_SUPERSEDED
from shared.contracts.cluster import NodeRun
from shared.contracts.files import Durability
from shared.contracts.metadata import AdmitNode, GetFile, RecordRun, RemoveNode
from shared.errors import (
    InvalidRequestError,
    NodeNotFoundError,
    NodeRemovedError,
    NodeReplacedError,
    RunSupersededError,
    TrivetError,
)
from tests.unit.consensus.metadata.builders import Log, publish, run, stamp

OTHER_DISK = "a" * 32


@pytest.fixture
def log(tmp_path) -> Log:
    return Log(tmp_path / "metadata")


def boot(number: int) -> str:
    return f"{number:032x}"


def record(log: Log, seen: NodeRun, node_id: str = "storage-1") -> dict[str, int]:
    return log.apply(RecordRun(node_id=node_id, run=seen, stamp=stamp()))


def upload(log: Log, fences: dict[str, int] | None, key: str = "a") -> None:
    nodes = ["storage-1", "storage-2"] if fences is None else sorted(fences)
    durability = Durability(target=3, acknowledged=2, nodes=nodes)
    log.apply(publish(key, epoch=log.store.node_map().epoch, fences=fences, durability=durability))


def test_the_first_run_of_a_node_keeps_its_incarnation(log):
    """A folder that is older than disk ids loses nothing by getting one."""
    epoch, incarnation = log.store.node_map().epoch, log.store.node_map().nodes[0].incarnation
    assert record(log, run()) == {
        "incarnation": incarnation,
        "fence": incarnation,
        "epoch": epoch,
        "is_superseded": False,
    }
    assert log.store.node_map().epoch == epoch
    upload(log, {"storage-1": incarnation})


def test_a_restart_on_the_same_disk_keeps_the_incarnation(log):
    """What was acknowledged before still counts, and so does what is acknowledged after."""
    before = record(log, run())
    assert record(log, run(boot_id=boot(2), counter=2)) == before
    upload(log, {"storage-1": before["fence"]})


def test_the_counter_rises_within_a_run(log):
    """And does not fall when a heartbeat comes late, so that a folder rolled back is known."""
    before = record(log, run(counter=5))
    assert record(log, run(counter=6)) == before
    assert record(log, run(counter=5)) == before
    assert log.store.runs()["storage-1"].counter == 6
    assert record(log, run(boot_id=boot(2), counter=6))["incarnation"] > before["incarnation"]


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(run(boot_id=boot(2), disk_id=OTHER_DISK, counter=1), id="wiped"),
        pytest.param(run(boot_id=boot(2), disk_id=OTHER_DISK, counter=9), id="other disk, higher counter"),
        pytest.param(run(boot_id=boot(2), counter=5), id="copied folder"),
        pytest.param(run(boot_id=boot(2), counter=4), id="volume rolled back"),
    ],
)
def test_another_disk_begins_an_incarnation_that_holds_nothing(log, seen):
    """The placement epoch rises, and a publish that counts what was acknowledged before is refused, definitely."""
    before = record(log, run(counter=5))
    after = record(log, seen)
    assert after["epoch"] == before["epoch"] + 1 == log.store.node_map().epoch
    assert after["incarnation"] == after["fence"] == after["epoch"]
    assert log.store.node_map().nodes[0].incarnation == after["incarnation"]
    with pytest.raises(NodeReplacedError) as refused:
        upload(log, {"storage-1": before["fence"], "storage-2": 2})
    assert refused.value.definite
    assert refused.value.facts["node_id"] == "storage-1"
    assert log.ask(GetFile(bucket="default", key="a")).file is None
    upload(log, {"storage-1": after["fence"], "storage-2": 2})


def test_an_upload_without_fences_that_began_before_is_refused_too(log):
    """Entries of version 1 name no fences; the epoch in which they began protects them."""
    record(log, run())
    epoch = log.store.node_map().epoch
    record(log, run(boot_id=boot(2), disk_id=OTHER_DISK))
    with pytest.raises(NodeRemovedError):
        log.apply(publish("a", epoch=epoch))
    log.apply(publish("a", epoch=epoch + 1))


def test_a_superseded_run_is_refused_for_ever(log):
    """Whatever it says; the run that superseded it goes on."""
    record(log, run())
    record(log, run(boot_id=boot(2), counter=2))
    for late in (run(), run(counter=99), run(disk_id=OTHER_DISK)):
        assert record(log, late)["is_superseded"]
        assert log.store.runs()["storage-1"].boot_id == boot(2)
    assert not record(log, run(boot_id=boot(2), counter=3))["is_superseded"]


def test_two_processes_with_one_folder_never_both_count(log):
    """The folder was copied while its node ran: the second one is a new incarnation, and the first is refused."""
    original = record(log, run(counter=5))
    copy = record(log, run(boot_id=boot(2), counter=5))
    assert copy["incarnation"] > original["incarnation"]
    assert record(log, run(counter=6))["is_superseded"]
    with pytest.raises(NodeReplacedError):
        upload(log, {"storage-1": original["fence"]})


def test_a_copy_that_was_started_more_often_is_found_by_the_life_of_the_original(log):
    """Its counter exceeds the recorded one, so only a word of the original says that there are two folders."""
    original = record(log, run(counter=5))
    copy = record(log, run(boot_id=boot(2), counter=9))
    assert copy["fence"] == original["fence"]
    found = record(log, run(counter=6))
    assert found["is_superseded"]
    assert found["incarnation"] == found["epoch"] > copy["incarnation"]
    with pytest.raises(NodeReplacedError):
        upload(log, {"storage-1": copy["fence"]})
    upload(log, {"storage-1": found["fence"]})
    # Once: the original goes on saying so, and the copy may count.
    epoch = log.store.node_map().epoch
    for counter in (6, 7):
        assert record(log, run(counter=counter))["is_superseded"]
    assert record(log, run(boot_id=boot(2), counter=10))["fence"] == found["fence"]
    assert log.store.node_map().epoch == epoch


def test_only_so_many_superseded_runs_are_remembered(log):
    """The table is bounded. A forgotten one that comes back begins an incarnation: nothing that it lacks is counted."""
    record(log, run(boot_id=boot(0)))
    for number in range(1, MAX_SUPERSEDED + 2):
        last = record(log, run(boot_id=boot(number), counter=1 + number))
    assert len(log.store.runs()["storage-1"].superseded) == MAX_SUPERSEDED
    last = record(log, run(boot_id=boot(1), counter=2))
    assert last["is_superseded"]
    assert record(log, run(boot_id=boot(0), counter=1))["incarnation"] > last["incarnation"]


@pytest.mark.parametrize("is_redis_record", [True, False], ids=["mode redis", "tiered"])
def test_another_redis_voids_acknowledgements_under_way(log, is_redis_record):
    """Where it is the store of record it is a new incarnation as well; else what the disk lists counts."""
    before = record(log, run(redis_id="c" * 32, is_redis_record=is_redis_record))
    after = record(log, run(redis_id="e" * 32, is_redis_record=is_redis_record))
    assert after["fence"] == after["epoch"] > before["fence"]
    assert (after["incarnation"] > before["incarnation"]) == is_redis_record
    with pytest.raises(NodeReplacedError):
        upload(log, {"storage-1": before["fence"]})
    upload(log, {"storage-1": after["fence"]})


def test_a_redis_that_is_not_known_is_not_another_one(log):
    """A node starts while its Redis is away: that is not remembered as a loss, and the same Redis is none either."""
    before = record(log, run(redis_id="c" * 32))
    assert record(log, run(boot_id=boot(2), counter=2)) == before
    assert record(log, run(boot_id=boot(2), counter=2, redis_id="c" * 32)) == before
    assert record(log, run(boot_id=boot(2), counter=2, redis_id="e" * 32))["fence"] > before["fence"]


def test_a_removed_node_is_refused_whatever_fence_is_named(log):
    """Admitted again it begins an incarnation, and any disk may."""
    before = record(log, run())
    log.apply(RemoveNode(node_id="storage-1", stamp=stamp()))
    assert log.store.runs() == {}
    with pytest.raises(NodeRemovedError):
        upload(log, {"storage-1": before["fence"]})
    with pytest.raises(NodeNotFoundError):
        record(log, run())
    log.apply(AdmitNode(node_id="storage-1", stamp=stamp()))
    after = record(log, run(boot_id=boot(2), disk_id=OTHER_DISK))
    assert after["incarnation"] == log.store.node_map().epoch
    with pytest.raises(NodeReplacedError):
        upload(log, {"storage-1": before["fence"]})
    upload(log, {"storage-1": after["fence"]})


def test_a_refused_attempt_is_not_remembered_under_the_clients_key(log):
    """The next attempt, whose chunks were put again, succeeds under the same key; a later duplicate gets its receipt."""
    before = record(log, run())
    after = record(log, run(boot_id=boot(2), disk_id=OTHER_DISK))
    durability = Durability(target=3, acknowledged=2, nodes=["storage-1"])
    first = publish("a", fences={"storage-1": before["fence"]}, durability=durability)
    key = {"request_id": "client-key", "fingerprint": "f", "retain_s": 86_400}
    for _ in range(2):
        refused = log.propose(first, **key)
        assert refused.problem is not None
        assert refused.problem["code"] == NodeReplacedError.code
    second = first.model_copy(update={"fences": {"storage-1": after["fence"]}})
    published = log.propose(second, **key)
    assert published.result is not None
    assert log.propose(first, **key) == published
    assert log.propose(second, **key) == published


@pytest.mark.parametrize("counter", [-1, 1 << 63])
def test_a_counter_that_no_column_holds_is_rejected(log, counter):
    """It must not stop every member at the same entry."""
    with pytest.raises(InvalidRequestError):
        record(log, run(counter=counter))


def test_runs_survive_a_restart_of_the_member(log):
    """They are in the tables, with a checksum that counts in the state's hash."""
    record(log, run(redis_id="c" * 32))
    record(log, run(boot_id=boot(2), disk_id=OTHER_DISK, redis_id="e" * 32))
    runs, state_hash = log.store.runs(), log.store.state_hash()
    log.store.close()
    again = Log(log.path, is_initialised=False)
    assert (again.store.runs(), again.store.state_hash()) == (runs, state_hash)
    record(again, run(boot_id=boot(3), disk_id=OTHER_DISK, redis_id="e" * 32, counter=2))


def test_every_refusal_of_a_run_is_definite():
    """The node may act on it."""
    for kind in (RunSupersededError, NodeReplacedError):
        assert issubclass(kind, TrivetError)
        assert kind("x").definite
