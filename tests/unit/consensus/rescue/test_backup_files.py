"""A backup proves what it is and who made it; nobody who can write where it lies can change what a restore makes of it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

from services.consensus.metadata.copy import write_copy
from services.consensus.metadata.database import UnknownTablesError
from services.consensus.metadata.store import MetadataStore
from services.consensus.metadata.verification import verify
from services.consensus.persistence.hard_state import FileHardState
from services.consensus.rescue import __main__ as command
from services.consensus.rescue import new_cluster
from services.consensus.rescue.backup_files import (
    BackupDamagedError,
    BackupUnsealedError,
    Manifest,
    check_backup,
    complete_backup,
    prove,
)
from services.consensus.rescue.new_cluster import TargetRefusedError, make_folder
from shared.cluster_keys import derive_peer_keys, key_file
from shared.contracts.cluster import ConsensusMember
from shared.roles import Role
from tests.synced import Synced
from tests.unit.consensus.metadata.builders import Log, publish
from tests.unit.consensus.rescue.test_survivors import log_of, member

SECRET, OTHER = "s" * 32, "o" * 32
KEYS = derive_peer_keys(SECRET, Role.OPERATOR).private()
NEW = (ConsensusMember(id="consensus-1", url="http://h1:1", peer_address="h1:2"),)
TRIGGERS = """
    CREATE TRIGGER t1 AFTER UPDATE ON state BEGIN DELETE FROM files; END;
    CREATE TRIGGER t2 AFTER INSERT ON state BEGIN DELETE FROM files; END;
"""


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Of a cluster with a few files."""
    log = Log(tmp_path / "source.sqlite")
    for number in range(5):
        log.apply(publish(f"k{number}"))
    folder = tmp_path / "backup"
    folder.mkdir()
    write_copy(log.store.path, folder / "metadata.sqlite")
    log.store.close()
    complete_backup(folder, KEYS)
    return folder


def forge(backup: Path, statements: str) -> None:
    """Change the tables, and correct every digest that anybody can compute."""
    connection = sqlite3.connect(backup / "metadata.sqlite", isolation_level=None)
    connection.executescript(statements)
    connection.close()
    manifest = json.loads((backup / "manifest.json").read_text())
    manifest["metadata"] = prove(backup / "metadata.sqlite").model_dump()
    (backup / "manifest.json").write_text(json.dumps(manifest))


def test_a_backup_is_whole_and_sealed(backup: Path) -> None:
    """By the key that signs now, or one that is accepted beside it while the secret is rotated."""
    manifest = check_backup(backup, KEYS)
    assert (manifest.format_version, manifest.seal and manifest.seal.key_id) == (2, KEYS.signing.id)
    assert check_backup(backup, derive_peer_keys(f"{OTHER}\n{SECRET}", Role.OPERATOR).private()) == manifest


def test_triggers_in_a_backup_are_found_and_run_nowhere(backup: Path, tmp_path: Path) -> None:
    """They would have emptied the table of files while it is restored: the seal refuses them, and so does the schema."""
    forge(backup, TRIGGERS)
    with pytest.raises(BackupUnsealedError, match="does not fit"):
        check_backup(backup, KEYS)
    with pytest.raises(BackupDamagedError, match=r"schema.*trigger t1, trigger t2"):
        check_backup(backup, None)
    with pytest.raises(UnknownTablesError, match="schema"):
        make_folder(backup / "metadata.sqlite", tmp_path / "new", cluster_id="new", members=NEW, record={})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW v AS SELECT * FROM files",
        "DROP INDEX past_by_deletion",
        "CREATE INDEX mine ON files (etag)",
        "ALTER TABLE kept ADD COLUMN extra TEXT",
        "CREATE TABLE extra (x)",
        "ALTER TABLE kept RENAME TO held; CREATE VIEW kept AS SELECT * FROM held",
    ],
)
def test_any_other_schema_is_refused_wherever_tables_are_opened(tmp_path: Path, statement: str) -> None:
    """By a member too: such a file was not written by Trivet, and the state is made anew."""
    path = tmp_path / "m.sqlite"
    Log(path).store.close()
    MetadataStore.open(path).close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(statement)
    connection.close()
    for opened in (MetadataStore.open, verify):
        with pytest.raises(UnknownTablesError, match="schema") as refused:
            opened(path)
        assert not refused.value.is_newer


def test_functions_of_a_foreign_schema_are_not_trusted(tmp_path: Path) -> None:
    """On the very connection that a store uses."""
    log = Log(tmp_path / "m.sqlite")
    assert log.store._writer.database.one("PRAGMA trusted_schema") == (0,)
    assert log.store._reader.database.one("PRAGMA trusted_schema") == (0,)
    log.store.close()


@pytest.mark.parametrize("name", [name for name in Manifest.model_fields if name not in {"seal", "format_version"}])
def test_every_field_of_the_manifest_is_sealed(backup: Path, name: str) -> None:
    """Whatever is changed, and to whatever fits its type."""
    path = backup / "manifest.json"
    fields = json.loads(path.read_text())
    value = fields[name]
    fields[name] = {**value, "size_bytes": 1} if isinstance(value, dict) else value + type(value)(1)
    path.write_text(json.dumps(fields))
    with pytest.raises(BackupUnsealedError, match="does not fit"):
        check_backup(backup, KEYS)


def seal_of(change: str, seal: dict[str, str]) -> dict[str, str] | None:
    mac = seal["mac"]
    return {
        "none": None,
        "empty": {**seal, "mac": ""},
        "prefix": {**seal, "mac": mac[:63]},
        "longer": {**seal, "mac": mac + "0"},
        "last digit": {**seal, "mac": mac[:63] + ("0" if mac[63] != "0" else "1")},
        "not ASCII": {**seal, "mac": "ä" * 64},
        "another key": {**seal, "key_id": derive_peer_keys(OTHER, Role.OPERATOR).private().signing.id},
    }[change]


@pytest.mark.parametrize("change", ["none", "empty", "prefix", "longer", "last digit", "not ASCII", "another key"])
def test_a_seal_that_is_nearly_right_is_refused(backup: Path, change: str) -> None:
    """And a backup without one is taken only by who asks for that."""
    path = backup / "manifest.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"seal": seal_of(change, fields["seal"])}))
    with pytest.raises(BackupUnsealedError):
        check_backup(backup, KEYS)
    assert check_backup(backup, None).log_index == fields["log_index"]


# --- the commands -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    """Runs a command as an operator who has the keys; a refusal is a SystemExit."""
    monkeypatch.setenv("TRIVET_PEER_KEYS", key_file(SECRET, Role.OPERATOR))

    def call(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["rescue", *map(str, arguments)])
        command.main()

    return call


RESTORE = ("--cluster-id", "new", "--members", "consensus-1=http://h:1=h:2")


def test_an_unsealed_backup_is_restored_only_by_who_says_so(backup, tmp_path, run, capsys):
    """Without the secret of then, for a disaster; the word for it stands in the refusal."""
    fields = json.loads((backup / "manifest.json").read_text())
    (backup / "manifest.json").write_text(json.dumps(fields | {"seal": None, "format_version": 1}))
    for arguments in (("check", backup), ("restore", "--from", backup, "--to", tmp_path / "new", *RESTORE)):
        with pytest.raises(SystemExit):
            run(*arguments)
        assert command.ACCEPT_UNSEALED in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
        run(*arguments, command.ACCEPT_UNSEALED)
    assert verify(tmp_path / "new" / "metadata.sqlite").cluster_id == "new"


def test_a_backup_that_is_exchanged_after_the_check_is_not_restored(backup, tmp_path, run, monkeypatch, capsys):
    """What is restored is the copy, so the copy is compared."""
    right = command.check_backup

    def check_and_exchange(*arguments):
        manifest = right(*arguments)
        forge(backup, TRIGGERS)
        return manifest

    monkeypatch.setattr(command, "check_backup", check_and_exchange)
    with pytest.raises(SystemExit):
        run("restore", "--from", backup, "--to", tmp_path / "new", *RESTORE)
    assert "has changed" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_of_two_backups_to_one_folder_the_later_one_is_refused_and_harms_nothing(tmp_path, run, monkeypatch, capsys):
    """They run at once, and both found the name free; the one that ends first stands."""
    source, target = member(tmp_path, "consensus-2", log_of(9), applied=9), tmp_path / "backup"
    right, is_nested = command.complete_backup, False

    def complete_after_another(folder, keys):
        nonlocal is_nested
        if not is_nested:
            is_nested = True
            other = Path(shutil.copytree(source, tmp_path / "other-source"))
            run("backup", "--from", other, "--to", target)
        return right(folder, keys)

    monkeypatch.setattr(command, "complete_backup", complete_after_another)
    with pytest.raises(SystemExit):
        run("backup", "--from", source, "--to", target)
    assert "not empty" in capsys.readouterr().err
    assert check_backup(target, KEYS).log_index == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "consensus-2", "other-source"]


def test_a_backup_of_a_stopped_member_needs_the_secret_or_says_that_it_has_no_seal(tmp_path, run, monkeypatch, capsys):
    """When the secret is lost, a backup without a seal is better than none."""
    source = member(tmp_path, "consensus-2", log_of(9), applied=9)
    monkeypatch.delenv("TRIVET_PEER_KEYS")
    with pytest.raises(SystemExit):
        run("backup", "--from", source, "--to", tmp_path / "backup")
    assert "peer keys are missing" in capsys.readouterr().err
    run("backup", "--from", source, "--to", tmp_path / "backup", "--without-seal")
    assert check_backup(tmp_path / "backup", None).seal is None
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o700


def test_a_backup_survives_a_power_cut_once_it_has_its_name(tmp_path, run, monkeypatch):
    """Tables, list and manifest are on the disk before the folder appears; then the name is."""
    source, target = member(tmp_path, "consensus-2", log_of(9), applied=9), tmp_path / "backups" / "today"
    synced = Synced(monkeypatch)
    run("backup", "--from", source, "--to", target)
    assert [path.name for path in sorted(target.iterdir()) if not synced.is_whole(path)] == []
    assert synced.is_whole(target)
    assert synced.has_name(target)


def test_a_copy_that_came_over_the_network_is_synced_too(backup, monkeypatch):
    """The download writes it, and nobody else syncs it."""
    for name in ("chunks.txt", "manifest.json"):
        (backup / name).unlink()
    synced = Synced(monkeypatch)
    complete_backup(backup, KEYS)
    assert [path.name for path in sorted(backup.iterdir()) if not synced.is_whole(path)] == []


def test_a_new_folder_survives_a_power_cut_once_it_has_its_name(backup, tmp_path, monkeypatch):
    """All but the log, which SQLite syncs by itself, and the mark beside it, which may lag behind."""
    synced = Synced(monkeypatch)
    make_folder(backup / "metadata.sqlite", tmp_path / "new", cluster_id="new", members=NEW, record={})
    left_out = {"raft_log.sqlite", "raft_log.acknowledged", "lock"}
    files = [path for path in sorted((tmp_path / "new").iterdir()) if path.name not in left_out]
    assert [path.name for path in files if not synced.is_whole(path)] == []
    assert synced.is_whole(tmp_path / "new")
    assert synced.has_name(tmp_path / "new")


def test_a_rescued_cluster_begins_above_the_term_of_every_survivor(tmp_path, run):
    """The one with the longest log may have heard of fewer elections than another."""
    longest = member(tmp_path, "consensus-2", log_of(9), applied=9)
    latest = member(tmp_path, "consensus-3", log_of(5), applied=5)
    FileHardState(latest).update({"term": 41})
    run("new-cluster", "--to", tmp_path / "new", *RESTORE, command.ACCEPT_LOSS, longest, latest)
    assert FileHardState(tmp_path / "new", must_exist=True).term == 42


@pytest.mark.parametrize("name", ["new", "new.unfinished"])
def test_no_symbolic_link_is_followed(backup, tmp_path, name):
    """Neither at the name of the new folder nor where it is made: what it points to stays as it is."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / name).symlink_to(elsewhere)
    with pytest.raises(TargetRefusedError, match="symbolic link"):
        make_folder(backup / "metadata.sqlite", tmp_path / "new", cluster_id="new", members=NEW, record={})
    assert list(elsewhere.iterdir()) == []


def test_two_restores_to_one_folder_exclude_each_other(backup, tmp_path, monkeypatch, capsys):
    """The second does not remove what the first is making."""
    right, is_nested = new_cluster.write_copy, False
    arguments = {"cluster_id": "new", "members": NEW, "record": {}}

    def copy_beside_another(source, target):
        nonlocal is_nested
        if not is_nested:
            is_nested = True
            with pytest.raises(SystemExit):
                make_folder(backup / "metadata.sqlite", tmp_path / "new", **arguments)
        return right(source, target)

    monkeypatch.setattr(new_cluster, "write_copy", copy_beside_another)
    make_folder(backup / "metadata.sqlite", tmp_path / "new", **arguments)
    assert "in use" in capsys.readouterr().err
    verify(tmp_path / "new" / "metadata.sqlite")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["renew", ""], "'' is no id of a backup"),
        (["end", "x y"], "'x y' is no id of a backup"),
        (["renew", "ab12", "--keep-hours", "0"], "'0' is no number of hours from 1 to 720"),
        (["renew", "ab12", "--keep-hours", "721"], "'721' is no number of hours from 1 to 720"),
        (["backup", "--to", "x", "--keep-hours", "a day"], "'a day' is no number of hours from 1 to 720"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anybody is asked; neither a validation error nor a list of 720 numbers."""
    with pytest.raises(SystemExit):
        command._parser().parse_args(arguments)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("hours", [1, 24, 720])
def test_a_backup_is_kept_for_up_to_thirty_days(hours: int) -> None:
    """Both ends."""
    arguments = command._parser().parse_args(["renew", "ab12", "--keep-hours", str(hours)])
    assert (arguments.keep_hours, arguments.backup_id) == (hours, "ab12")
