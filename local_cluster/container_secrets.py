"""Makes the secrets that docker-compose.yml and k8s/kustomization.yaml read, once."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from local_cluster.settings import PROJECT_ROOT

FOLDER: Final = PROJECT_ROOT / "k8s" / "secrets"
NAMES: Final = ("cluster-secret", "admin-token", "redis-password")


def make_container_secrets(folder: Path = FOLDER) -> list[str]:
    """Make whichever secret is missing in `folder`; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    made = []
    for name in NAMES:
        path = folder / name
        if not path.exists():
            path.write_text(secrets.token_hex(32) + "\n")
            # Compose mounts the file itself with its owner and mode, and the containers run as another user. What keeps
            # other users of this machine out is the folder's mode.
            path.chmod(0o444)
            made.append(name)
    return made
