"""S3 servers and their clients for the journeys of this folder.

`pytest tests/integration/s3 --s3-server seaweedfs` takes the journeys to another S3 server: what fails there as well is
the journey's fault and not Trivet's.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.s3.nemesis import Nemesis
from tests.integration.s3.servers import S3Server, seaweedfs_s3, trivet_s3

MakeBucket = Callable[[], str]


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Another S3 server, from which buckets are moved."""
    with seaweedfs_s3(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def second_seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One more, in the place of Trivet."""
    with seaweedfs_s3(tmp_path_factory.mktemp("second-seaweedfs")) as server:
        yield server


@pytest.fixture
def s3(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    """The server that the journeys go to: the shared cluster's, or what `--s3-server` says."""
    chosen = request.config.getoption("--s3-server")
    if chosen == "seaweedfs":
        yield request.getfixturevalue("second_seaweedfs")
        return
    cluster = request.getfixturevalue("cluster")
    if chosen == "trivet":
        yield trivet_s3(cluster)
        return
    with Nemesis(cluster) as nemesis:
        yield trivet_s3(cluster, attempts=12)
    print(f"killed: {nemesis.kills}")


@pytest.fixture
def client(s3: S3Server) -> Iterator[Any]:
    """boto3 with its defaults; also what other clients' tests look at the store with."""
    with s3.client() as client:
        yield client


@pytest.fixture
def make_bucket(client: Any) -> MakeBucket:
    """Makes a bucket of this test alone and gives its name."""

    def make() -> str:
        name = f"test-{random.SystemRandom().randrange(1 << 40):010x}"
        client.create_bucket(Bucket=name)
        return name

    return make


@pytest.fixture
def bucket(make_bucket: MakeBucket) -> str:
    """A bucket of this test alone."""
    return make_bucket()


@pytest.fixture
def tree(tmp_path: Path, seed: int) -> Path:
    """A small folder as people have them: names with spaces and signs, an empty file, a nested one, times of long ago."""
    return make_tree(tmp_path / "tree", seed)


def make_tree(folder: Path, seed: int) -> Path:
    """See `tree`."""
    chance = random.Random(seed)
    files = {
        "empty.bin": b"",
        "small.txt": b"hello\n",
        "deep/er/still/one.bin": chance.randbytes(70_000),
        "with space/key=value+1 100%.bin": chance.randbytes(1000),
        "ünïcode/☃.bin": chance.randbytes(10),
        "large.bin": chance.randbytes(6 * 1024 * 1024 + 17),
    }
    for number, (name, content) in enumerate(files.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(stamp := 1_500_000_000_123_456_789 + number * 1_000_000_000, stamp))
    return folder
