"""Makes the secrets that docker-compose.yml and k8s/kustomization.yaml read, once.

The cluster secret is for this command alone: containers get the peer keys that are derived from it, and after a change of it
this command writes those anew.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from local_cluster.local_secrets import write_curl_config, write_peer_keys
from local_cluster.settings import PROJECT_ROOT
from shared.access_keys import draw_credential

FOLDER: Final = PROJECT_ROOT / "k8s" / "secrets"
NAMES: Final = ("cluster-secret", "sealing-key", "root-key", "redis-password")


def make_container_secrets(folder: Path = FOLDER) -> list[str]:
    """Make whichever secret is missing in `folder`, and derive the peer keys; the names of the files that were written.

    `curl.conf` beside them shows the root key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    made: list[str] = []

    def write(path: Path, text: str) -> None:
        path.unlink(missing_ok=True)
        path.write_text(text)
        # Compose mounts the file itself with its owner and mode, and the containers run as another user. What keeps
        # other users of this machine out is the folder's mode.
        path.chmod(0o444)
        made.append(path.name)

    for name in NAMES:
        if not (folder / name).exists():
            write(folder / name, (draw_credential() if name == "root-key" else secrets.token_hex(32)) + "\n")
    write_peer_keys(folder, (folder / "cluster-secret").read_text(), write)
    write_curl_config(folder / "curl.conf", (folder / "root-key").read_text().strip())
    return made
