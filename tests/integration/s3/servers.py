"""An S3 server as its clients see it: Trivet's own port, or another server against which the journeys are proved first."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import httpx
import pytest
from botocore.config import Config

from local_cluster.cluster import Cluster
from tests.free_ports import free_port
from tests.waiting import block_until

READY_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where it is and who may do everything there. `name` is `trivet` or `seaweedfs`."""

    name: str
    endpoint: str
    key: str
    secret: str
    region: str = "us-east-1"
    attempts: int = 1
    """How often a client tries: more than once only where parts of the server are killed meanwhile."""

    @property
    def address(self) -> str:
        """Host and port."""
        return urlsplit(self.endpoint).netloc

    @property
    def with_wrong_secret(self) -> S3Server:
        """As a client with a mistyped secret has it."""
        return replace(self, secret="x" * len(self.secret))

    @property
    def with_wrong_key(self) -> S3Server:
        """As a client with a key id that nobody has."""
        return replace(self, key="TV" + "0" * 18)

    def client(self, **config: Any) -> closing[Any]:
        """A boto3 client with its defaults but for what says where and who, until the block is left.

        `config` as `botocore.config.Config` has it.
        """
        made = boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name=self.region,
            config=Config(**self._patience | config),
        )
        return closing(made)

    @property
    def _patience(self) -> dict[str, Any]:
        """The defaults of boto3, unless more is needed."""
        return {} if self.attempts == 1 else {"retries": {"mode": "standard", "max_attempts": self.attempts}}

    @property
    def environment(self) -> dict[str, str]:
        """What programs of Amazon's family read; nothing of the user's own configuration."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": str(self.attempts),
            "AWS_RETRY_MODE": "standard",
        }


def trivet_s3(cluster: Cluster, attempts: int = 1) -> S3Server:
    """The S3 port of a cluster's first gateway, with the root key."""
    key, _, secret = cluster.root_key.partition(".")
    return S3Server("trivet", cluster.s3_url, key, secret, attempts=attempts)


@contextmanager
def seaweedfs_s3(folder: Path) -> Iterator[S3Server]:
    """A server of SeaweedFS with all its parts in one process; killed at the end."""
    server = S3Server("seaweedfs", f"http://127.0.0.1:{free_port()}", "TVSEAWEEDFS000000001", "s" * 40)
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    credentials = [{"accessKey": server.key, "secretKey": server.secret}]
    rights = {"identities": [{"name": "root", "credentials": credentials, "actions": actions}]}
    (folder / "s3.json").write_text(json.dumps(rights))
    (folder / "data").mkdir()
    log_file = folder / "weed.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(_weed_command(folder, server), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        block_until(lambda: _answers(server, process, log_file), "another S3 server answers", READY_TIMEOUT_S)
        yield server
    finally:
        process.kill()
        process.wait(10)


def _weed_command(folder: Path, server: S3Server) -> list[str]:
    ports = {f"{part}.port{kind}": free_port() for part in ("master", "volume", "filer") for kind in ("", ".grpc")}
    options = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        **ports,
        "master.volumeSizeLimitMB": 256,
        "master.telemetry": "false",
        "volume.max": 0,
        "s3": "true",
        "s3.port": urlsplit(server.endpoint).port,
        "s3.port.grpc": free_port(),
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.allowDeleteBucketNotEmpty": "false",
        "s3.autoCreateBucket": "false",
        "s3.config": folder / "s3.json",
    }
    program = Path(sys.executable).with_name("weed")
    return [str(program), "server", *(f"-{name}={value}" for name, value in options.items())]


def _answers(server: S3Server, process: subprocess.Popen[bytes], log_file: Path) -> bool:
    assert process.poll() is None, f"it ended: {log_file.read_text()[-2000:]}"
    try:
        if httpx.get(server.endpoint, trust_env=False).status_code != 403:
            return False
    except httpx.TransportError:
        return False
    with server.client() as client:
        return _lists_buckets(client)


def _lists_buckets(client: Any) -> bool:
    try:
        client.list_buckets()
    except client.exceptions.ClientError:
        return False
    return True


def require_trivet(server: S3Server, why: str) -> None:
    """Skip a test of what the other server answers otherwise."""
    if server.name != "trivet":
        pytest.skip(f"{server.name} differs: {why}")


def require_calm(server: S3Server) -> None:
    """Skip a test that cannot have what it asks for while parts of the server are killed."""
    if server.attempts > 1:
        pytest.skip("not while parts of the server are killed")
