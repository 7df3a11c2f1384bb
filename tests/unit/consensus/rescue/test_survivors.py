"""Which survivor is the best, what is certain about it, and the folder that is made of it: whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.consensus.metadata.store import MetadataStore
from services.consensus.metadata.verification import verify
from services.consensus.peering.disk_identities import DiskIdentities
from services.consensus.persistence.adapter import committed_entries
from services.consensus.persistence.hard_state import FileHardState
from services.consensus.persistence.log_store import SqliteLogStore
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.ports import Entry, EntryKind
from services.consensus.rescue import new_cluster
from services.consensus.rescue.completeness import has_every_commit, voters_without_survivor
from services.consensus.rescue.new_cluster import GENERATION_MAX, TargetRefusedError, first_index, make_folder
from services.consensus.rescue.survivors import (
    Survivor,
    SurvivorUnusableError,
    apply_rest,
    copied,
    inspect,
    what_may_be_missing,
)
from shared.contracts.cluster import ConsensusMember
from shared.contracts.metadata import GetFile, InitCluster
from shared.disk.data_folder import claim_data_dir, lock_data_dir
from tests.unit.consensus.metadata.builders import entry, publish, stamp

FOUNDERS = tuple(ConsensusMember(id=f"consensus-{n}", url=f"http://h{n}:1", peer_address=f"h{n}:2") for n in (1, 2, 3))
NEW = (ConsensusMember(id="consensus-1", url="http://h1:1", peer_address="h1:2"),)


def log_of(length: int, *, last_term: int = 1) -> list[Entry]:
    init = InitCluster(cluster_id="old-cluster", admitted_nodes=["storage-1", "storage-2"], stamp=stamp())
    commands = [init, *(publish(f"k{index}", incarnation=2, epoch=2) for index in range(3, length + 1))]
    payloads = [entry(index, command).payload or b"" for index, command in enumerate(commands, 2)]
    return [
        Entry(1, EntryKind.CONFIGURATION, Configuration("old-cluster", FOUNDERS).encode()),
        *(Entry(1, EntryKind.COMMAND, payload) for payload in payloads[:-1]),
        Entry(last_term, EntryKind.COMMAND, payloads[-1]),
    ]


def member(folder: Path, member_id: str, entries: list[Entry], *, applied: int) -> Path:
    """The folder of a member that stopped."""
    path = folder / member_id
    path.mkdir(parents=True)
    os.close(claim_data_dir(path, "old-cluster", member_id).lock_fd)
    log = SqliteLogStore(path)
    log.write(None, 1, entries)
    log.close()
    FileHardState(path).update({"term": entries[-1].term})
    DiskIdentities(path)
    store = MetadataStore.open(path / "metadata.sqlite")
    store.apply_batch(committed_entries(1, entries[:applied]))
    store.close()
    return path


def look(folder: Path, work: Path) -> Survivor:
    with copied(folder, work) as copy:
        return inspect(folder, copy)


@pytest.fixture
def work(tmp_path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_the_best_survivor_is_the_one_that_raft_would_elect(tmp_path, work):
    """The later term of the last entry first, then the longer log; what was applied does not outweigh either."""
    long = look(member(tmp_path, "consensus-1", log_of(9), applied=9), work)
    late = look(member(tmp_path, "consensus-2", log_of(6, last_term=3), applied=2), work)
    short = look(member(tmp_path, "consensus-3", log_of(6), applied=6), work)
    assert sorted([long, late, short], key=lambda found: found.rank) == [short, long, late]
    assert (late.term, late.first_index, late.last_index, late.applied) == (3, 1, 6, 2)
    assert (late.member_id, late.cluster_id) == ("consensus-2", "old-cluster")
    assert list(work.iterdir()) == []


def configuration_of(ids: frozenset[str]) -> Configuration:
    return Configuration("c", tuple(ConsensusMember(id=i, url="http://h:1", peer_address="h:2") for i in sorted(ids)))


def configuration(*voters: int) -> Configuration:
    return configuration_of(frozenset(f"consensus-{n}" for n in voters))


def survivor(number: int, *placed: tuple[int, Configuration], applied: int = 8) -> Survivor:
    return Survivor(Path("/"), f"consensus-{number}", "old-cluster", 1, 1, 9, 1, applied, placed)


def is_whole(*survivors: Survivor) -> bool:
    lines = what_may_be_missing(survivors[0], list(survivors))
    assert lines[0].startswith("Entries up to 8 were committed")
    assert "Entries 9 to 9 are here" in lines[1]
    found = "Nothing that was acknowledged is missing" in lines[2]
    assert ("cannot be known" in lines[2]) != found
    return found


@pytest.mark.parametrize(
    ("voters", "survivors", "expected"),
    [
        (1, 1, True),
        (2, 1, False),
        (2, 2, True),
        (3, 1, False),
        (3, 2, True),
        (4, 2, False),
        (4, 3, True),
        (5, 2, False),
        (5, 3, True),
    ],
)
def test_nothing_is_missing_when_every_majority_has_a_survivor(voters, survivors, expected):
    """Both sides of the edge. Two of four are not enough: the lost two can have removed a survivor and be a majority."""
    at_start = (1, configuration(*range(1, voters + 1)))
    assert is_whole(*(survivor(n, at_start) for n in range(1, survivors + 1))) == expected


@pytest.mark.parametrize(
    ("before", "after", "present", "expected"),
    [
        ((1, 2, 3), (1, 2), (1,), False),
        ((1, 2, 3, 4), (1, 2, 3), (1, 2), False),
        ((1, 2, 3, 4, 5), (1, 2, 3, 4), (1, 2), False),
        ((1, 2, 3, 4, 5), (1, 2, 3, 4), (1, 2, 3), True),
    ],
    ids=["3 to 2", "4 to 3", "5 to 4, two left", "5 to 4, three left"],
)
def test_a_change_of_voters_that_may_not_have_been_committed_proves_nothing(before, after, present, expected):
    """The last configuration in a log may be one that no majority ever had; then the one before it counts."""
    found = [survivor(n, (1, configuration(*before)), (9, configuration(*after))) for n in present]
    assert is_whole(*found) == expected


def test_a_change_that_was_applied_ends_what_was_before_it():
    """Its entry is committed: no majority of the five can have done anything since."""
    changes = [(1, configuration(1, 2, 3, 4, 5)), (5, configuration(1, 2, 3, 4)), (7, configuration(1, 2, 3))]
    assert is_whole(survivor(1, *changes), survivor(2, *changes[:1], applied=3))
    assert not is_whole(
        survivor(1, *changes), survivor(2, *changes), survivor(4, *changes[:2], (8, configuration(4, 5, 6)))
    )


@given(st.integers(1, 9), st.integers(0, 9))
def test_a_promotion_that_is_not_known_makes_nothing_worse(voters, present):
    """What the search for configurations leaves out: enough survivors after every removal are enough after an addition."""
    ids = frozenset(f"m{n}" for n in range(voters))
    here = frozenset(sorted(ids)[:present])
    if voters_without_survivor([(1, configuration_of(ids))], here) is None:
        assert has_every_commit(ids | {"promoted"}, here)


def test_survivors_that_know_no_configuration_prove_nothing():
    """A member that was never initialised."""
    assert not is_whole(survivor(1))


def test_a_new_folder_has_everything_that_the_log_holds(tmp_path, work):
    """What was not applied yet included; far above, in another cluster, with one member, and a record of it all."""
    source = member(tmp_path, "consensus-2", log_of(9), applied=4)
    with copied(source, work) as copy:
        state = make_folder(
            apply_rest(copy),
            tmp_path / "new",
            cluster_id="new-cluster",
            members=NEW,
            record={"why": "test"},
            above_term=7,
        )
    assert verify(tmp_path / "new" / "metadata.sqlite") == state
    assert (state.last_applied, state.last_term, state.cluster_id) == (1 << 40, 8, "new-cluster")
    assert state.horizon == state.last_applied
    store = MetadataStore.open(tmp_path / "new" / "metadata.sqlite")
    answers = store.answer([GetFile(bucket="default", key="k9"), GetFile(bucket="default", key="k3")], term=1)
    assert [result.answer.version for result in answers.results] == [9, 3]
    store.close()
    log = SqliteLogStore(tmp_path / "new", must_exist=True)
    stored = log.load()
    log.close()
    assert (stored.base.index, stored.base.term, stored.last_index) == (1 << 40, 8, 1 << 40)
    assert Configuration.decode(stored.configurations[-1][1]) == Configuration("new-cluster", NEW)
    assert FileHardState(tmp_path / "new", must_exist=True).term == 8
    assert json.loads((tmp_path / "new" / "rescue.json").read_text())["why"] == "test"
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []


@pytest.mark.parametrize(
    ("last_known", "asked", "expected"),
    [
        (9, None, 1 << 40),
        (1_000_009, None, 1 << 40),
        ((1 << 40) - 1, None, 1 << 40),
        (1 << 40, None, 2 << 40),
        (9, 5, 5 << 40),
        (5 << 40, 5, None),
        (9, 0, None),
        (9, GENERATION_MAX, GENERATION_MAX << 40),
        (9, GENERATION_MAX + 1, None),
        (GENERATION_MAX << 40, None, None),
    ],
)
def test_every_new_cluster_has_a_generation_of_indexes_of_its_own(last_known, asked, expected):
    """However old the backup is: what the old cluster did since is below; and every index is exact in JSON."""
    if expected is None:
        with pytest.raises(TargetRefusedError, match="generation"):
            first_index(last_known, asked)
        return
    assert first_index(last_known, asked) == expected
    assert float(expected + (1 << 40) - 1) == expected + (1 << 40) - 1


def test_no_index_of_the_old_cluster_comes_again_however_old_the_backup_is():
    """At 8,000 commits a second for a year since the backup."""
    assert first_index(1000) > 1000 + 8000 * 365 * 86_400


@pytest.mark.parametrize(
    "step", ["write_copy", "_begin_anew", "SqliteLogStore", "DiskIdentities", "replace_file", "sync_directory"]
)
def test_a_crash_at_any_step_leaves_no_folder_and_can_be_repeated(tmp_path, work, monkeypatch, step):
    """The name appears last; what is left beside it is removed by the next try."""
    source = member(tmp_path, "consensus-2", log_of(5), applied=5)
    arguments = {"cluster_id": "new-cluster", "members": NEW, "record": {}}

    def crash(*_, **__):
        raise OSError("power cut")

    with copied(source, work) as copy:
        tables = apply_rest(copy)
        monkeypatch.setattr(new_cluster, step, crash)
        with pytest.raises(OSError, match="power cut"):
            make_folder(tables, tmp_path / "new", **arguments)
        assert not (tmp_path / "new").exists()
        monkeypatch.undo()
        make_folder(tables, tmp_path / "new", **arguments)
    verify(tmp_path / "new" / "metadata.sqlite")


def test_a_folder_in_use_or_damaged_is_refused(tmp_path, work):
    """Nothing is read from under a running member, and damage is named instead of rescued."""
    running = member(tmp_path, "consensus-1", log_of(5), applied=5)
    held = lock_data_dir(running)
    with pytest.raises(SurvivorUnusableError, match="in use"):
        look(running, work)
    os.close(held.lock_fd)
    look(running, work)
    for name, statement in (
        ("raft_log.sqlite", "UPDATE entries SET payload = x'00' WHERE position = 3"),
        ("metadata.sqlite", "UPDATE state SET last_applied = 4"),
    ):
        damaged = Path(shutil.copytree(running, tmp_path / f"damaged-{name}"))
        connection = sqlite3.connect(damaged / name, isolation_level=None)
        connection.execute(statement)
        connection.close()
        with pytest.raises(SurvivorUnusableError, match=r"checksum|damaged"):
            look(damaged, work)
    with pytest.raises(SurvivorUnusableError, match="not the data folder"):
        look(tmp_path / "nowhere", work)


def test_the_old_cluster_id_and_a_full_folder_are_refused(tmp_path, work):
    """A new cluster is another one, and nothing is ever overwritten."""
    source = member(tmp_path, "consensus-2", log_of(5), applied=5)
    with copied(source, work) as copy:
        tables = apply_rest(copy)
        with pytest.raises(TargetRefusedError, match="new id"):
            make_folder(tables, tmp_path / "new", cluster_id="old-cluster", members=NEW, record={})
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "something").touch()
        with pytest.raises(TargetRefusedError, match="not empty"):
            make_folder(tables, tmp_path / "full", cluster_id="new-cluster", members=NEW, record={})
    assert not (tmp_path / "new").exists()
