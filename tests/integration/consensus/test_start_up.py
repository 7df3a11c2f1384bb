"""A member that must not start says why, in one sentence, and ends with EX_CONFIG."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from services.consensus.peering.disk_identities import DiskIdentities
from services.consensus.persistence.hard_state import FileHardState
from services.consensus.persistence.log_store import SqliteLogStore
from services.consensus.raft.ports import Entry, EntryKind
from shared.cluster_keys import key_file
from shared.roles import Role
from shared.settings import EXIT_CONFIGURATION
from tests.free_ports import free_port

SECRET = "s" * 40


def start(folder: Path, **changes: str | None) -> subprocess.CompletedProcess[str]:
    environment: dict[str, str | None] = {
        "PATH": "/usr/bin:/bin",
        "TRIVET_NODE_ID": "consensus-1",
        "TRIVET_CLUSTER_ID": "cluster-one",
        "TRIVET_PEER_KEYS": key_file(SECRET, Role.CONSENSUS),
        "TRIVET_DATA_DIR": str(folder),
        "TRIVET_PORT": str(free_port()),
        "TRIVET_PEER_PORT": str(free_port()),
    } | changes
    return subprocess.run(
        [sys.executable, "-m", "services.consensus.main"],
        env={name: value for name, value in environment.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"TRIVET_PEER_KEYS": None}, "the peer keys are missing"),
        ({"TRIVET_PEER_KEYS": SECRET}, "begins with a line such as `role storage`"),
        ({"TRIVET_NODE_ID": "../evil"}, "TRIVET_NODE_ID"),
        ({"TRIVET_ELECTION_TIMEOUT_MAX_MS": "1000"}, "must be more than"),
        ({"TRIVET_ELECTION_TIMEOUT_MIN_MS": "200"}, "at least three times"),
        ({"TRIVET_CLOCK_URLS": "nonsense"}, "is not of the form"),
    ],
)
def test_a_wrong_setting_is_refused(tmp_path: Path, changes: dict[str, str | None], reason: str) -> None:
    """One clear sentence, no traceback, nothing written."""
    ended = start(tmp_path / "data", **changes)
    assert ended.returncode == EXIT_CONFIGURATION, ended.stderr
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "data").exists()


def test_a_folder_of_another_cluster_is_refused(tmp_path: Path) -> None:
    """Data of one cluster never appears in another."""
    (tmp_path / "identity.json").write_text(
        '{"format_version": 1, "cluster_id": "cluster-two", "node_id": "consensus-1"}'
    )
    ended = start(tmp_path)
    assert ended.returncode == EXIT_CONFIGURATION, ended.stderr
    assert "belongs to cluster cluster-two" in ended.stderr


def test_a_shortened_log_is_refused(tmp_path: Path) -> None:
    """A member whose log lost acknowledged entries stops with a clear message instead of voting with less."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "identity.json").write_text('{"format_version": 1, "cluster_id": "cluster-one", "node_id": "consensus-1"}')
    store = SqliteLogStore(data)
    store.load()
    store.write(None, 1, [Entry(1, EntryKind.NO_OP, b"")] * 3)
    store._database.execute("DELETE FROM entries WHERE position = 3")
    store.close()
    ended = start(data)
    assert ended.returncode == EXIT_CONFIGURATION, ended.stderr
    assert "ends at entry 2, but entries up to 3 were acknowledged" in ended.stderr


@pytest.mark.parametrize("lost", ["raft_log.sqlite", "raft_log.acknowledged", "hard_state"])
def test_a_member_that_lost_a_file_but_kept_its_disk_id_is_refused(tmp_path: Path, lost: str) -> None:
    """The others would take it for the member that it was; without its log or vote it must not take part."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "identity.json").write_text('{"format_version": 1, "cluster_id": "cluster-one", "node_id": "consensus-1"}')
    store = SqliteLogStore(data)
    store.load()
    store.write(None, 1, [Entry(0, EntryKind.NO_OP, b"")])
    store.close()
    FileHardState(data)
    DiskIdentities(data)
    (data / lost).unlink()
    ended = start(data)
    assert ended.returncode == EXIT_CONFIGURATION, ended.stderr
    assert f"{lost} is gone" in ended.stderr
