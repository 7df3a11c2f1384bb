"""One file of the store to this machine, and what comes with it."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from trivet.cli.main import run
from trivet.cli.session import Session


class Answer:
    """A download of two bytes."""

    info = SimpleNamespace(user_metadata={}, modified=None, size_bytes=2)

    async def __aiter__(self):
        yield b"ab"


class Store:
    """A client with the files x/pipe and x/z."""

    async def list_pages(self, bucket, prefix="", **_):
        keys = ["x/pipe", "x/z"]
        yield SimpleNamespace(files=[SimpleNamespace(key=key, size_bytes=2) for key in keys if key.startswith(prefix)])

    @asynccontextmanager
    async def open(self, bucket, key, **_):
        yield Answer()

    async def download_file(self, bucket, key, target, **_):
        target.write_bytes(b"ab")
        return Answer.info


@pytest.fixture
def pipe(monkeypatch, tmp_path):
    """A pipe of that name in a folder `here`, held open."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    os.mkfifo(tmp_path / "here" / "pipe")

    @asynccontextmanager
    async def client(session):
        yield Store()

    monkeypatch.setattr(Session, "client", client)
    descriptor = os.open(tmp_path / "here" / "pipe", os.O_RDWR | os.O_NONBLOCK)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("command", [("cp", "-r", "trivet://b/x/", "here"), ("sync", "trivet://b/x", "here")])
def test_a_pipe_in_a_folder_is_left_alone(pipe, tmp_path, capsys, command) -> None:
    """Nor would a link to a device be written to; the other files are copied."""
    assert run(Session(), command) == 1
    assert "neither a file nor a link to one" in capsys.readouterr().err
    assert (tmp_path / "here" / "z").read_bytes() == b"ab"
    with pytest.raises(BlockingIOError):
        os.read(pipe, 2)


def test_a_pipe_that_is_named_is_written_to(pipe) -> None:
    assert run(Session(), ["cp", "trivet://b/x/z", "here/pipe"]) == 0
    assert os.read(pipe, 3) == b"ab"
