"""`trivet sync`: what it refuses, and what it leaves at the target."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from trivet import errors
from trivet.cli.main import run
from trivet.cli.session import Session
from trivet.models import ListedFile

STORED = datetime(2026, 1, 1, tzinfo=UTC)


class Store:
    """A client with files in a bucket `b`, all of them with the same bytes."""

    def __init__(self, *keys: str) -> None:
        self.keys = set(keys)
        self.sent: list[str] = []
        self.may_read = True

    async def list_pages(self, bucket, prefix="", *, details=False, **_):
        if details and not self.may_read:
            raise errors.Forbidden(403, "access_denied")
        rows = [row(key) for key in sorted(self.keys, key=str.encode) if key.startswith(prefix)]
        yield SimpleNamespace(files=rows)

    async def delete_many(self, bucket, keys):
        self.keys -= set(keys)
        return SimpleNamespace(results=[SimpleNamespace(problem=None) for _ in keys])

    async def upload_file(self, bucket, key, source, **_):
        self.keys.add(key)
        self.sent.append(key)

    async def download_file(self, bucket, key, target, **_):
        target.write_bytes(b"x")
        return SimpleNamespace(user_metadata={}, modified=STORED)


def row(key: str, user_metadata: Mapping[str, str] | None = None) -> ListedFile:
    return ListedFile(
        key=key,
        size_bytes=1,
        etag="e",
        version=1,
        content_type="text/plain",
        modified=STORED,
        digest=None,
        user_metadata=user_metadata,
    )


@pytest.fixture
def sync(tmp_path, monkeypatch, capsys):
    """Runs it in an empty folder; gives what it ended with and what it complained of."""
    monkeypatch.chdir(tmp_path)

    def call(store: Store, *arguments: str) -> tuple[int, str]:
        @asynccontextmanager
        async def client(session):
            yield store

        monkeypatch.setattr(Session, "client", client)
        return run(Session(), ["sync", *arguments]), capsys.readouterr().err

    return call


def test_an_empty_folder_does_not_empty_a_bucket(sync, tmp_path) -> None:
    """It may be a disk that is not mounted: it has to be said that this is meant."""
    store = Store("a", "c/d")
    (tmp_path / "here").mkdir()
    code, said = sync(store, "here", "trivet://b", "--delete")
    assert (code, store.keys) == (4, {"a", "c/d"})
    assert "2 files of trivet://b/ would be deleted; nothing was. --allow-empty does it." in said
    assert sync(store, "here", "trivet://b")[0] == 0
    assert sync(store, "here", "trivet://b", "--delete", "--dry-run")[0] == 4
    assert sync(store, "here", "trivet://b", "--delete", "--allow-empty")[0] == 0
    assert store.keys == set()
    assert sync(store, "here", "trivet://b", "--delete")[0] == 0, "nothing would be deleted"


def test_an_empty_bucket_or_folder_of_the_store_does_not_empty_a_folder(sync, tmp_path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a").touch()
    assert sync(Store(), "trivet://b", "here", "--delete")[0] == 4
    assert sync(Store("x"), "trivet://b/y", "here", "--delete")[0] == 3
    assert sync(Store("x"), "trivet://b", "here", "--delete", "--exclude", "x")[0] == 4
    assert (tmp_path / "here" / "a").exists()
    assert sync(Store("x"), "trivet://b/y", "here", "--delete", "--allow-empty")[0] == 0
    assert not (tmp_path / "here" / "a").exists()


@pytest.mark.parametrize(
    ("source", "target"),
    [("b/y/m/", "b/y/"), ("b/y", "b/y/m"), ("b/y", "b"), ("b", "b/y/"), ("b/y", "b/y/"), ("b", "b")],
)
def test_a_folder_is_not_made_like_one_in_itself(sync, source, target) -> None:
    """What is in the one would be missing in the other, and be deleted."""
    store = Store("y/a", "y/m/a", "y/m/b", "ym/a")
    code, said = sync(store, f"trivet://{source}", f"trivet://{target}", "--delete")
    assert (code, store.keys) == (2, {"y/a", "y/m/a", "y/m/b", "ym/a"})
    assert "lie in each other" in said


def test_a_name_that_begins_like_another_is_not_in_it(sync) -> None:
    store = Store("y/a", "ym/a")
    assert sync(store, "trivet://b/y", "trivet://b/ym")[0] == 0


def test_what_is_left_out_is_not_deleted(sync, tmp_path) -> None:
    """A folder that has become a link is not gone."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a").write_bytes(b"x")
    (tmp_path / "here" / "data").symlink_to(tmp_path)
    (tmp_path / "here" / "file").symlink_to("/etc/passwd")
    store = Store("a", "data/x", "data/y/z", "database", "file", "data-", "gone/data/x")
    code, said = sync(store, "here", "trivet://b", "--delete")
    assert code == 0
    assert "data: left out" in said
    assert store.keys == {"a", "data/x", "data/y/z", "file"}


def test_a_key_that_may_not_read_syncs_upwards(sync, tmp_path) -> None:
    """By size, and by whether the file was changed since it was stored; down it cannot."""
    store = Store("new", "old", "long", "gone")
    store.may_read = False
    (tmp_path / "here").mkdir()
    stored_s = STORED.timestamp()
    for name, data, mtime_s in (
        ("new", b"y", stored_s + 1),
        ("old", b"x", stored_s - 1),
        ("long", b"xx", stored_s - 1),
    ):
        (tmp_path / "here" / name).write_bytes(data)
        os.utime(tmp_path / "here" / name, (mtime_s, mtime_s))
    code, said = sync(store, "here", "trivet://b", "--delete")
    assert (code, sorted(store.sent), store.keys) == (0, ["long", "new"], {"new", "old", "long"})
    assert "may not read" in said
    assert sync(store, "trivet://b", "here")[0] == 5
    assert sync(store, "trivet://b", "trivet://c")[0] == 5
