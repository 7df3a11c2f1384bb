"""`local_cluster.exclusive`: one launcher at a time per folder, and a dead one holds nobody up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from local_cluster import exclusive as exclusive_module
from local_cluster.errors import LocalClusterError
from local_cluster.exclusive import exclusive

HOLDER = (
    "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
)


@pytest.fixture
def lock_file(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "lock"


async def test_a_second_launcher_waits_until_the_first_is_done(lock_file) -> None:
    """Their starts do not overlap."""
    events = []

    async def launch(name: str) -> None:
        async with exclusive(lock_file):
            events.append(f"{name} in")
            await asyncio.sleep(0)
            events.append(f"{name} out")

    async with asyncio.TaskGroup() as group:
        for name in "ab":
            group.create_task(launch(name))
    assert events in (["a in", "a out", "b in", "b out"], ["b in", "b out", "a in", "a out"])


async def test_a_launcher_that_stays_busy_is_named_in_one_sentence(lock_file, monkeypatch) -> None:
    """Nobody waits for ever."""
    monkeypatch.setattr(exclusive_module, "WAIT_S", 0.2)
    async with exclusive(lock_file):
        with pytest.raises(LocalClusterError, match=f"busy with {lock_file.parent.parent}"):
            async with exclusive(lock_file):
                pytest.fail("two launchers at once")


@pytest.fixture
def killed_holder(lock_file: Path) -> None:
    """A process took the lock and was killed with it."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock_file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()


async def test_the_lock_of_a_killed_launcher_is_free(lock_file, killed_holder) -> None:
    """The kernel drops it, so there is nothing stale to clean up."""
    async with asyncio.timeout(10), exclusive(lock_file):
        pass
