"""A disk that can lose power: ext4 in a file behind a loop device.

The power cut is ext4's own shutdown ioctl without a flush of its log: what was not fsynced is gone, as is every name whose
directory was not, and the file system answers EIO until it is mounted again. The journal's timer is set so long that
nothing becomes durable by waiting.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

_FS_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = struct.pack("I", 2)
_BUSY_FOR_AT_MOST_S = 20.0


class LoopDisk:
    """Made by `Mounts.loop_disk`. `folder` is where it is mounted, `image` the file that holds it."""

    def __init__(self, image: Path, folder: Path, size_bytes: int) -> None:
        self.image = image
        self.folder = folder
        self._size_bytes = size_bytes

    @property
    def device(self) -> str:
        """`/dev/loopN` while it is mounted."""
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            device, mount_point, *_ = line.split(" ")
            if mount_point == str(self.folder):
                return device
        raise AssertionError(f"{self.folder} is not mounted")

    def make(self) -> None:
        """Create the image with an empty file system and mount it."""
        with self.image.open("wb") as file:
            file.truncate(self._size_bytes)
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"]
        subprocess.run(["mkfs.ext4", *options, str(self.image)], check=True)
        self.mount()

    def mount(self) -> None:
        """Mount it; after a power cut this replays the journal, as a boot does."""
        attach = ["losetup", "--find", "--show", str(self.image)]
        device = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
        try:
            # No background initialisation: after one shutdown in some hundred it met a bitmap whose checksum was not there yet.
            options = "noatime,commit=300,errors=remount-ro,noinit_itable,no_prefetch_block_bitmaps"
            subprocess.run(["mount", "-t", "ext4", "-o", options, device, str(self.folder)], check=True)
        finally:
            # Detached when it is unmounted, whoever does that and however.
            subprocess.run(["losetup", "--detach", device], check=True)

    def cut_power(self, pids: Sequence[int] = ()) -> None:
        """From now on nothing reaches the disk. Kill the processes that use it, then `restore_power`.

        Those of `pids` are stopped before: an fsync that had begun may report success after a shutdown that it did not survive
        (jbd2 takes a transaction that is neither running nor being committed for a committed one), and no machine
        goes on running after it has lost power.
        """
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        give_up_at = time.monotonic() + _BUSY_FOR_AT_MOST_S
        while any(_runs(pid) for pid in pids):
            assert time.monotonic() < give_up_at, "a process does not stop"
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, _NO_LOG_FLUSH)
        finally:
            os.close(descriptor)

    def restore_power(self) -> None:
        """Mount again what is on the disk."""
        self.unmount()
        self.mount()

    def unmount(self) -> None:
        """Orderly, if power was not cut. Whoever had files open must have ended."""
        give_up_at = time.monotonic() + _BUSY_FOR_AT_MOST_S
        while (done := self._try_to_unmount()).returncode != 0:
            assert time.monotonic() < give_up_at, f"somebody still uses {self.folder}: {done.stderr}"
            time.sleep(0.02)

    def become_read_only(self) -> None:
        """What ext4 does when it finds itself damaged and was told `errors=remount-ro`: in the midst of everything."""
        Path(f"/sys/fs/ext4/{Path(self.device).name}/trigger_fs_error").write_text("a test")

    def remove(self) -> None:
        """Unmount by force and delete the image; for clean-up."""
        if self.folder.is_mount() and self._try_to_unmount().returncode != 0:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
        self.image.unlink(missing_ok=True)

    def _try_to_unmount(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["umount", str(self.folder)], check=False, capture_output=True, text=True)


def _runs(pid: int) -> bool:
    """Whether a thread of the process may still execute a step of its program; one inside the kernel's disk code may not."""
    states = [path.read_text().rpartition(") ")[2][0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return any(state not in "TtDZX" for state in states)
