"""Folders of this machine: what gets out of them, and what gets into them."""

from __future__ import annotations

import os

import pytest

from trivet.cli import local


def walked(root) -> tuple[list[str], dict[str, str]]:
    left_out: dict[str, str] = {}
    names = [file.name for file in local.walk(root, lambda name, reason, _: left_out.update({name: reason}))]
    return names, left_out


def test_a_walk_goes_in_the_order_of_keys(tmp_path) -> None:
    """`a.txt` before `a/b`, and `a0` behind: the order in which the store lists them."""
    for name in ("a/b", "a.txt", "a0", "Z", "ä", "a/c/d"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    names, left_out = walked(tmp_path)
    assert names == sorted(names, key=str.encode) == ["Z", "a.txt", "a/b", "a/c/d", "a0", "ä"]
    assert not left_out


def test_a_walk_leaves_unfinished_downloads_alone(tmp_path) -> None:
    """They are neither sent nor deleted."""
    for name in (".x.trivet-partial", ".x.trivet-journal", "x.trivet-partial", ".x"):
        (tmp_path / name).touch()
    assert walked(tmp_path) == ([".x", "x.trivet-partial"], {})


def test_a_walk_follows_no_link_out_of_the_folder(tmp_path) -> None:
    """A link to a file within is a file; every other one is left out, with its reason."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "file").write_text("file")
    (root / "sub" / "within").symlink_to("../file")
    (root / "sub" / "out").symlink_to(secret)
    (root / "sub" / "up").symlink_to("../..")
    (root / "nowhere").symlink_to("missing")
    os.mkfifo(root / "pipe")
    names, left_out = walked(root)
    assert names == ["file", "sub/within"]
    assert set(left_out) == {"sub/out", "sub/up", "nowhere", "pipe"}
    assert "out of the folder" in left_out["sub/out"]


def test_a_name_that_is_not_utf8_is_left_out(tmp_path) -> None:
    """A folder of such a name with all that is in it: no key can be made of its files' names."""
    (tmp_path / os.fsdecode(b"\xff.txt")).touch()
    (tmp_path / os.fsdecode(b"\xfe")).mkdir()
    (tmp_path / os.fsdecode(b"\xfe/a")).touch()
    (tmp_path / "z").touch()
    names, left_out = walked(tmp_path)
    assert names == ["z"]
    assert set(left_out) == {os.fsdecode(b"\xff.txt"), os.fsdecode(b"\xfe/")}
    assert all("UTF-8" in reason for reason in left_out.values())


@pytest.mark.parametrize(
    "key",
    [
        ".a.trivet-partial",
        "b/.a.Trivet-Journal",
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a/./b",
        "a//b",
        ".",
        "..",
        "a\0b",
        "a/",
        "n" * 256,
    ],
)
def test_an_unsafe_key_becomes_no_path(tmp_path, key) -> None:
    """Whatever is in the store, nothing is written outside of the folder that was named."""
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(local.UnsafeNameError):
        local.Folder(target).path_of(key)
    assert list(tmp_path.iterdir()) == [target]
    assert list(target.iterdir()) == []


def test_a_download_follows_no_link_out_of_the_folder(tmp_path) -> None:
    """Not even one that somebody laid there before; nor is a folder made behind it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "target"
    target.mkdir()
    (target / "link").symlink_to(outside)
    folder = local.Folder(target)
    for key in ("link/x", "link/new/x"):
        with pytest.raises(local.UnsafeNameError, match="leads out"):
            folder.path_of(key)
    assert list(outside.iterdir()) == []
    assert folder.path_of("sub/x") == target / "sub" / "x"
    assert (target / "sub").is_dir()


def test_the_target_itself_may_be_a_link(tmp_path) -> None:
    """Its owner named it."""
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    assert local.Folder(tmp_path / "link").path_of("a/b") == tmp_path / "link" / "a" / "b"
    assert (real / "a").is_dir()
