"""How requests say who they are, in revisions where they must: the root key that `local_cluster` writes there."""

from __future__ import annotations

from pathlib import Path


def authorization(local_dir: Path) -> str:
    """The Authorization header for the cluster in `local_dir`; empty where there is no key, for then nothing asks for one."""
    key_file = local_dir / "secrets" / "root-key"
    return f"Bearer {key_file.read_text().strip()}" if key_file.exists() else ""
