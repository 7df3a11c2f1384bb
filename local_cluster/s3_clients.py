"""Lets clients of S3 find the cluster: a configuration for each, with the root key, which only its owner can read."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from local_cluster.layout import Layout
from local_cluster.local_secrets import write_private
from shared.access_keys import PlainKey


def write_s3_configs(layout: Layout, url: str, region: str, root_key: str) -> Mapping[str, str]:
    """Write them, and say of each client by which command it shows the buckets. `root_key`: `TV….secret`."""
    key = PlainKey.parse(root_key)
    files = {client: layout.s3_config(client) for client in ("aws", "rclone", "mc")}
    texts = {
        "aws": f"[default]\naws_access_key_id = {key.id}\naws_secret_access_key = {key.secret}\nregion = {region}\n"
        f"endpoint_url = {url}\ns3 =\n    addressing_style = path\n",
        "rclone": f"[trivet]\ntype = s3\nprovider = Other\naccess_key_id = {key.id}\nsecret_access_key = {key.secret}\n"
        f"region = {region}\nendpoint = {url}\nforce_path_style = true\n",
        "mc": url.replace("://", f"://{key.id}:{quote(key.secret, safe='')}@") + "\n",
    }
    for client, text in texts.items():
        _keep(files[client], text)
    shown = {client: shlex.quote(str(from_here(path))) for client, path in files.items()}
    return {
        # As a file of credentials: one in the home folder would count more than a configuration.
        "aws": f"AWS_SHARED_CREDENTIALS_FILE={shown['aws']} aws s3 ls",
        "rclone": f"rclone --config {shown['rclone']} lsd trivet:",
        "mc": f"MC_HOST_trivet=$(cat {shown['mc']}) mc ls trivet",
    }


def from_here(path: Path) -> Path:
    """As a person in the working directory would write it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _keep(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        write_private(path, text)
