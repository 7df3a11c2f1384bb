"""A restore gives each node what it lacks, and believes what nodes have read, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.consensus.backup.copying import CopyPace, copy_chunks
from services.consensus.backup.restoring import Restored, restore_chunks
from services.consensus.backup.targets import FolderTarget
from shared.errors import PeerUnreachableError
from tests.chance import random_bytes
from tests.unit.consensus.backup.fakes import FakeSource, digest_of, write_list

BODIES = [random_bytes(100 + number) for number in range(10)]
NODES = ("s1", "s2", "s3")


class FakeCluster:
    """Three nodes that are to hold everything. `rotten` ones store other bytes than they are given; `away` ones nothing."""

    def __init__(self) -> None:
        self.disks: dict[str, dict[str, bytes]] = {name: {} for name in NODES}
        self.rotten: set[str] = set()
        self.away: set[str] = set()

    async def look(self) -> None:
        pass

    def holders(self, _: str) -> list[Any]:
        return [SimpleNamespace(id=name) for name in NODES]

    async def put(self, node: Any, digest: str, body: bytes) -> None:
        if node.id in self.away:
            raise PeerUnreachableError(f"{node.id} is away")
        self.disks[node.id][digest] = body[:-1] if node.id in self.rotten else body

    async def held(self, digests: Sequence[str], *, verify: bool) -> dict[str, set[str]]:
        return {
            digest: {
                name
                for name, disk in self.disks.items()
                if digest in disk and (not verify or digest_of(disk[digest]) == digest)
            }
            for digest in digests
        }


@pytest.fixture
async def backup(tmp_path: Path) -> tuple[Path, FolderTarget]:
    folder, target = tmp_path / "snapshot", FolderTarget(tmp_path / "target")
    write_list(folder, BODIES)
    await copy_chunks(folder, FakeSource(BODIES), target, parallel=2, pace=CopyPace(0))
    return folder, target


async def restore(backup: tuple[Path, FolderTarget], cluster: Any) -> Restored:
    return await restore_chunks(*backup, cluster, parallel=4)


async def test_every_node_gets_what_it_lacks_and_no_more(backup) -> None:
    """Doing it again puts nothing."""
    cluster = FakeCluster()
    cluster.disks["s1"] = {digest_of(body): body for body in BODIES[:4]}
    restored = await restore(backup, cluster)
    assert (restored.chunks, restored.replicas, restored.unproved) == (10, 26, {})
    assert all(disk == {digest_of(body): body for body in BODIES} for disk in cluster.disks.values())
    assert (await restore(backup, cluster)).replicas == 0


async def test_what_a_node_has_not_proved_is_named(backup) -> None:
    """It acknowledged, and the bytes are others."""
    cluster = FakeCluster()
    cluster.rotten.add("s2")
    restored = await restore(backup, cluster)
    assert set(restored.unproved) == set(map(digest_of, BODIES))
    assert set(restored.unproved.values()) == {"not proved by s2"}


async def test_a_node_that_is_away_stops_nobody_else(backup) -> None:
    """The others have everything; what is missing is said."""
    cluster = FakeCluster()
    cluster.away.add("s3")
    restored = await restore(backup, cluster)
    assert len(restored.unproved) == len(BODIES)
    assert [len(cluster.disks[name]) for name in NODES] == [10, 10, 0]


async def test_bytes_that_are_not_what_their_name_says_are_not_restored(backup) -> None:
    """Whoever changed them."""
    _, target = backup
    name = f"chunks/{digest_of(BODIES[0])[:2]}/{digest_of(BODIES[0])}"
    await target.put(name, b"x" * len(BODIES[0]))
    cluster = FakeCluster()
    restored = await restore(backup, cluster)
    assert restored.unproved == {digest_of(BODIES[0]): "the backup has other bytes under its name"}
    assert not any(digest_of(BODIES[0]) in disk for disk in cluster.disks.values())
