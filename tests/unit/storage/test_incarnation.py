"""`services.storage.incarnation`: a folder's identity survives restarts and tells copies and older states of it apart."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil

import pytest

from services.storage.incarnation import DISK_IDENTITY_NAME, Incarnation, raise_counter
from shared.background_tasks import BackgroundTasks
from shared.contracts.cluster import HeartbeatResponse
from shared.errors import NotReadyError

ANSWER = HeartbeatResponse(is_admitted=True, cluster_id="c", epoch=5, fence=4, is_run_recorded=True)


def test_a_folder_keeps_its_id_and_counts_its_starts(tmp_path):
    """Also one of a version without ids, which gets one at its first start: its chunks are what they were."""
    (tmp_path / "catalog.sqlite").write_bytes(b"from before")
    first = raise_counter(tmp_path)
    assert first.counter == 1
    assert [raise_counter(tmp_path) for _ in range(3)] == [
        type(first)(first.disk_id, counter) for counter in range(2, 5)
    ]


def test_two_folders_have_two_ids(tmp_path):
    """A wiped folder is another disk."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert raise_counter(tmp_path / "one").disk_id != raise_counter(tmp_path / "two").disk_id


def test_a_copied_folder_does_not_exceed_the_counter_of_the_original(tmp_path):
    """Nor does one that is rolled back: so the log knows it."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    raise_counter(original)
    shutil.copytree(original, copy)
    now = raise_counter(original)
    again = raise_counter(copy)
    assert (again.disk_id, again.counter) == (now.disk_id, now.counter)


def test_the_counter_is_durable_before_it_is_used(tmp_path, monkeypatch):
    """A power cut after the start must not take it back: file and directory are synced."""
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fdatasync", lambda _fd: synced.append("file"))
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append("directory"), real(fd)))
    raise_counter(tmp_path)
    assert synced == ["file", "directory"]


async def test_the_counter_is_raised_while_the_node_runs_and_told(tmp_path, monkeypatch):
    """So that a volume that was rolled back to a moment of this run is known by it; a disk that refuses once is tried again."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            raise asyncio.CancelledError

    def raise_or_fail(folder):
        if len(pauses) == 2:
            raise OSError(errno.EIO, "refused")
        return raise_counter(folder)

    incarnation = Incarnation(tmp_path, lambda: None, is_redis_record=False)
    await incarnation.start()
    monkeypatch.setattr("shared.background_tasks.asyncio.sleep", pause)
    monkeypatch.setattr("services.storage.incarnation.raise_counter", raise_or_fail)
    with pytest.raises(asyncio.CancelledError):
        await incarnation.keep_raising(BackgroundTasks())
    assert pauses == [600.0] * 4
    assert incarnation.run().counter == 3
    assert raise_counter(tmp_path).counter == 4


@pytest.mark.parametrize("position", range(0, 40, 7))
def test_a_damaged_identity_ends_the_start(tmp_path, position, capsys):
    """Neither believed nor silently replaced: with a sentence that says what removing it means."""
    raise_counter(tmp_path)
    path = tmp_path / DISK_IDENTITY_NAME
    body = bytearray(path.read_bytes())
    body[position] ^= 1
    path.write_bytes(body)
    with pytest.raises(SystemExit):
        raise_counter(tmp_path)
    assert "is damaged" in capsys.readouterr().err


def test_a_run_has_a_boot_id_of_its_own(tmp_path):
    """Two processes with one folder are told apart even with one counter."""

    def boot() -> str:
        incarnation = Incarnation(tmp_path, lambda: None, is_redis_record=False)
        incarnation._disk = raise_counter(tmp_path)
        return incarnation.run().boot_id

    assert boot() != boot()


async def test_a_run_says_disk_counter_and_redis(tmp_path):
    """As its heartbeat carries them."""
    redis_ids: list[str | None] = [None]
    incarnation = Incarnation(tmp_path, lambda: redis_ids[0], is_redis_record=True)
    await incarnation.start()
    first = incarnation.run()
    assert (first.counter, first.redis_id, first.is_redis_record) == (1, None, True)
    redis_ids[0] = "c" * 32
    assert incarnation.run() == first.model_copy(update={"redis_id": "c" * 32})


@pytest.mark.parametrize("is_redis_record", [True, False])
async def test_another_redis_wants_a_heartbeat(tmp_path, is_redis_record):
    """Where it is the store of record nothing is acknowledged until the log knows it."""
    redis_ids = ["c" * 32]
    incarnation = Incarnation(tmp_path, lambda: redis_ids[0], is_redis_record=is_redis_record)
    await incarnation.start()
    incarnation.record(incarnation.run(), ANSWER)
    assert incarnation.require_fence() == ANSWER.fence
    assert not incarnation.heartbeat_wanted.is_set()
    redis_ids[0] = "e" * 32
    if is_redis_record:
        with pytest.raises(NotReadyError):
            incarnation.require_fence()
    else:
        assert incarnation.require_fence() == ANSWER.fence
    assert incarnation.heartbeat_wanted.is_set()
    incarnation.record(incarnation.run(), ANSWER.model_copy(update={"fence": 6}))
    assert incarnation.require_fence() == 6
