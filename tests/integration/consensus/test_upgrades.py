"""Members of two versions: what only the newer one knows is not proposed too early, and nobody guesses."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.consensus.metadata.entries import KNOWN_ENTRY_VERSION, OBJECTS_VERSION
from shared.contracts.access import BY_SYSTEM, InitAccess, ListAccessChanges, Requester
from shared.contracts.calls import Command
from shared.contracts.cluster import MemberStatus
from shared.contracts.metadata import CreateBucket, ProposalResult, ProposalResults
from shared.errors import AccessChangedError, TrivetError
from tests.integration.consensus.identities import check_identities, known_access, make_identities
from tests.integration.consensus.scene import PROGRESS_WITHIN_S, Scene, running_scene
from tests.unit.consensus.metadata.access_builders import REALM, identity_id
from tests.unit.consensus.metadata.builders import stamp

NEWER = str(Path(__file__).with_name("newer_member.py"))
BEFORE_IDENTITIES = str(Path(__file__).with_name("older_member.py"))
OLDER = 2

# Clusters start and stop several times here, and the machine may be busy.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with running_scene(tmp_path, programs={0: [NEWER], 1: [NEWER]}) as made:
        yield made


def proposal_of(command: dict[str, Any]) -> dict[str, Any]:
    requester = BY_SYSTEM.model_dump(mode="json")
    return {"request_id": secrets.token_hex(8), "requester": requester, "command": command}


async def greet(scene: Scene) -> ProposalResult:
    """Propose the newer kind at a leader that knows it."""
    members = scene.members
    # Not with the models of `newer_member`: importing it would make this process newer, too.
    command = {"kind": "greet", "name": "world", "stamp": stamp().model_dump(mode="json")}
    body = json.dumps({"proposals": [proposal_of(command)]}).encode()
    async with asyncio.timeout(PROGRESS_WITHIN_S):
        while True:
            leader = await members.leader(scene.client)
            if leader == OLDER and members.programs.get(OLDER) != [NEWER]:
                members.kill(OLDER)
                members.start(OLDER)
                continue
            try:
                return await send(scene, leader, body)
            except TrivetError:
                await asyncio.sleep(0.1)


async def propose(scene: Scene, command: Command[Any]) -> ProposalResult:
    """Propose once, at whoever leads; a client would ask again for as long as it may be taken."""
    proposal = proposal_of(command.model_dump(mode="json"))
    async with asyncio.timeout(PROGRESS_WITHIN_S):
        while True:
            try:
                return await send(
                    scene, await scene.members.leader(scene.client), json.dumps({"proposals": [proposal]}).encode()
                )
            except TrivetError:
                await asyncio.sleep(0.1)


async def send(scene: Scene, leader: int, body: bytes) -> ProposalResult:
    answer = await scene.client.request(
        scene.members.addresses[leader],
        "POST",
        "/v1/proposals",
        content=body,
        headers={"content-type": "application/json"},
        timeout_s=10.0,
    )
    return ProposalResults.model_validate_json(answer.content).results[0]


async def wait_until(scene: Scene, number: int, condition) -> MemberStatus:
    status = None
    try:
        async with asyncio.timeout(PROGRESS_WITHIN_S):
            while True:
                try:
                    status = await scene.members.status(scene.client, number)
                    if condition(status):
                        return status
                except TrivetError:
                    pass
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"consensus-{number + 1}: {status}") from None


async def restart(scene: Scene, number: int, program: list[str] | None) -> None:
    scene.members.kill(number)
    scene.members.programs.pop(number, None)
    if program is not None:
        scene.members.programs[number] = program
    scene.members.start(number)


async def test_a_new_kind_of_entry_waits_for_the_last_member(scene: Scene) -> None:
    """Refused definitely while one member does not know it; taken once all do; a member taken back says that it stops."""
    members = scene.members
    for number in (0, 1):
        await wait_until(scene, number, lambda status: status.known_entry_version == KNOWN_ENTRY_VERSION + 1)
    refused = await greet(scene)
    assert refused.problem is not None
    assert (refused.problem["code"], refused.problem["definite"]) == ("upgrade_unfinished", True)

    await restart(scene, OLDER, [NEWER])
    for number in range(3):
        await wait_until(scene, number, lambda status: status.entry_version == KNOWN_ENTRY_VERSION + 1)
    assert (await greet(scene)).result == {"greeted": "world"}

    # Back to the older version, with an entry in the log that it does not know.
    members.kill(OLDER)
    assert (await greet(scene)).result == {"greeted": "world"}
    await restart_killed(scene, OLDER)
    stopped = await wait_until(scene, OLDER, lambda status: status.stopped_applying is not None)
    assert stopped.stopped_applying is not None
    assert f"entries of version {KNOWN_ENTRY_VERSION + 1} are not known" in stopped.stopped_applying
    assert stopped.last_applied < stopped.commit_index
    with pytest.raises(TrivetError, match="upgrade it"):
        await scene.client.request(scene.members.operations(OLDER), "GET", "/readyz", timeout_s=5.0, is_public=True)

    # It does not lead, but it keeps the log: with it, one of the two others is a majority.
    async with scene.registers.load():
        await scene.wait_for_progress()
        leader = await members.leader(scene.client)
        assert leader != OLDER
        members.kill(leader)
        await scene.wait_for_progress()
        assert await members.leader(scene.client) == 1 - leader
        members.start(leader)
        await restart(scene, OLDER, [NEWER])
        await scene.wait_for_progress()
    await scene.registers.check()
    goal = (await members.status(scene.client, 1 - leader)).last_applied
    caught_up = await wait_until(scene, OLDER, lambda status: status.last_applied >= goal)
    assert caught_up.stopped_applying is None


async def test_identities_wait_for_the_last_member(tmp_path: Path) -> None:
    """While one member does not know them they are refused, and changes are taken without whom they are for."""
    async with running_scene(tmp_path, programs={OLDER: [BEFORE_IDENTITIES]}) as scene:
        consensus = scene.registers._client
        for number in range(3):
            await wait_until(scene, number, lambda status: status.entry_version == OBJECTS_VERSION - 1)
        refused = await propose(scene, InitAccess(realm=REALM, stamp=stamp()))
        assert refused.problem is not None
        assert (refused.problem["code"], refused.problem["definite"]) == ("upgrade_unfinished", True)
        nobody = Requester(principal=identity_id(1), access_index=10**6)
        await consensus.propose(CreateBucket(bucket="for-nobody", stamp=stamp()), requester=nobody)
        answer, context = await consensus.read(ListAccessChanges())
        assert (answer.realm, answer.identities, context.access_index) == (None, [], 0)

        await restart(scene, OLDER, None)
        for number in range(3):
            await wait_until(scene, number, lambda status: status.entry_version == KNOWN_ENTRY_VERSION)
        await make_identities(consensus)
        await check_identities(consensus, await known_access(consensus))
        with pytest.raises(AccessChangedError):
            await consensus.propose(CreateBucket(bucket="for-whom", stamp=stamp()), requester=nobody)
        await scene.wait_until_all_agree()


async def restart_killed(scene: Scene, number: int) -> None:
    """As the older version."""
    scene.members.programs.pop(number, None)
    scene.members.start(number)
