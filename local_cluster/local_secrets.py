"""The secrets of one cluster: random, made once, mode 0600, and handed to processes as files, never on a command line."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from local_cluster.layout import Layout
from shared.access_keys import bearer_of, draw_credential


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
    sealing_key_file: Path
    root_key_file: Path
    redis_password_files: dict[str, Path]


def load_or_make_secrets(layout: Layout, redis_names: list[str]) -> LocalSecrets:
    """The secrets of this cluster; whichever is missing is made, also of one that an older version left.

    `curl.conf` is written again when it shows another key than the file of the root key, as after a rotation.
    """
    folder = layout.secrets
    cluster_id_file = _ensure(folder / "cluster-id", f"local-{secrets.token_hex(8)}")
    root_key_file = _ensure(layout.root_key, draw_credential())
    _write_curl_config(layout.curl_config, root_key_file.read_text().strip())
    return LocalSecrets(
        cluster_id=cluster_id_file.read_text().strip(),
        cluster_secret_file=_ensure(folder / "cluster-secret", secrets.token_hex(32)),
        sealing_key_file=_ensure(folder / "sealing-key", secrets.token_hex(32)),
        root_key_file=root_key_file,
        redis_password_files={
            name: _ensure(folder / f"{name}-password", secrets.token_hex(32)) for name in redis_names
        },
    )


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


def _write_curl_config(path: Path, root_key: str) -> None:
    what = "# For curl -K: requests are made with the root key of this cluster."
    text = f'{what}\nheader = "Authorization: {bearer_of(root_key)}"\n'
    if not path.exists() or path.read_text() != text:
        write_private(path, text)


def _ensure(path: Path, fresh: str) -> Path:
    if not path.exists():
        write_private(path, fresh + "\n")
    return path
