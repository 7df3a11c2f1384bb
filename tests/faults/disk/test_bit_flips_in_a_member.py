"""D11: one bit flips in a file of one consensus member; the cluster never loses or changes what it acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from shared.consensus_calls.client import ConsensusClient
from shared.contracts.metadata import FileAnswer, GetFile
from shared.errors import LeaderUnavailableError
from shared.peer_calls.http_client import PeerClient
from tests.faults.disk.member_disks import QUICK
from tests.faults.tools.bit_rot import flip_bit
from tests.integration.consensus.history import Registers
from tests.integration.consensus.members import Members
from tests.integration.consensus.scene import Scene

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

_START_WITHIN_S = 120.0
_HALTED = {70, 78}
"""EXIT_NOT_DURABLE and EXIT_CONFIGURATION: it ended by itself and said why."""


@dataclass(frozen=True, slots=True)
class Flip:
    victim: int
    path: Path
    offset: int
    bit: int


class FlipStage:
    """Three members with a past; every trial begins with a copy of that past."""

    def __init__(self, members: Members, client: PeerClient, consensus: ConsensusClient, folder: Path) -> None:
        self._members = members
        self._client = client
        self._consensus = consensus
        self._folder = folder
        self._past = folder / "past"
        self._known: dict[str, str | None] = {}

    async def make_a_past(self, seed: int) -> None:
        """Some hundred operations; then every member is killed as it is."""
        scene = Scene(self._members, self._client, self._consensus)
        scene.registers = Registers(self._consensus, seed=seed)
        async with scene.registers.load():
            await scene.wait_for_progress(writes=120)
        await scene.registers.check()
        await scene.wait_until_all_agree()
        self._known = {key: operations[-1].value for key, operations in scene.registers.history.items()}
        self._kill_all()
        for number in range(3):
            shutil.copytree(self._data(number), self._past / str(number))

    def choose(self, draw: random.Random) -> Flip:
        """A file, whatever its size, then a byte of it: every other time one that says something."""
        victim = draw.randrange(3)
        files = sorted(path for path in (self._past / str(victim)).iterdir() if path.stat().st_size > 0)
        path = draw.choice(files)
        body = path.read_bytes()
        told = [at for at, byte in enumerate(body) if byte] if draw.random() < 0.5 else []
        offset = draw.choice(told or range(len(body)))
        return Flip(victim, self._data(victim) / path.name, offset, draw.randrange(8))

    async def play(self, flip: Flip, seed: int) -> str:
        """What became of the victim: halted, refused by the others, or well."""
        for number in range(3):
            shutil.rmtree(self._data(number))
            shutil.copytree(self._past / str(number), self._data(number))
        flip_bit(flip.path, flip.offset, flip.bit)
        for number in range(3):
            self._members.start(number)
        await self._wait_until_one_leads()
        scene = Scene(self._members, self._client, self._consensus)
        scene.registers = Registers(self._consensus, seed=seed, prefix=f"after-{seed}")
        async with scene.registers.load():
            await scene.wait_for_progress(writes=5)
            # The one that leads is taken away, so that the victim may win and is needed for every majority.
            leader = await self._members.leader(self._client)
            absent = leader if leader != flip.victim else (flip.victim + 1) % 3
            self._members.kill(absent)
            await self._wait_for_progress_or_halt(scene, flip.victim)
            self._members.start(absent)
            await scene.wait_for_progress(writes=5)
        await scene.registers.check()
        for key, etag in self._known.items():
            answer, _ = await self._consensus.read(GetFile(bucket="default", key=key), deadline_s=30)
            assert isinstance(answer, FileAnswer)
            found = None if answer.file is None else answer.file.etag
            assert found == etag, f"{key} was {etag} and is {found}"
        fate = await self._fate(scene, flip.victim)
        self._kill_all()
        return fate

    async def _wait_until_one_leads(self) -> None:
        """The two that are well are a majority; on a busy machine their start alone takes a while."""
        async with asyncio.timeout(_START_WITHIN_S):
            while True:
                with contextlib.suppress(LeaderUnavailableError):
                    await self._consensus.read(GetFile(bucket="default", key="none"), deadline_s=10)
                    return

    async def _wait_for_progress_or_halt(self, scene: Scene, victim: int) -> None:
        before = scene.registers.counts["writes"]
        async with asyncio.timeout(_START_WITHIN_S):
            while scene.registers.counts["writes"] < before + 5:
                if self._members.exit_code(victim) is not None or await self._is_out_of_service(victim):
                    return
                await asyncio.sleep(0.05)

    async def _fate(self, scene: Scene, victim: int) -> str:
        code = self._members.exit_code(victim)
        if code is not None:
            assert code in _HALTED, f"the victim ended with {code}"
            return "halted"
        if await self._is_out_of_service(victim):
            return "out of service"
        await scene.wait_until_all_agree()
        return "well"

    async def _is_out_of_service(self, victim: int) -> bool:
        """It says that it must be replaced, and takes no part."""
        try:
            answer = await asyncio.to_thread(httpx.get, f"{self._members.operations(victim).url}/readyz", timeout=5)
        except httpx.TransportError:
            return False
        return any("new id" in reason or "rebuild" in reason for reason in answer.json().get("reasons", []))

    def _data(self, number: int) -> Path:
        return self._folder / f"consensus-{number + 1}"

    def _kill_all(self) -> None:
        for number in range(3):
            self._members.kill(number)


async def test_a_flipped_bit_in_one_member_changes_nothing_that_was_acknowledged(tmp_path, seed, repetitions):
    """It halts, is refused or goes on rightly; it never wins with a shortened log, and every read is right."""
    draw = random.Random(seed)
    members = Members(tmp_path)
    for number in range(3):
        members.settings[number] = dict(QUICK)
    fates: Counter[str] = Counter()
    async with members.running() as (client, consensus):
        stage = FlipStage(members, client, consensus, tmp_path)
        await stage.make_a_past(seed)
        for _ in range(repetitions(3, 50)):
            flip = stage.choose(draw)
            print(flip, end=" ", flush=True)
            fate = await stage.play(flip, draw.randrange(1 << 32))
            print(fate, flush=True)
            fates[f"{flip.path.name}: {fate}"] += 1
    print(dict(fates))
