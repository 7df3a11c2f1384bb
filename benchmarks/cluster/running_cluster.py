"""A cluster of a tree, driven as a person drives it: `python -m local_cluster up` and `down` with that tree's interpreter.

What it is made of is read from its folder (`run/<name>.pid`) and from its gateway (`GET /v1/cluster`), so that
revisions whose modules have other names, and those that need credentials, are measured alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.cluster.commands import run
from benchmarks.cluster.connection import Address
from benchmarks.cluster.credentials import authorization, signer
from benchmarks.cluster.doors import Door, NativeDoor, S3Door
from benchmarks.cluster.errors import BenchmarkError
from benchmarks.cluster.trees import WORK_DIR, Tree
from local_cluster.free_ports import free_port_offset
from trivet.import_s3.signing import Signer

_HOST: Final = "127.0.0.1"
_GATEWAY_PORT: Final = 8080
"""Where the gateway of a local cluster listens before the offset is added (README.md)."""

_S3_PORT: Final = 9000
"""The same for S3."""

_ANSWER_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class RunningCluster:
    """A cluster that is ready. `pids` are its processes by name; `root` is the Authorization of whoever runs it."""

    tree: Tree
    local_dir: Path
    address: Address
    pids: dict[str, int]
    s3_signer: Signer | None = None
    root: str = ""

    def door(self, *, is_s3: bool) -> Door:
        """Where rows go to. Raises BenchmarkError: the tree has no S3 port, or no key for it."""
        if not is_s3:
            return NativeDoor(self.address)
        if self.s3_signer is None:
            raise BenchmarkError(f"{self.tree.revision} has no access key, and so no S3 port.")
        host, _, port = self.s3_signer.host.partition(":")
        return S3Door(Address(host, int(port)), self.s3_signer)

    def leader(self) -> str | None:
        """Name of the consensus member that leads, None when there is none now.

        Raises:
            BenchmarkError: the gateway does not answer.
        """
        request = urllib.request.Request(f"{self.address.url}/v1/cluster")  # noqa: S310 - our own gateway
        if self.root:
            request.add_header("Authorization", self.root)
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_TIMEOUT_S) as answer:  # noqa: S310 - as above
                return parse_leader(answer.read())
        except OSError as error:
            raise BenchmarkError(f"The gateway of {self.tree.name} does not say who leads: {error}") from error


def parse_leader(document: bytes) -> str | None:
    """The field `leader` of the answer to GET /v1/cluster."""
    leader = json.loads(document).get("leader")
    return None if leader is None else str(leader)


@contextlib.contextmanager
def running_cluster(tree: Tree, port_offset: int | None = None) -> Iterator[RunningCluster]:
    """A new cluster with default settings; it is stopped, and all that it stored removed, when the context ends.

    Raises:
        BenchmarkError: it does not start.
    """
    offset = free_port_offset() if port_offset is None else port_offset
    local_dir = WORK_DIR / f"cluster-{tree.name}-{offset}-of-{os.getpid()}"
    shutil.rmtree(local_dir, ignore_errors=True)
    environment = {"TRIVET_LOCAL_DIR": str(local_dir), "TRIVET_PORT_OFFSET": str(offset)}
    if tree.is_anonymous:
        environment["TRIVET_ANONYMOUS"] = "write"
    try:
        run([tree.python, "-m", "local_cluster", "up"], tree.root, environment)
        root = authorization(local_dir)
        address = Address(_HOST, _GATEWAY_PORT + offset, "" if tree.is_anonymous else root)
        s3_signer = signer(local_dir, f"{_HOST}:{_S3_PORT + offset}")
        yield RunningCluster(tree, local_dir, address, read_pids(local_dir), s3_signer, root)
    finally:
        run([tree.python, "-m", "local_cluster", "down"], tree.root, environment)
        shutil.rmtree(local_dir, ignore_errors=True)


def read_pids(local_dir: Path) -> dict[str, int]:
    """Processes by name, from their pid files."""
    return {file.stem: int(file.read_text()) for file in sorted((local_dir / "run").glob("*.pid"))}
