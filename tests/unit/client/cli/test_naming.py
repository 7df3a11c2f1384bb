"""What files are called at their target."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from trivet.cli.addresses import parse_remote
from trivet.cli.main import run
from trivet.cli.naming import target_of
from trivet.cli.session import Session


@pytest.mark.parametrize(
    ("source", "key", "target", "expected"),
    [
        ("photos/2026/cat.jpg", "2026/cat.jpg", "drafts/", "drafts/cat.jpg"),
        ("photos/2026/cat.jpg", "2026/cat.jpg", "drafts", "drafts/cat.jpg"),
        ("photos/2026/cat.jpg", "2026/cat.jpg", "drafts/tom.jpg", "drafts/tom.jpg"),
        ("photos/2026", "2026/a/b.jpg", "drafts/", "drafts/2026/a/b.jpg"),
        ("photos/2026/", "2026/a/b.jpg", "drafts/", "drafts/a/b.jpg"),
        ("photos/2026", "2026/a/b.jpg", "drafts/old", "drafts/old/a/b.jpg"),
        ("photos/2026/", "2026/a/b.jpg", "drafts/old", "drafts/old/a/b.jpg"),
        ("photos", "2026/a.jpg", "drafts/", "drafts/2026/a.jpg"),
        ("photos/2026/*.jpg", "2026/a.jpg", "drafts/", "drafts/a.jpg"),
        ("photos/**/a.jpg", "2026/x/a.jpg", "drafts/", "drafts/2026/x/a.jpg"),
        ("photos/star[*]", "star*", "drafts/", "drafts/star*"),
    ],
)
def test_the_slash_at_the_end_decides(source, key, target, expected) -> None:
    """Of the target: files come below it under their names. Of the source: its contents, without its name."""
    assert target_of(parse_remote(source), key, parse_remote(target)).short == expected


class Store:
    """A client whose keys all are there, and that remembers what goes where."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []

    async def list_pages(self, bucket, prefix="", **_):
        yield SimpleNamespace(files=[SimpleNamespace(key=prefix, size_bytes=1)])

    async def rename(self, bucket, key, new_bucket, new_key, **_):
        self.done.append((key, new_key))
        return SimpleNamespace(size_bytes=1, version=1, etag="e")

    copy = rename

    async def download_file(self, bucket, key, target, **_):
        target.write_bytes(b"")
        self.done.append((key, str(target)))
        return SimpleNamespace(user_metadata={}, modified=None, size_bytes=1)


@pytest.mark.parametrize(("command", "target"), [("mv", "b/z/"), ("cp", "trivet://b/z/"), ("cp", "./"), ("cp", "new/")])
def test_two_sources_do_not_become_one_file(monkeypatch, tmp_path, capsys, command, target) -> None:
    """The second would replace the first, which is gone from where it was."""
    store = Store()

    @asynccontextmanager
    async def client(session):
        yield store

    monkeypatch.setattr(Session, "client", client)
    monkeypatch.chdir(tmp_path)
    assert run(Session(), [command, "trivet://b/x/f", "trivet://b/x/g", "trivet://b/y/f", target]) == 4
    assert sorted(source for source, _ in store.done) == ["x/f", "x/g"]
    assert "trivet://b/y/f: another source has this name, too" in capsys.readouterr().err
