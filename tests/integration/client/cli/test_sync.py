"""`trivet sync`: both ways, and within the store."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.chance import random_bytes

pytestmark = pytest.mark.cluster

FILES = {"a.txt": b"a", "sub/b.txt": b"bb", "sub/deep/c.txt": b"ccc"}


@pytest.fixture
def here(trivet):
    """A folder with FILES."""
    root = trivet.folder / "here"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def actions(answer) -> set[tuple[str, str]]:
    return {(row["action"], row["name"]) for row in answer.rows}


def names(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_what_differs_goes_up(trivet, bucket, here) -> None:
    """By content: a file that was only touched stays, one with as many other bytes goes."""
    first = trivet("sync", "here", f"{bucket}/backup", "--json")
    assert actions(first) == {("copied", name) for name in FILES}
    assert "3 files are the same" in trivet("sync", "here", f"{bucket}/backup").err
    (here / "a.txt").write_bytes(b"A")
    (here / "sub" / "b.txt").touch()
    assert actions(trivet("sync", "here/", f"{bucket}/backup/", "--json")) == {("copied", "a.txt")}


def test_what_differs_comes_down_with_its_time(trivet, bucket, here) -> None:
    os.utime(here / "a.txt", ns=(0, 1_500_000_000_987_654_321))
    trivet("sync", "here", f"{bucket}")
    trivet("sync", f"trivet://{bucket}", "there")
    assert names(trivet.folder / "there") == set(FILES)
    assert (trivet.folder / "there" / "a.txt").stat().st_mtime_ns == 1_500_000_000_987_654_321
    (trivet.folder / "there" / "a.txt").write_bytes(b"x")
    (trivet.folder / "there" / "sub" / "b.txt").unlink()
    answer = trivet("sync", f"trivet://{bucket}", "there", "--json")
    assert actions(answer) == {("copied", "a.txt"), ("copied", "sub/b.txt")}
    assert (trivet.folder / "there" / "a.txt").read_bytes() == b"a"


def test_nothing_is_deleted_unless_asked(trivet, bucket, here) -> None:
    """And a dry run does nothing at all; folders that become empty go, at this side."""
    trivet("sync", "here", f"{bucket}")
    trivet("sync", f"trivet://{bucket}", "there")
    shutil.rmtree(here / "sub")
    assert actions(trivet("sync", "here", f"{bucket}", "--json")) == set()
    gone = {"sub/b.txt", "sub/deep/c.txt"}
    would = trivet("sync", "here", f"{bucket}", "--delete", "--dry-run", "--json")
    assert actions(would) == {("would_delete", name) for name in gone}
    assert actions(trivet("sync", "here", f"{bucket}", "--delete", "--json")) == {("deleted", name) for name in gone}
    assert trivet("ls", "-1", "-r", bucket).out == f"{bucket}/a.txt\n"
    trivet("sync", f"trivet://{bucket}", "there", "--delete")
    assert [path.name for path in (trivet.folder / "there").iterdir()] == ["a.txt"]


def test_a_slip_in_the_source_deletes_nothing(trivet, bucket, here) -> None:
    trivet("sync", "here", f"{bucket}/backup")
    assert trivet("sync", f"trivet://{bucket}/bakcup", "here", "--delete", ends_with=3).err
    assert trivet("sync", "heer/x", f"{bucket}/backup", "--delete", ends_with=3).err
    assert trivet("sync", "./heer", f"{bucket}/backup", "--delete", ends_with=3).err
    assert names(here) == set(FILES)
    assert len(trivet("ls", "-r", bucket, "--json").rows) == len(FILES)


def test_a_folder_that_cannot_be_read_deletes_nothing(trivet, bucket, here, monkeypatch) -> None:
    """What is in it is not gone; root reads everything, so the refusal is made here."""
    trivet("sync", "here", f"{bucket}")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    answer = trivet("sync", "here", f"{bucket}", "--delete", ends_with=1)
    assert "nothing was deleted" in answer.err
    assert len(trivet("ls", "-r", bucket, "--json").rows) == len(FILES)


def test_a_file_of_parts_is_compared_by_its_time(trivet, bucket) -> None:
    """It has no digest. --checksum reads it, whatever the times say."""
    here = trivet.folder / "large"
    here.mkdir()
    data = bytearray(random_bytes(11 << 20))
    (here / "film").write_bytes(data)
    trivet("cp", here / "film", f"{bucket}/film", "--part-size", "5MiB")
    assert trivet("stat", f"{bucket}/film", "--json").document["digest"] is None
    assert actions(trivet("sync", "large", f"{bucket}", "--json")) == set()
    found = (here / "film").stat()
    data[-1] ^= 1
    (here / "film").write_bytes(data)
    os.utime(here / "film", ns=(found.st_atime_ns, found.st_mtime_ns))
    assert actions(trivet("sync", "large", f"{bucket}", "--json")) == set(), "the same size and time"
    assert actions(trivet("sync", "large", f"{bucket}", "--checksum", "--json")) == {("copied", "film")}
    os.utime(here / "film", ns=(0, 0))
    assert actions(trivet("sync", f"trivet://{bucket}", "large", "--checksum", "--json")) == set(), "the same bytes"


def test_names_can_be_left_alone(trivet, bucket, here) -> None:
    """At both sides: what is excluded is neither copied nor deleted."""
    trivet("sync", "here", f"{bucket}", "--exclude", "*.txt")
    assert trivet("ls", "-r", bucket, "--json").rows == []
    trivet("sync", "here", f"{bucket}", "--exclude", "sub/**")
    assert trivet("ls", "-1", "-r", bucket).out == f"{bucket}/a.txt\n"
    trivet("sync", f"trivet://{bucket}", "here", "--delete", "--exclude", "c.txt")
    assert names(here) == {"a.txt", "sub/deep/c.txt"}


def test_within_the_store_only_differences_are_copied(trivet, bucket, here) -> None:
    trivet("sync", "here", f"{bucket}/one")
    assert len(actions(trivet("sync", f"{bucket}/one", f"trivet://{bucket}/two", "--json"))) == len(FILES)
    (here / "a.txt").write_bytes(b"changed")
    trivet("sync", "here", f"{bucket}/one")
    assert actions(trivet("sync", f"{bucket}/one", f"trivet://{bucket}/two", "--json")) == {("copied", "a.txt")}
    assert trivet("cat", f"{bucket}/two/a.txt").out == "changed"


def test_a_key_that_may_not_read_syncs_upwards(trivet, bucket, here) -> None:
    """The store gives it no digests; what was not changed since it was stored is not sent again."""
    made = trivet("keys", "create", "sender", "--allow", f"write,list@{bucket}", "--json").document
    (trivet.folder / "sender.key").write_text(made["line"])
    sync = ("sync", "here", bucket, "--key", "sender.key", "--json")
    # Well apart from when they are stored: the cluster of these tests goes by a clock of its own.
    now_s = (here / "a.txt").stat().st_mtime
    for name in FILES:
        os.utime(here / name, (now_s - 3600, now_s - 3600))
    assert actions(trivet(*sync)) == {("copied", name) for name in FILES}
    assert actions(trivet(*sync)) == set()
    (here / "a.txt").write_bytes(b"A")
    os.utime(here / "a.txt", (now_s + 3600, now_s + 3600))
    answer = trivet(*sync)
    assert actions(answer) == {("copied", "a.txt")}
    assert "may not read" in answer.err
    assert trivet("sync", f"trivet://{bucket}", "there", "--key", "sender.key", ends_with=5).err
    trivet("keys", "delete", made["identity"], "--yes")
