"""What older versions left on disk is read by this one: entries, tables, log, term, backups (`tests/golden/make.py`)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from services.consensus.metadata.entries import FIRST_ENTRY_VERSION, KNOWN_ENTRY_VERSION
from services.consensus.metadata.store import MetadataStore
from services.consensus.metadata.verification import verify
from services.consensus.peering.disk_identities import DiskIdentities
from services.consensus.persistence.adapter import committed_entries
from services.consensus.persistence.hard_state import FileHardState
from services.consensus.persistence.log_store import SqliteLogStore
from services.consensus.persistence.state_files import StateFiles
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.ports import Entry, EntryKind
from services.consensus.rescue.backup_files import check_backup
from tests.golden import make

FORMATS = sorted(path.name for path in make.FOLDER.glob("format-*"))


@pytest.fixture(params=FORMATS)
def golden(request, tmp_path) -> Path:
    """A copy: opening files may bring them up to date, and these must stay as they are."""
    return Path(shutil.copytree(make.FOLDER / request.param, tmp_path / request.param))


def expected_of(golden: Path) -> dict:
    expected = json.loads((golden / "expected.json").read_text())
    for node in expected["node_map"]["nodes"]:
        node.pop("used_bytes", None)  # a default that passed for a measurement
    return expected


def entries_of(golden: Path) -> list[Entry]:
    lines = json.loads((golden / "entries.json").read_text())
    return [Entry(line["term"], line["kind"], bytes.fromhex(line["payload"])) for line in lines]


def found_in(store: MetadataStore, expected: dict) -> dict:
    return as_then(make.describe(store), expected)


def as_then(found: Any, expected: Any) -> Any:
    """`found` without the fields that answers have got since."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return {name: as_then(found[name], expected[name]) for name in found.keys() & expected.keys()}
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        return [as_then(one, other) for one, other in zip(found, expected, strict=True)]
    return found


def test_every_version_of_entries_has_a_format():
    """The newest one as well: what is raised without golden files could change unseen before anybody has them."""
    expected = {f"format-{version}" for version in range(FIRST_ENTRY_VERSION, KNOWN_ENTRY_VERSION + 1)}
    assert set(FORMATS) == expected


def test_entries_of_then_make_the_state_of_then(golden, tmp_path):
    """Every kind of command is understood, gives the result that it gave, and leaves the same state, hash included."""
    expected = expected_of(golden)
    store = MetadataStore.open(tmp_path / "anew")
    results = store.apply_batch(committed_entries(1, entries_of(golden)))
    found = [None if result is None else result.model_dump(mode="json") for result in results]
    assert as_then(found, expected["results"]) == expected["results"]
    found = found_in(store, expected)
    store.close()
    assert found == {name: expected[name] for name in found}


def test_tables_of_then_are_read(golden):
    """Whole, row by row, with the answers of then; and the next entry applies to them."""
    expected = expected_of(golden)
    path = StateFiles(golden / "member").current
    assert verify(path).digest() == expected["state_hash"]
    store = MetadataStore.open(path)
    found = found_in(store, expected)
    assert found == {name: expected[name] for name in found}
    assert store.apply_batch(committed_entries(store.last_applied + 1, [Entry(9, EntryKind.NO_OP, b"")])) == [None]
    store.close()


def test_the_log_of_then_is_read(golden):
    """Its entries, where it was cut, who were members, term and vote, and whose disk it is."""
    expected, member = expected_of(golden)["log"], golden / "member"
    store = SqliteLogStore(member, must_exist=True)
    stored = store.load()
    assert (stored.base.index, stored.last_index) == (expected["base"], expected["last_index"])
    assert Configuration.decode(stored.configurations[-1][1]) == Configuration("golden-cluster", make.MEMBERS)
    assert (
        store.read(stored.base.index + 1, stored.last_index, max_bytes=1 << 30)
        == entries_of(golden)[stored.base.index :]
    )
    store.close()
    hard_state = FileHardState(member, must_exist=True)
    assert (hard_state.term, hard_state.voted_for) == (expected["term"], expected["voted_for"])
    assert DiskIdentities(member).known == {"consensus-2": "ab" * 16}


def test_a_backup_of_then_can_be_restored(golden):
    """Its manifest is understood and proves it; looking at it changes no file of it. The first format had no seal."""
    keys = None if golden.name == "format-1" else make.KEYS
    manifest = check_backup(golden / "backup", keys)
    assert check_backup(golden / "backup", keys) == manifest
    assert (manifest.log_index, manifest.state_hash) == (
        expected_of(golden)["last_applied"],
        expected_of(golden)["state_hash"],
    )


def test_this_version_writes_what_some_golden_format_holds(golden):
    """A format that changed needs a golden folder of its own: the newest one holds what this version writes today."""
    if golden.name != FORMATS[-1]:
        pytest.skip("an older format")
    assert make.entries() == entries_of(golden)
