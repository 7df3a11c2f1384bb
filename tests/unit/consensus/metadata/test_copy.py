"""The copy of the tables: one index, whole, durable, and in nobody's way."""

import sqlite3

import pytest

from services.consensus.metadata import copy
from services.consensus.metadata.copy import write_copy
from services.consensus.metadata.store import MetadataStore
from shared.contracts.metadata import GetFile
from tests.unit.consensus.metadata.builders import Log, content, publish
from tests.unit.consensus.metadata.test_store import history


def test_a_copy_equals_its_source(tmp_path):
    """Every row is there, at the index that is named, and the copy goes on from it like the source."""
    entries = history(300, 7)
    store = MetadataStore.open(tmp_path / "source")
    store.apply_batch(entries[:200])
    assert write_copy(tmp_path / "source", tmp_path / "copy") == 200
    assert sorted(path.name for path in tmp_path.iterdir() if "copy" in path.name) == ["copy"]
    copied = MetadataStore.open(tmp_path / "copy")
    assert (copied.last_applied, copied.state_hash()) == (200, store.state_hash())
    assert copied.apply_batch(entries[200:]) == store.apply_batch(entries[200:])
    assert copied.state_hash() == store.state_hash()
    copied.close()
    store.close()


def test_what_is_applied_meanwhile_is_neither_in_the_copy_nor_delayed(tmp_path, monkeypatch):
    """Between any two pieces the member applies a batch at once; the copy still holds its first index and nothing more."""
    monkeypatch.setattr(copy, "PIECE_BYTES", 64 * 1024)
    log = Log(tmp_path / "source")
    for number in range(40):
        log.apply(publish(f"before-{number}", content=content(200_000, fill=number)))
    before = log.store.last_applied, log.store.state_hash()
    applied = []

    def apply_more() -> None:
        log.apply(publish(f"during-{len(applied)}"))
        applied.append(log.store.last_applied)

    assert write_copy(tmp_path / "source", tmp_path / "copy", pace=apply_more) == before[0]
    assert len(applied) > 2
    copied = MetadataStore.open(tmp_path / "copy")
    assert (copied.last_applied, copied.state_hash()) == before
    copied.close()
    assert log.ask(GetFile(bucket="default", key="during-1")).file is not None
    log.store.close()


def test_a_copy_that_was_given_up_leaves_no_file(tmp_path):
    """Whatever ends it, half a copy is never found under the target's name; and nothing is ever overwritten."""
    log = Log(tmp_path / "source")

    def give_up() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        write_copy(tmp_path / "source", tmp_path / "copy", pace=give_up)
    with pytest.raises(sqlite3.OperationalError):
        write_copy(tmp_path / "absent", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    (tmp_path / "copy").write_bytes(b"older")
    with pytest.raises(FileExistsError):
        write_copy(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"older"
    log.store.close()


def test_bytes_and_name_are_synced_in_this_order(tmp_path, monkeypatch):
    """And the bytes only after the last of them was written."""
    calls = []
    monkeypatch.setattr(copy, "sync_file", lambda path: calls.append(("bytes", path.stat().st_size)))
    monkeypatch.setattr(copy, "sync_directory", lambda path: calls.append(("name", path)))
    log = Log(tmp_path / "source")
    write_copy(tmp_path / "source", tmp_path / "copy")
    assert calls == [("bytes", (tmp_path / "copy").stat().st_size), ("name", tmp_path)]
    log.store.close()
