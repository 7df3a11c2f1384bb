"""A container engine of its own for one run: dockerd with folders, socket and cgroup of its own, ended by its process id.

It can run in a network namespace of its own, so that no port collides with this machine's and nothing leaves it. Builds need the
package index and take this machine's network; they have no bridge and change no firewall.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.waiting import block_until

CGROUPS: Final = Path("/sys/fs/cgroup")
_STOP_LIMIT_S: Final = 60.0


class Engine:
    """One dockerd. Open it with `with`; when the block ends nothing of it runs, is mounted or has a cgroup.

    Attributes:
        network: the name of the network namespace that is made for it; None for this machine's.
    """

    def __init__(self, data_root: Path, plugins: Path, *, network: str | None = None) -> None:
        self._data_root = data_root
        self._plugins = plugins
        self.network = network
        self.cgroup = f"trivet-containers-{os.getpid()}"
        # A socket's path must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="trivet-engine-"))
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if self.network is not None:
            subprocess.run(["ip", "netns", "add", self.network], check=True)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def environment(self) -> dict[str, str]:
        """For programs that are to use this engine. What chooses another one in this process' environment is left out."""
        chosen = ("DOCKER_", "COMPOSE_", "TRIVET_")
        mine = dict(os.environ)  # noqa: TID251 - the environment itself is handed on
        others = {name: value for name, value in mine.items() if not name.startswith(chosen)}
        return others | {
            "DOCKER_HOST": f"unix://{self._folder}/engine.sock",
            "DOCKER_CONFIG": str(self._folder / "client"),
            "DOCKER_BUILDKIT": "1",
        }

    def command(self, words: Sequence[str]) -> list[str]:
        """`words`, where the engine's network is."""
        return [*([] if self.network is None else ["nsenter", f"--net=/run/netns/{self.network}"]), *words]

    def run(
        self, *words: str, cwd: Path | None = None, extra: Mapping[str, str] | None = None, timeout_s: float = 300.0
    ) -> str:
        """What the command printed. Raises AssertionError with all of it when it fails."""
        done = subprocess.run(
            self.command(words),
            cwd=cwd,
            env=self.environment | dict(extra or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def cpu_s(self) -> dict[str, float]:
        """Processor time since the start: of the engine itself, with what it starts to make and probe containers, and of all."""
        engine = self._cpu_of(f"{self.cgroup}/engine")
        return {"engine": engine, "all": self._cpu_of(self.cgroup)}

    def log(self) -> str:
        """What dockerd wrote."""
        return (self._folder / "log").read_text(errors="replace")

    def close(self) -> None:
        """End the daemon and everything that it left behind."""
        if self._daemon is not None:
            self._daemon.terminate()
            try:
                self._daemon.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
        block_until(self._nothing_runs, "every process of the engine ended")
        for mount in reversed(self._mounts()):
            subprocess.run(["umount", "--lazy", mount], check=True)
        if self.network is not None:
            subprocess.run(["ip", "netns", "del", self.network], check=False)
        for folder in CGROUPS.glob(f"*/{self.cgroup}"):
            for each in sorted([folder, *(path for path in folder.rglob("*") if path.is_dir())], reverse=True):
                each.rmdir()
        shutil.rmtree(self._folder)

    def _start(self) -> None:
        plugins = self._folder / "client" / "cli-plugins"
        plugins.mkdir(parents=True)
        for plugin in self._plugins.glob("docker-*"):
            (plugins / plugin.name).symlink_to(plugin)
        words = ["dockerd", "--data-root", str(self._data_root), "--exec-root", str(self._folder / "exec")]
        words += ["--host", f"unix://{self._folder}/engine.sock", "--pidfile", str(self._folder / "pid")]
        words += ["--cgroup-parent", f"/{self.cgroup}", "--config-file", str(self._folder / "engine.json")]
        (self._folder / "engine.json").write_text("{}")
        if self.network is None:
            words += ["--bridge=none", "--iptables=false", "--ip6tables=false"]
        else:
            self.run("ip", "link", "set", "lo", "up")
        with (self._folder / "log").open("wb") as log:
            # Not this test's standard input, and a session of its own: Ctrl-C is for the test, which then ends it in order.
            self._daemon = subprocess.Popen(
                self.command(words), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        for accounting in (CGROUPS / "cpuacct", CGROUPS):
            if (accounting / "cgroup.procs").exists():
                own = accounting / self.cgroup / "engine"
                own.mkdir(parents=True, exist_ok=True)
                (own / "cgroup.procs").write_text(str(self._daemon.pid))
                break
        block_until(self._answers, f"dockerd answers; it wrote:\n{self.log()}", within_s=60)

    def _answers(self) -> bool:
        assert self._daemon is not None
        assert self._daemon.poll() is None, self.log()
        words = self.command(["docker", "version"])
        return subprocess.run(words, env=self.environment, capture_output=True, check=False).returncode == 0

    def _nothing_runs(self) -> bool:
        """Whether nothing that was started with this engine's folder in its command line runs; what does is ended."""
        found = False
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                words = (entry / "cmdline").read_bytes()
                if str(self._folder).encode() in words and b"pytest" not in words:
                    found = True
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue
        return not found

    def _mounts(self) -> list[str]:
        ours = (str(self._folder), str(self._data_root))
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        return [mount for mount in mounts if mount.startswith(ours)]

    @staticmethod
    def _cpu_of(cgroup: str) -> float:
        v1 = CGROUPS / "cpuacct" / cgroup / "cpuacct.usage"
        if v1.exists():
            return int(v1.read_text()) / 1e9
        fields = dict(line.split() for line in (CGROUPS / cgroup / "cpu.stat").read_text().splitlines())
        return int(fields["usage_usec"]) / 1e6
