"""Where a local cluster keeps things, so that no other module joins a path of its own."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from local_cluster.errors import LocalClusterError

MAX_SOCKET_PATH_BYTES: Final = 103
"""What fits into `sun_path` with its NUL on every system: 108 bytes on Linux, 104 on macOS and the BSDs."""

_LONGEST_SOCKET_NAME: Final = "redis-9999.sock"


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
        """Cluster secret, sealing key, root key, Redis passwords."""
        return self.root / "secrets"

    @property
    def root_key(self) -> Path:
        """The access key of whoever runs this cluster."""
        return self.secrets / "root-key"

    @property
    def curl_config(self) -> Path:
        """What `curl -K` reads to make its requests with the root key."""
        return self.root / "curl.conf"

    def s3_config(self, client: str) -> Path:
        """What a client of S3, such as `rclone`, reads to find this cluster and show the root key."""
        return self.secrets / f"{client}.conf"

    @property
    def shape_file(self) -> Path:
        """Which storage nodes were added and removed; absent while none was."""
        return self.root / "storage-nodes.json"

    def pid_file(self, name: str) -> Path:
        """Holds the process id and nothing else, so that `kill $(cat ...)` does what it says."""
        return self.run / f"{name}.pid"

    def identity_file(self, name: str) -> Path:
        """Holds what tells this process from a later one with the same id."""
        return self.run / f"{name}.identity.json"

    def log_file(self, name: str) -> Path:
        """Standard output and error of one process."""
        return self.root / "log" / f"{name}.log"

    @property
    def sockets(self) -> Path:
        """Where Unix sockets lie: in `run`, unless that path is too long for one; then in a short folder for this root alone."""
        if len(os.fsencode(self.run / _LONGEST_SOCKET_NAME)) <= MAX_SOCKET_PATH_BYTES:
            return self.run
        # Derived and not drawn: whichever launcher comes next must find it. Not TMPDIR, which may be long and differs.
        digest = hashlib.blake2b(os.fsencode(self.root), digest_size=8).hexdigest()
        return Path(f"/tmp/trivet-{os.geteuid()}-{digest}")  # noqa: S108 - `make` refuses it when it is not ours alone

    def socket(self, name: str) -> Path:
        """Where one process listens for those of the same user."""
        return self.sockets / f"{name}.sock"

    def data_dir(self, name: str) -> Path:
        """What one process must find again after a restart."""
        return self.root / "data" / name

    def make(self) -> None:
        """Create the folders.

        Raises:
            LocalClusterError: the root cannot be written, or somebody else has made the folder for sockets.
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
        if self.sockets != self.run:
            _make_private(self.sockets)


def _make_private(folder: Path) -> None:
    # Everybody may write to its parent, so that a folder or a link may have been planted there before.
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise LocalClusterError(
            f"Cannot make {folder} ({error.strerror}), for the path of TRIVET_LOCAL_DIR is too long for Unix sockets; choose "
            "a shorter one."
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise LocalClusterError(
            f"{folder} is not a folder of this user alone, and the path of TRIVET_LOCAL_DIR is too long for Unix sockets; "
            "remove that folder, or choose a shorter path."
        )
