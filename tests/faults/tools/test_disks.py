"""The disks of the fault tests do what they are made for: without that, no test on them proves anything."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from io import FileIO
from pathlib import Path

import pytest

from shared.disk.durable_files import sync_directory
from shared.units import MIB
from tests.faults.tools.bit_rot import flip_bit
from tests.faults.tools.mounts import Mounts, remove_what_the_dead_left
from tests.faults.tools.needs import require
from tests.faults.tools.slow_disk import WriteThrottle

pytestmark = pytest.mark.faults


def write(path: Path, body: bytes, *, is_synced: bool) -> None:
    with path.open("wb") as file:
        file.write(body)
        file.flush()
        if is_synced:
            os.fsync(file.fileno())


def touch_many(folder: Path, count: int) -> None:
    for number in range(count):
        (folder / str(number)).touch()


def write_and_sync(file: FileIO, body: bytes) -> None:
    file.write(body)
    os.fsync(file.fileno())


def test_a_power_cut_takes_what_was_not_synced_and_nothing_else(mounts):
    """Bytes without fsync and a rename without an fsync of its directory are gone; what was synced is there."""
    disk = mounts.loop_disk(32 * MIB)
    write(disk.folder / "synced", b"a" * 10_000, is_synced=True)
    write(disk.folder / "renamed", b"b" * 10_000, is_synced=True)
    sync_directory(disk.folder)
    (disk.folder / "renamed").rename(disk.folder / "new name")
    write(disk.folder / "unsynced", b"c" * 10_000, is_synced=False)
    disk.cut_power()
    with pytest.raises(OSError) as caught:
        write(disk.folder / "after", b"", is_synced=True)
    assert caught.value.errno == errno.EIO
    disk.restore_power()
    assert sorted(path.name for path in disk.folder.iterdir()) == ["lost+found", "renamed", "synced"]
    assert (disk.folder / "synced").read_bytes() == b"a" * 10_000


def test_a_power_cut_can_be_repeated_on_one_disk(mounts):
    """The journal is replayed each time."""
    disk = mounts.loop_disk(32 * MIB)
    for number in range(5):
        write(disk.folder / str(number), b"x", is_synced=True)
        disk.cut_power()
        disk.restore_power()
    assert len(list(disk.folder.iterdir())) == 6


def test_a_small_disk_is_full(mounts):
    """ENOSPC, then room again when something is removed."""
    disk = mounts.loop_disk(16 * MIB)
    with pytest.raises(OSError) as caught:
        write(disk.folder / "ballast", bytes(20 * MIB), is_synced=True)
    assert caught.value.errno == errno.ENOSPC
    (disk.folder / "ballast").unlink()
    write(disk.folder / "more", bytes(2 * MIB), is_synced=True)


def test_a_tmpfs_runs_out_of_inodes(mounts):
    """ENOSPC for names while there is room for bytes; then room again."""
    memory = mounts.tmpfs("size=8m", "nr_inodes=10")
    with pytest.raises(OSError) as caught:
        touch_many(memory.folder, 20)
    assert caught.value.errno == errno.ENOSPC
    memory.resize("nr_inodes=100")
    (memory.folder / "another").touch()


def test_a_disk_becomes_read_only_under_its_users(mounts):
    """Files that are open for writing get EROFS, and reads go on."""
    disk = mounts.loop_disk(32 * MIB)
    with (disk.folder / "open").open("wb", buffering=0) as file:
        write_and_sync(file, b"before")
        disk.become_read_only()
        with pytest.raises(OSError) as caught:
            write_and_sync(file, b"after")
        assert caught.value.errno == errno.EROFS
    assert (disk.folder / "open").read_bytes() == b"before"


def test_a_bit_flipped_under_the_file_system_is_read_without_complaint(mounts):
    """ext4 has no checksum over data, which is why we have."""
    disk = mounts.loop_disk(32 * MIB)
    write(disk.folder / "file", b"needle in a haystack" * 500, is_synced=True)
    disk.unmount()
    offset = disk.image.read_bytes().index(b"needle in a haystack")
    flip_bit(disk.image, offset, 0)
    disk.mount()
    assert (disk.folder / "file").read_bytes().startswith(b"oeedle in a haystack")


def test_a_throttled_disk_is_slow(mounts):
    """1 MiB/s for the process in the throttle."""
    require("disk throttle")
    disk = mounts.loop_disk(32 * MIB)
    with WriteThrottle(disk.device, MIB) as throttle:
        script = (
            "import os, sys; file = open(sys.argv[1], 'wb', 0); sys.stdin.read(1)\n"
            "file.write(bytes(2 << 20)); os.fsync(file.fileno())"
        )
        writer = subprocess.Popen([sys.executable, "-c", script, str(disk.folder / "slow")], stdin=subprocess.PIPE)
        throttle.add(writer.pid)
        began = time.monotonic()
        writer.communicate(b"x")
        assert time.monotonic() - began > 1.2


def test_disks_are_taken_away_after_a_failed_test():
    """Also while a file is open on one; neither a mount nor a loop device is left."""
    require("loop disks")
    held: list[FileIO] = []
    made = Mounts()
    with pytest.raises(ZeroDivisionError), made:
        fail_with_an_open_file(made, held)
    assert made.folder.name not in Path("/proc/self/mounts").read_text()
    held[0].close()
    devices = subprocess.run(["losetup", "--all"], check=True, capture_output=True, text=True).stdout
    assert made.folder.name not in devices


def fail_with_an_open_file(mounts: Mounts, held: list[FileIO]) -> None:
    disk = mounts.loop_disk(16 * MIB)
    held.append((disk.folder / "held").open("wb", buffering=0))
    raise ZeroDivisionError


def test_disks_of_a_killed_test_process_are_taken_away_by_the_next():
    """SIGKILL leaves the mount; the sweep knows by process id and start time that nobody uses it."""
    require("loop disks")
    script = (
        "import os; from tests.faults.tools.mounts import Mounts\n"
        "mounts = Mounts().__enter__(); print(mounts.loop_disk(16 << 20).folder, flush=True); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[3]
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=root)
    folder = ended.stdout.strip()
    assert folder in Path("/proc/self/mounts").read_text()
    remove_what_the_dead_left()
    assert folder not in Path("/proc/self/mounts").read_text()
