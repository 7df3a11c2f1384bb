"""How requests say who they are, in revisions where they must: the root key that `local_cluster` writes there."""

from __future__ import annotations

from pathlib import Path

from trivet.import_s3.signing import Signer

REGION = "us-east-1"


def signer(local_dir: Path, host: str) -> Signer | None:
    """Signs requests of S3 for the cluster in `local_dir`, whose port is `host`; None where there is no key."""
    key_file = local_dir / "secrets" / "root-key"
    if not key_file.exists():
        return None
    key, _, secret = key_file.read_text().strip().partition(".")
    return Signer(key, secret, REGION, host)


def authorization(local_dir: Path) -> str:
    """The Authorization header for the cluster in `local_dir`; empty where there is no key, for then nothing asks for one."""
    key_file = local_dir / "secrets" / "root-key"
    return f"Bearer {key_file.read_text().strip()}" if key_file.exists() else ""
