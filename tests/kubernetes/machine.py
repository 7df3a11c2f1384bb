"""What Kubernetes takes for a machine: a namespace of processes, mounts and network, whose end takes everything on it at once."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.waiting import block_until

# /run is empty after a start, as on a machine; what lies in /var is the machine's own.
_START: Final = """
mount --make-rshared /
mkdir -p {folder}/lib {folder}/log
mount --bind {folder}/lib /var/lib
mount --bind {folder}/log /var/log
mount -t tmpfs run /run
touch {folder}/started
while :; do sleep 3600 & wait; done
"""


class Machine:
    """One of them. `kill` is a power cut; `start` after it finds the same disk.

    Attributes:
        folder: its disk.
        name: of its network namespace.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self._init: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._spawned: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Nothing runs on it afterwards but its init."""
        self.folder.mkdir(parents=True, exist_ok=True)
        started = self.folder / "started"
        started.unlink(missing_ok=True)
        script = _START.format(folder=self.folder)
        # It ends with this process, whatever that dies of.
        words = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{self.name}"]
        words += ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", script]
        self._init = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
        block_until(started.exists, f"{self.name} started", within_s=20)
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children")
        self._pid = int(children.read_text().split()[0])

    def command(self, words: Sequence[str]) -> list[str]:
        """`words`, on this machine."""
        return ["nsenter", "--target", str(self._pid), "--mount", "--pid", "--net", *words]

    def spawn(self, *words: str) -> None:
        """Start a program that stays, again when it ends; what it writes is in a file of its name in the folder."""
        again = ["sh", "-c", 'until "$@"; do sleep 1; done', "sh", *words]
        with (self.folder / f"{Path(words[0]).name}.log").open("ab") as log:
            self._spawned.append(
                subprocess.Popen(
                    self.command(again), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            )

    def run(self, *words: str, timeout_s: float = 300.0) -> str:
        """What the command printed. Raises AssertionError with all of it when it fails."""
        done = subprocess.run(
            self.command(words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def kill(self) -> None:
        """End every process on it at once, without a word to any."""
        if self._init is None:
            return
        self._init.send_signal(signal.SIGKILL)
        self._init.wait()
        # The kernel ends the rest of the namespace before its init is gone.
        block_until(lambda: not Path(f"/proc/{self._pid}").exists(), f"{self.name} is off", within_s=30)
        self._init = None
        for program in self._spawned:
            program.wait()
        self._spawned.clear()
