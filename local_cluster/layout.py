"""Where a local cluster keeps things, so that no other module joins a path of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from local_cluster.errors import LocalClusterError


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one cluster below `root`: `run/<name>.pid`, `log/<name>.log`, `data/<name>/`, `secrets/`; mode 0700."""

    root: Path

    @property
    def run(self) -> Path:
        """Which processes were started: `<name>.pid`, `<name>.identity.json`."""
        return self.root / "run"

    @property
    def secrets(self) -> Path:
        """Cluster secret, admin token, Redis passwords."""
        return self.root / "secrets"

    def pid_file(self, name: str) -> Path:
        """Holds the process id and nothing else, so that `kill $(cat ...)` does what it says."""
        return self.run / f"{name}.pid"

    def identity_file(self, name: str) -> Path:
        """Holds what tells this process from a later one with the same id."""
        return self.run / f"{name}.identity.json"

    def log_file(self, name: str) -> Path:
        """Standard output and error of one process."""
        return self.root / "log" / f"{name}.log"

    def data_dir(self, name: str) -> Path:
        """What one process must find again after a restart."""
        return self.root / "data" / name

    def make(self) -> None:
        """Create the folders.

        Raises:
            LocalClusterError: the root cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for folder in (self.run, self.root / "log", self.root / "data", self.secrets):
                folder.mkdir(exist_ok=True)
                # Also those that an older version made for everybody.
                folder.chmod(0o700)
        except OSError as error:
            raise LocalClusterError(
                f"Cannot write to {self.root} ({error.strerror}); choose another folder with TRIVET_LOCAL_DIR."
            ) from error
