"""Files written and read past the page cache hold what they should, byte for byte, of any size and in any pieces."""

from __future__ import annotations

import errno
import os
import random

import pytest

from services.storage.body_buffers import make_body_buffers
from services.storage.disk import direct_io
from services.storage.disk.direct_io import DirectIo
from shared.disk.durable_files import SyncFailedError
from shared.units import KIB, MIB
from tests.chance import draw_seed, random_bytes

SIZES = [0, 1, 511, 512, 4 * KIB - 1, 4 * KIB, 4 * KIB + 1, 70_001, MIB - 1, MIB, MIB + 1, 2 * MIB + 12_345]


@pytest.fixture(params=["direct", "usual"])
def writer(request, tmp_path, monkeypatch):
    found = DirectIo(make_body_buffers())
    if request.param == "usual":
        # As a file system that has no such writes answers.
        monkeypatch.setattr(DirectIo, "_write_direct", refuse)
    found.probe(tmp_path)
    if request.param == "direct" and not found._is_direct:
        pytest.skip("the file system of the temporary folder takes no writes past its cache")
    assert list(tmp_path.iterdir()) == []
    return found


def refuse(*_: object) -> None:
    raise OSError(errno.EINVAL, "not here")


def test_every_size_in_any_pieces_comes_out_as_it_went_in(writer, tmp_path):
    """A buffer that is used again leaves nothing of an older file in a newer one."""
    seed = draw_seed()
    print(f"seed {seed}")
    source = random.Random(seed)
    for number, size_bytes in enumerate(SIZES * 2):
        body = source.randbytes(size_bytes)
        pieces, at = [], 0
        while at < size_bytes:
            step = source.choice([1000, 64 * KIB, 256 * KIB, MIB])
            pieces.append(body[at : at + step])
            at += step
        path = tmp_path / str(number)
        writer.write_new_file(path, pieces)
        assert path.read_bytes() == body
        assert writer.read_file(path) == body
        assert path.stat().st_mode & 0o777 == 0o600


def test_an_existing_file_is_not_touched(writer, tmp_path):
    """A name that is taken is an error, and the file stays what it was."""
    (tmp_path / "taken").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        writer.write_new_file(tmp_path / "taken", [b"new"])
    assert (tmp_path / "taken").read_bytes() == b"old"


def test_a_failed_sync_leaves_no_file_and_says_so(writer, tmp_path, monkeypatch):
    """The caller must learn that it was the sync: it stops acknowledging."""

    def fail(_: int) -> None:
        raise SyncFailedError(errno.EIO, "broken")

    monkeypatch.setattr(direct_io, "sync_data", fail)
    monkeypatch.setattr("shared.disk.durable_files.sync_data", fail)
    with pytest.raises(SyncFailedError):
        writer.write_new_file(tmp_path / "lost", [b"x" * 5000])
    assert list(tmp_path.iterdir()) == []


def test_short_writes_are_continued(writer, tmp_path, monkeypatch):
    """The kernel may take less than it is given."""
    whole_write = os.write

    def write_some(fd: int, view: memoryview) -> int:
        return whole_write(fd, view[: 64 * KIB])

    monkeypatch.setattr(direct_io.os, "write", write_some)
    body = random_bytes(MIB + 3 * KIB)
    writer.write_new_file(tmp_path / "file", [body])
    assert (tmp_path / "file").read_bytes() == body


def test_a_file_has_its_length_before_it_is_synced(writer, tmp_path, monkeypatch):
    """A cut after the sync may be lost: the file would come back with what filled its last block."""
    lengths = []
    right = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: lengths.append(os.fstat(fd).st_size) or right(fd))
    writer.write_new_file(tmp_path / "file", [random_bytes(5000)])
    assert lengths == [5000]
