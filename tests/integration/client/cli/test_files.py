"""Files of the store from the command line: in, out, within, their names, versions and links."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios

import httpx
import pytest
from blake3 import blake3

from tests.chance import random_bytes
from tests.waiting import block_until

pytestmark = pytest.mark.cluster

TREE = {"a.txt": b"a", "sub/b.txt": b"bb", "sub/deep/c.txt": b"ccc", "star*.txt": b"star", "Zürich 1.txt": b"z"}


@pytest.fixture
def tree(trivet):
    """A folder with the files of TREE, and links that lead out of it."""
    root = trivet.folder / "tree"
    for name, data in TREE.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "leak").symlink_to("/etc/hostname")
    return root


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def keys(trivet, address) -> list[str]:
    return [row["key"] for row in trivet("ls", "-r", address, "--json").rows]


def test_a_folder_goes_in_and_comes_out_the_same(trivet, bucket, tree) -> None:
    """With every odd name, without what links lead to, and with the times of the files."""
    os.utime(tree / "a.txt", ns=(0, 1_600_000_000_123_456_789))
    copied = trivet("cp", "-r", tree, f"{bucket}/")
    assert "leak: left out, it is a link that leads out of the folder" in copied.err
    assert f"Copied {len(TREE)} files" in copied.err
    assert keys(trivet, bucket) == sorted((f"tree/{name}" for name in TREE), key=str.encode)
    trivet("cp", "-r", f"{bucket}/tree/", "out")
    assert contents(trivet.folder / "out") == TREE
    assert (trivet.folder / "out" / "a.txt").stat().st_mtime_ns == 1_600_000_000_123_456_789


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("tree", "", "tree/a.txt"),
        ("tree/", "", "a.txt"),
        ("tree", "backup", "backup/a.txt"),
        ("tree", "backup/", "backup/tree/a.txt"),
    ],
)
def test_a_slash_at_the_end_decides_what_a_folder_is_called(trivet, bucket, tree, source, target, expected) -> None:
    trivet("cp", "-r", source, f"{bucket}/{target}")
    assert expected in keys(trivet, bucket)


def test_patterns_choose_files_at_both_sides(trivet, bucket, tree) -> None:
    """`*` stays in a folder, `**` does not, and `[*]` is a star of the name."""
    trivet("cp", "tree/*.txt", f"{bucket}/")
    assert keys(trivet, bucket) == ["Zürich 1.txt", "a.txt", "star*.txt"]
    trivet("cp", "-r", "tree/s*", f"{bucket}/more/")
    assert keys(trivet, f"{bucket}/more") == ["more/star*.txt", "more/sub/b.txt", "more/sub/deep/c.txt"]
    trivet("cp", f"{bucket}/**/c.txt", "deep/")
    assert contents(trivet.folder / "deep") == {"more/sub/deep/c.txt": b"ccc"}
    assert [row["key"] for row in trivet("ls", f"{bucket}/star[*].txt", "--json").rows] == ["star*.txt"]
    assert trivet("cat", f"{bucket}/more/star[*].txt").out == "star"


def test_streams_go_in_and_out(trivet, bucket) -> None:
    data = random_bytes(3_000_000)
    _, err = trivet.process("cp", "-", f"{bucket}/stream", stdin=data)
    assert "Copied 1 file, 2.9 MiB" in err
    out, err = trivet.process("cp", f"{bucket}/stream", "-")
    assert (out == data, err) == (True, "")
    out, _ = trivet.process("cat", f"{bucket}/stream", "--range", "10-19")
    assert out == data[10:20]
    out, _ = trivet.process("cat", f"{bucket}/stream", "--range=-7")
    assert out == data[-7:]
    with (trivet.folder / "from-file").open("wb") as file:
        file.write(data)
    with (
        (trivet.folder / "from-file").open("rb") as file,
        trivet.start("cp", "-", f"{bucket}/file", stdin=file) as process,
    ):
        assert process.wait(30) == 0
    assert trivet("stat", f"{bucket}/file", "--json").document["digest"] == blake3(data).hexdigest()


def test_within_the_store_no_bytes_move(trivet, bucket) -> None:
    (trivet.folder / "a").write_bytes(b"a")
    stored = trivet("cp", "a", f"{bucket}/a", "--meta", "place=Rome", "--content-type", "text/x-a", "--json").document
    assert (stored["action"], stored["digest"]) == ("copied", blake3(b"a").hexdigest())
    copied = trivet("cp", f"{bucket}/a", f"trivet://{bucket}/b", "--json").document
    assert copied["etag"] == stored["etag"]
    found = trivet("stat", f"{bucket}/b", "--json").document
    assert (found["content_type"], found["user_metadata"]["place"]) == ("text/x-a", "Rome")
    trivet("mv", f"{bucket}/b", f"{bucket}/c/")
    assert keys(trivet, bucket) == ["a", "c/b"]
    trivet("mv", "-r", f"{bucket}/c", f"{bucket}/d")
    assert keys(trivet, bucket) == ["a", "d/b"]
    assert trivet("mv", f"{bucket}/c/b", f"{bucket}/x", ends_with=3).err


@pytest.mark.parametrize("option", [("--meta", "place=Zürich"), ("--part-size", "1MiB")])
def test_what_the_store_never_takes_is_a_wrong_call(trivet, bucket, option) -> None:
    (trivet.folder / "a").write_bytes(random_bytes(2 << 20))
    trivet("cp", "a", f"{bucket}/a", *option, ends_with=2)


def test_what_is_there_is_kept_when_asked(trivet, bucket) -> None:
    (trivet.folder / "a").write_bytes(b"new")
    trivet("cp", "a", f"{bucket}/a")
    refused = trivet("cp", "-n", "a", f"{bucket}/a", ends_with=4)
    assert "precondition_failed" in refused.err
    kept = trivet("cp", "-n", f"{bucket}/a", "a", ends_with=1)
    assert "it is there already" in kept.err


def test_keys_that_would_leave_the_folder_are_refused(trivet, bucket, gateway, cluster) -> None:
    """S3 stores such keys; a download writes all others and nothing outside, and says which were left out."""
    (trivet.folder / "a").write_bytes(b"evil")
    trivet("cp", "a", f"{bucket}/good")
    evil = ["../escaped", "/absolute", "sub/../../escaped", "dot/./x", "double//slash"]
    for key in evil:
        body = {"source": {"bucket": bucket, "key": "good"}, "target": {"bucket": bucket, "key": key}}
        answer = gateway.post("/v1/copy", json=body)
        assert answer.status_code == 201, answer.text
    answer = trivet("cp", "-r", f"{bucket}/", "out/", ends_with=1)
    assert contents(trivet.folder / "out") == {"good": b"evil"}
    assert answer.err.count("it is left out") == len(evil)
    synced = trivet("sync", f"trivet://{bucket}", "out2", ends_with=1)
    assert contents(trivet.folder / "out2") == {"good": b"evil"}
    assert f"{len(evil)} of {len(evil) + 1} files failed" in synced.err
    assert sorted(path.name for path in trivet.folder.parent.iterdir()) == ["work"]
    assert trivet("rm", "-ry", f"{bucket}/").err == f"Deleted {len(evil) + 1} files.\n", "and they can be deleted"


def test_a_link_in_the_target_is_not_followed_out(trivet, bucket, tree) -> None:
    outside = trivet.folder / "outside"
    outside.mkdir()
    trivet("cp", "-r", "tree/", f"{bucket}/")
    (trivet.folder / "out").mkdir()
    (trivet.folder / "out" / "sub").symlink_to(outside)
    answer = trivet("cp", "-r", f"{bucket}/", "out/", ends_with=1)
    assert "leads out" in answer.err
    assert list(outside.iterdir()) == []
    assert (trivet.folder / "out" / "a.txt").read_bytes() == b"a", "the others came"


def test_a_device_is_written_into_and_not_replaced(trivet, bucket) -> None:
    (trivet.folder / "a").write_bytes(b"a")
    trivet("cp", "a", f"{bucket}/a")
    pipe = trivet.folder / "pipe"
    os.mkfifo(pipe)
    with trivet.start("cp", f"{bucket}/a", pipe) as process:
        assert pipe.read_bytes() == b"a"
        assert process.wait(30) == 0
    assert pipe.is_fifo()


def test_lists_show_folders_or_everything(trivet, bucket, tree) -> None:
    trivet("cp", "-r", "tree/", f"{bucket}/")
    rows = trivet("ls", bucket, "--json").rows
    assert [(row["kind"], row["key"]) for row in rows] == [
        ("file", "Zürich 1.txt"),
        ("file", "a.txt"),
        ("file", "star*.txt"),
        ("folder", "sub/"),
    ]
    assert trivet("ls", f"{bucket}/sub").lines[0][2] == f"{bucket}/sub/b.txt", "with or without a slash"
    assert trivet("ls", "-1", f"{bucket}/sub/").out.splitlines() == [f"{bucket}/sub/b.txt", f"{bucket}/sub/deep/"]
    assert trivet("ls", f"{bucket}/a.txt").lines[0][0] == "1"
    assert bucket in [row["name"] for row in trivet("ls", "--json").rows]
    assert trivet("ls", f"{bucket}/nothing", ends_with=3).out == ""
    drawn = trivet("tree", bucket).out
    assert "├── star*.txt\n└── sub/\n    ├── b.txt\n    └── deep/\n        └── c.txt\n" in drawn
    document = trivet("tree", bucket, "--json").document
    assert (document["files"], document["size_bytes"]) == (len(TREE), sum(map(len, TREE.values())))
    sums = {row["key"]: (row["files"], row["size_bytes"]) for row in trivet("du", "-d", "1", bucket, "--json").rows}
    assert sums == {"sub/": (2, 5), "": (5, 11)}


def test_deleting_asks_where_much_is_lost(trivet, bucket, tree) -> None:
    """Nobody can answer here, so nothing is deleted; one file by its name needs no question."""
    trivet("cp", "-r", "tree/", f"{bucket}/")
    assert "--yes goes ahead" in trivet("rm", "-r", f"{bucket}/sub", ends_with=2).err
    assert "--yes goes ahead" in trivet("rm", f"{bucket}/*.txt", ends_with=2).err
    assert len(keys(trivet, bucket)) == len(TREE)
    assert trivet("rm", f"{bucket}/a.txt").err == ""
    assert trivet("rm", f"{bucket}/a.txt", ends_with=3).err
    trivet("rm", "-f", f"{bucket}/a.txt")
    assert trivet("rm", "-r", f"{bucket}/sub", ends_with=2).err.startswith("trivet: Delete 2 files below")
    would = trivet("rm", "-r", f"{bucket}/sub", "--dry-run").out
    assert would == f"would delete\t{bucket}/sub/b.txt\nwould delete\t{bucket}/sub/deep/c.txt\n"
    assert [row["key"] for row in trivet("rm", "-ry", f"{bucket}/sub", "--json").rows] == [
        "sub/b.txt",
        "sub/deep/c.txt",
    ]
    assert trivet("rm", f"{bucket}/sub", ends_with=3).err


def test_a_file_that_was_deleted_comes_back(trivet, bucket) -> None:
    trivet("buckets", "settings", bucket, "--versioning", "enabled")
    for text in ("first", "second"):
        (trivet.folder / "note").write_text(text)
        trivet("cp", "note", f"{bucket}/note")
    trivet("rm", f"{bucket}/note")
    states = [(row["state"], row["size_bytes"]) for row in trivet("versions", f"{bucket}/note", "--json").rows]
    assert states == [("deleted", None), ("older", 6), ("older", 5)]
    first = trivet("versions", f"{bucket}/note", "--json").rows[-1]["version"]
    trivet("restore", f"{bucket}/note")
    assert trivet("cat", f"{bucket}/note").out == "second"
    assert trivet("cat", f"{bucket}/note", "--version", str(first)).out == "first"
    assert trivet("restore", f"{bucket}/note", "--version", str(first), "--json").document["source_version"] == first
    assert trivet("cat", f"{bucket}/note").out == "first"
    trivet("rm", "--versions", "-y", f"{bucket}/note")
    assert trivet("versions", f"{bucket}/note", ends_with=3).out == ""


def test_a_link_works_without_a_key(trivet, bucket, cluster) -> None:
    (trivet.folder / "note").write_text("shared")
    trivet("cp", "note", f"{bucket}/a note?.txt")
    shared = trivet("share", f"{bucket}/a note?.txt", "--for", "10m")
    assert httpx.get(shared.out.strip(), timeout=30).text == "shared"
    assert "Good for 10 min" in shared.err
    missing = trivet("share", f"{bucket}/a note.txt", ends_with=3)
    assert missing.out == "", "a link to nothing is of no use to anybody"
    assert f"{bucket}/a note.txt: " in missing.err
    link = trivet("share", "--upload", "--only-new", f"{bucket}/new", "--json").document
    assert httpx.put(link["url"], content=b"x", headers=link["headers"], timeout=30).status_code == 201
    assert httpx.put(link["url"], content=b"y", headers=link["headers"], timeout=30).status_code == 412


def test_the_reader_of_a_list_may_stop_early(trivet, bucket, tree) -> None:
    """As `head` does: the code says so, and nothing is said."""
    trivet("cp", "-r", "tree/", f"{bucket}/")
    with trivet.start("cat", f"{bucket}/**") as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 141


def test_ctrl_c_at_a_stream_ends_at_once(trivet, bucket) -> None:
    """Although the program waits for input that never comes; nothing is stored, and it says one line."""
    with trivet.start("cp", "-", f"{bucket}/never", stdin=-1, start_new_session=True) as process:
        process.stdin.write(b"x" * 100_000)
        process.stdin.flush()
        # What the program took is gone from the pipe.
        block_until(lambda: _unread_bytes(process.stdin) == 0, "the program reads")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read().decode().strip().startswith("trivet: Interrupted.")
    assert trivet("ls", f"{bucket}/never", ends_with=3).out == ""


def _unread_bytes(pipe) -> int:
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]
