"""The secrets of one cluster: random, made once, mode 0600, and handed to processes as files, never on a command line.

The cluster secret itself is for the launcher alone. Each process gets the file of peer keys that is derived from it for its role.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from local_cluster.layout import Layout
from shared.access_keys import PlainKey, bearer_of, draw_credential
from shared.cluster_keys import PeerKeys, key_file
from shared.roles import Role


@dataclass(frozen=True, slots=True)
class LocalSecrets:
    """Where the secrets stand. `cluster_id` is public and stands among them because it is made with them.

    Attributes:
        sealing_key_file: of the gateways alone; by it they seal and check the secrets of access keys.
        root_key_file: the access key of whoever runs this cluster, `TV….secret` on one line. A gateway gives it to the first
            identity of a new cluster.
    """

    cluster_id: str
    cluster_secret_file: Path
    peer_keys_files: dict[Role, Path]
    sealing_key_file: Path
    root_key_file: Path
    redis_password_files: dict[str, Path]

    def environment(self, role: Role) -> dict[str, str]:
        """What processes of that role are told of keys."""
        return {"TRIVET_PEER_KEYS_FILE": str(self.peer_keys_files[role])}

    def keys(self, role: Role) -> PeerKeys:
        """The keys that processes of that role have."""
        return PeerKeys.parse(self.peer_keys_files[role].read_text())


def load_or_make_secrets(layout: Layout, redis_names: list[str]) -> LocalSecrets:
    """The secrets of this cluster; whichever is missing is made, also of one that an older version left.

    `curl.conf` is written again when it shows another key than the file of the root key, as after a rotation.

    Raises:
        ValueError: the cluster secret has too few bytes, or more than two lines; or there is no root key in its file.
    """
    folder = layout.secrets
    cluster_id_file = ensure_secret(folder / "cluster-id", f"local-{secrets.token_hex(8)}")
    root_key_file = ensure_secret(layout.root_key, draw_credential())
    write_curl_config(layout.curl_config, _root_key_in(root_key_file))
    cluster_secret_file = ensure_secret(folder / "cluster-secret", secrets.token_hex(32))
    return LocalSecrets(
        cluster_id=cluster_id_file.read_text().strip(),
        cluster_secret_file=cluster_secret_file,
        peer_keys_files=write_peer_keys(folder, cluster_secret_file.read_text(), write_private),
        sealing_key_file=ensure_secret(folder / "sealing-key", secrets.token_hex(32)),
        root_key_file=root_key_file,
        redis_password_files={
            name: ensure_secret(folder / f"{name}-password", secrets.token_hex(32)) for name in redis_names
        },
    )


def write_peer_keys(folder: Path, cluster_secret: str, write: Callable[[Path, str], None]) -> dict[Role, Path]:
    """The file of peer keys of every role, written anew where the cluster secret has another line. Raises ValueError."""
    files: dict[Role, Path] = {role: folder / f"peer-keys-{role}" for role in Role}
    for role, path in files.items():
        text = key_file(cluster_secret, role)
        if not path.exists() or path.read_text() != text:
            write(path, text)
    return files


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    # Opened with its mode: a chmod after the write would leave a moment in which others can read it.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def write_curl_config(path: Path, root_key: str) -> None:
    """What `curl -K` reads to show that key; nothing where it stands there."""
    what = "# For curl -K: requests are made with the root key of this cluster."
    text = f'{what}\nheader = "Authorization: {bearer_of(root_key)}"\n'
    if not path.exists() or path.read_text() != text:
        write_private(path, text)


def _root_key_in(path: Path) -> str:
    try:
        return PlainKey.parse(path.read_text()).line()
    except ValueError as error:
        # Shown as it is, it would come to the terminal with the first error about a header.
        raise ValueError(f"{path}: {error}") from error


def ensure_secret(path: Path, fresh: str) -> Path:
    """The file, with `fresh` on one line where it is not there yet."""
    if not path.exists():
        write_private(path, fresh + "\n")
    return path
