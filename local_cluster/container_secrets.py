"""Makes the secrets that docker-compose.yml and k8s/ read, once: `make secrets`, which needs blake3 and nothing else of ours.

The cluster secret is for this command alone: containers get the peer keys that are derived from it, and after a change of it
this command writes those anew.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from local_cluster.local_secrets import write_curl_config, write_peer_keys
from shared.access_keys import draw_credential
from shared.private_process import make_process_private

PROJECT_ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = PROJECT_ROOT / "k8s" / "secrets"
NAMES: Final = ("cluster-secret", "sealing-key", "root-key", "redis-password", "metrics-token", "grafana-password")
GROUP_VARIABLE: Final = "TRIVET_SECRETS_GROUP"


def make_container_secrets(folder: Path = FOLDER, compose_variables: Path = PROJECT_ROOT / ".env") -> list[str]:
    """Make whichever secret is missing in `folder`, and derive the peer keys; the names of the files that were written.

    `curl.conf` beside them shows the root key. `compose_variables` gets the number of the files' group, without which compose
    refuses to start; its other lines stay as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    made: list[str] = []

    def write(path: Path, text: str) -> None:
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(text)
        made.append(path.name)

    for name in NAMES:
        if not (folder / name).exists():
            write(folder / name, (draw_credential() if name == "root-key" else secrets.token_hex(32)) + "\n")
    peer_keys = write_peer_keys(folder, (folder / "cluster-secret").read_text(), write)
    write_curl_config(folder / "curl.conf", (folder / "root-key").read_text().strip())
    for path in (*(folder / name for name in NAMES), *peer_keys.values()):
        # Compose mounts the file itself with its owner and mode, and the containers run as another user, but in this group.
        path.chmod(0o600 if path.name == "cluster-secret" else 0o440)
    _set_variable(compose_variables, GROUP_VARIABLE, str((folder / "root-key").stat().st_gid))
    return made


def _set_variable(file: Path, name: str, value: str) -> None:
    lines = file.read_text().splitlines() if file.exists() else []
    others = [line for line in lines if not line.startswith(f"{name}=")]
    if (text := "\n".join([*others, f"{name}={value}", ""])) != "\n".join([*lines, ""]):
        file.write_text(text)


def main() -> None:
    """Make them, and say which."""
    make_process_private()
    print(f"Made in {FOLDER}: {', '.join(make_container_secrets()) or 'nothing, all are there'}")


if __name__ == "__main__":
    main()
