"""`local_cluster.layout`: sockets whose paths are short enough, in a folder that nobody else has made."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_cluster.errors import LocalClusterError
from local_cluster.layout import MAX_SOCKET_PATH_BYTES, Layout
from tests.chance import random_bytes

NAME = "redis-9999"


def layout_with_socket_path_of(size_bytes: int) -> Layout:
    """A root so long that the socket's path, below it, has so many bytes."""
    rest = len(f"/run/{NAME}.sock")
    # An umlaut has two bytes: they count, not the characters.
    root = f"/tmp/ä{random_bytes(8).hex()}/"
    return Layout(Path(root + "x" * (size_bytes - rest - len(os.fsencode(root)))))


@pytest.fixture
def long_layout() -> Iterator[Layout]:
    """One with a short folder of its own, which does not exist yet."""
    layout = layout_with_socket_path_of(220)
    assert not layout.sockets.exists()
    yield layout
    shutil.rmtree(layout.root.parent, ignore_errors=True)
    if layout.sockets.is_symlink() or layout.sockets.is_file():
        layout.sockets.unlink()
    else:
        shutil.rmtree(layout.sockets, ignore_errors=True)


def test_sockets_lie_below_the_root_up_to_the_longest_path_that_a_socket_takes() -> None:
    """And one byte later in a short folder, which is another one for every root."""
    at_the_limit = layout_with_socket_path_of(MAX_SOCKET_PATH_BYTES)
    assert at_the_limit.socket(NAME) == at_the_limit.root / "run" / f"{NAME}.sock"
    assert len(os.fsencode(at_the_limit.socket(NAME))) == MAX_SOCKET_PATH_BYTES
    one, two = (layout_with_socket_path_of(MAX_SOCKET_PATH_BYTES + 1) for _ in range(2))
    assert one.socket(NAME).parent.parent == Path("/tmp")
    assert one.sockets == Layout(one.root).sockets != two.sockets


def test_the_folder_of_a_long_root_takes_sockets_and_is_closed_to_others(long_layout: Layout) -> None:
    """Also when it is made again by the next launcher."""
    for _ in range(2):
        long_layout.make()
        assert long_layout.sockets.stat().st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(long_layout.socket(NAME)))


@pytest.mark.parametrize("planted", ["a link", "a file", "a folder for all"])
def test_a_folder_that_others_may_enter_is_refused(long_layout: Layout, tmp_path: Path, planted: str) -> None:
    """Its name can be guessed, and everybody may write to /tmp."""
    if planted == "a link":
        long_layout.sockets.symlink_to(tmp_path)
    elif planted == "a file":
        long_layout.sockets.touch(0o600)
    else:
        long_layout.sockets.mkdir()
        long_layout.sockets.chmod(0o750)
    with pytest.raises(LocalClusterError, match="too long for Unix sockets"):
        long_layout.make()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a folder of another user")
def test_a_folder_of_another_user_is_refused(long_layout: Layout) -> None:
    """Though its mode is right."""
    long_layout.sockets.mkdir(mode=0o700)
    os.chown(long_layout.sockets, 12345, 12345)
    with pytest.raises(LocalClusterError, match="not a folder of this user alone"):
        long_layout.make()
