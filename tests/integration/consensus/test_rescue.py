"""Backup, restore and a lost majority, with real members: what was acknowledged is there, and the old cluster stays out."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.consensus.rescue.__main__ import ACCEPT_LOSS
from services.consensus.rescue.new_cluster import first_index
from shared.cluster_keys import key_file
from shared.consensus_calls.client import ConsensusClient
from shared.contracts.metadata import FileAnswer, GetFile
from shared.peer_calls.http_client import PeerClient
from shared.roles import Role
from shared.settings import EXIT_CONFIGURATION
from tests.integration.consensus.history import Registers
from tests.integration.consensus.identities import check_identities, known_access, make_identities
from tests.integration.consensus.members import REPOSITORY, Members
from tests.integration.consensus.scene import PROGRESS_WITHIN_S, Scene, running_scene
from tests.integration.consensus.test_state_hash import wait_until_level

NEW_CLUSTER = "rescued-cluster"

# Clusters start and stop several times here, and the machine may be busy.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    async with running_scene(tmp_path / "old") as made:
        yield made


async def rescue(*arguments: object, scene: Scene) -> subprocess.CompletedProcess[str]:
    """Run the command as an operator would."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(REPOSITORY),
        "TRIVET_PEER_KEYS": key_file(scene.members._secret, Role.OPERATOR),
        "TRIVET_CONSENSUS_URLS": ",".join(f"{address.id}={address.url}" for address in scene.members.addresses),
    }
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "services.consensus.rescue", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def named(members: Members) -> str:
    return ",".join(f"{member.id}={member.url}={member.peer_address}" for member in members.founders())


@asynccontextmanager
async def new_cluster(folder: Path, scene: Scene) -> AsyncIterator[tuple[Members, PeerClient, ConsensusClient]]:
    """The members of the new cluster where those of the old one were: the first with its folder, the others with none."""
    members = Members(folder, cluster_id=NEW_CLUSTER, in_place_of=scene.members)
    async with members.running(is_new=False) as (client, consensus):
        yield members, client, consensus


async def values(consensus: ConsensusClient, keys: list[str]) -> dict[str, str | None]:
    found = {}
    for key in keys:
        answer, _ = await consensus.read(GetFile(bucket="default", key=key), deadline_s=PROGRESS_WITHIN_S)
        assert isinstance(answer, FileAnswer)
        found[key] = None if answer.file is None else answer.file.etag
    return found


async def test_a_lost_majority_is_rescued_from_one_survivor(scene: Scene, tmp_path: Path) -> None:
    """Every acknowledged write and every key is there, new ones work on all members, and an old member is kept out."""
    old, target = scene.members, tmp_path / "new" / "consensus-1"
    await make_identities(scene.registers._client)
    access = await known_access(scene.registers._client)
    async with scene.registers.load():
        await scene.wait_for_progress(writes=150)
    [(last_index, _), *_] = await wait_until_level(scene)
    survivor = tmp_path / "old" / "consensus-3"
    in_use = await rescue("inspect", survivor, scene=scene)
    assert in_use.returncode == EXIT_CONFIGURATION
    assert "in use" in in_use.stdout
    await old.close()

    before = {path: path.read_bytes() for path in survivor.iterdir() if path.name != "lock"}
    arguments = ("new-cluster", "--to", target, "--cluster-id", NEW_CLUSTER, "--members", named(old), survivor)
    refused = await rescue(*arguments, scene=scene)
    assert refused.returncode == EXIT_CONFIGURATION
    assert ACCEPT_LOSS in refused.stderr
    assert not target.exists()
    same_id = await rescue(*arguments[:4], "test-cluster", *arguments[5:], ACCEPT_LOSS, scene=scene)
    assert "needs a new id" in same_id.stderr
    done = await rescue(*arguments, ACCEPT_LOSS, scene=scene)
    assert done.returncode == 0, done.stderr
    assert "MAY BE MISSING" in done.stdout
    assert {path: path.read_bytes() for path in survivor.iterdir() if path.name != "lock"} == before
    again = await rescue(*arguments, ACCEPT_LOSS, scene=scene)
    assert again.returncode == EXIT_CONFIGURATION
    assert "not empty" in again.stderr
    record = json.loads((target / "rescue.json").read_text())
    assert record["old_log_index"] >= last_index
    assert record["committed_for_certain"] <= record["old_log_index"]
    assert record["first_log_index"] == first_index(record["old_log_index"]) + 1

    async with new_cluster(tmp_path / "new", scene) as (members, client, consensus):
        rescued = Scene(members, client, consensus)
        rescued.registers = scene.registers
        rescued.registers._client = consensus
        await rescued.registers.check()
        await check_identities(consensus, access)
        async with rescued.registers.load():
            await rescued.wait_for_progress()
            # It came with an empty folder: it has everything, or this majority could not go on.
            members.kill(0)
            await rescued.wait_for_progress()
            members.start(0)
        await rescued.registers.check()
        found = await wait_until_level(rescued)
        assert len(set(found)) == 1
        assert found[0][0] > record["first_log_index"]

        members.kill(2)
        shutil.move(tmp_path / "new" / "consensus-3", tmp_path / "consensus-3")
        await an_old_member_is_kept_out(rescued, old, tmp_path)


async def an_old_member_is_kept_out(rescued: Scene, old: Members, tmp_path: Path) -> None:
    """It comes back where a member of the new cluster was: it is answered by nobody, and disturbs nobody."""
    old.start(2)
    try:
        await rescued.members.wait_until_answering(rescued.client, 2)
        async with rescued.registers.load():
            await rescued.wait_for_progress(writes=50)
        status = await rescued.members.status(rescued.client, 2)
        assert status.cluster_id == "test-cluster"
        assert status.leader_id is None
        metrics = await rescued.client.request(
            rescued.members.operations(2), "GET", "/metrics", timeout_s=5.0, is_public=True
        )
        assert b"raft_connected_peers 0.0" in metrics.content
    finally:
        old.kill(2)
    await rescued.registers.check()
    # Nor does its folder pass for one of the new cluster.
    shutil.copytree(tmp_path / "old" / "consensus-3", tmp_path / "new" / "consensus-3")
    rescued.members.start(2)
    assert rescued.members.wait_ended(2, within_s=PROGRESS_WITHIN_S) == EXIT_CONFIGURATION


async def test_a_backup_of_a_running_cluster_is_restored_into_a_new_one(scene: Scene, tmp_path: Path) -> None:
    """As of its index, whole, checked, keys included; a damaged one is refused, and so is a folder that is not empty."""
    backup, offline, target = tmp_path / "backup", tmp_path / "offline", tmp_path / "new" / "consensus-1"
    async with scene.registers.load():
        await scene.wait_for_progress(writes=100)
        under_load = await rescue("backup", "--to", tmp_path / "under-load", scene=scene)
        assert under_load.returncode == 0, under_load.stderr
    assert (await rescue("check", tmp_path / "under-load", scene=scene)).returncode == 0
    await make_identities(scene.registers._client)
    access = await known_access(scene.registers._client)
    await wait_until_level(scene)
    keys = sorted(scene.registers.history)
    expected = await values(scene.registers._client, keys)
    made = await rescue("backup", "--to", backup, scene=scene)
    assert made.returncode == 0, made.stderr
    manifest = json.loads((backup / "manifest.json").read_text())
    lines = (backup / "chunks.txt").read_text().splitlines()
    assert lines == sorted(set(lines))
    assert len(lines) == manifest["chunk_count"] >= len([value for value in expected.values() if value])
    assert (await rescue("backup", "--to", backup, scene=scene)).returncode == EXIT_CONFIGURATION, "overwritten"

    async with scene.registers.load():
        await scene.wait_for_progress(writes=50)
    await scene.members.close()
    from_folder = await rescue("backup", "--from", tmp_path / "old" / "consensus-2", "--to", offline, scene=scene)
    assert from_folder.returncode == 0, from_folder.stderr
    assert json.loads((offline / "manifest.json").read_text())["log_index"] > manifest["log_index"]

    arguments = ("--cluster-id", NEW_CLUSTER, "--members", named(scene.members))
    for name in ("metadata.sqlite", "chunks.txt", "manifest.json"):
        damaged = tmp_path / f"damaged-{name}"
        shutil.copytree(backup, damaged)
        raw = bytearray((damaged / name).read_bytes())
        raw[len(raw) // 2] ^= 1
        (damaged / name).write_bytes(raw)
        refused = await rescue("restore", "--from", damaged, "--to", target, *arguments, scene=scene)
        assert refused.returncode == EXIT_CONFIGURATION, name
        assert not target.exists()
    target.mkdir()
    (target / "something").touch()
    refused = await rescue("restore", "--from", backup, "--to", target, *arguments, scene=scene)
    assert "not empty" in refused.stderr
    (target / "something").unlink()
    restored = await rescue("restore", "--from", backup, "--to", target, *arguments, scene=scene)
    assert restored.returncode == 0, restored.stderr
    assert f"after log index {manifest['log_index']}" in restored.stdout

    async with new_cluster(tmp_path / "new", scene) as (members, client, consensus):
        assert await values(consensus, keys) == expected
        await check_identities(consensus, access)
        rescued = Scene(members, client, consensus)
        rescued.registers = Registers(consensus, seed=rescued.registers.seed, prefix="new")
        async with rescued.registers.load():
            await rescued.wait_for_progress()
        await rescued.registers.check()
        found = await wait_until_level(rescued)
        assert len(set(found)) == 1
        assert found[0][0] > first_index(manifest["log_index"])
