"""The audit trail over real members: one chain on all of them, with every acknowledged change in it, once."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

from services.consensus.persistence.state_files import StateFiles
from shared.audit_chain import ChainPoint, follow
from shared.contracts.access import Requester
from shared.contracts.audit import ListAudit
from tests.integration.consensus.scene import PROGRESS_WITHIN_S, Scene, running_scene
from tests.integration.consensus.test_membership import assert_caught_up
from tests.integration.consensus.test_snapshots import SHORT_LOG, installations, outrun
from tests.simulation.linearizability import NEVER
from tests.waiting import wait_until

REQUESTER = Requester(principal="anonymous", address="192.0.2.7")


async def exported(scene: Scene) -> list[dict[str, Any]]:
    """All rows, over pages that follow each other."""
    point, rows = ChainPoint(), []
    while True:
        page, _ = await scene.consensus.read(ListAudit(after=point.index, limit=100), deadline_s=20)
        assert (page.begin.index, page.begin.link) == (point.index, point.link.hex())
        lines = page.lines.encode().splitlines()
        if not lines:
            assert (page.head.index, page.head.link) == (point.index, point.link.hex())
            return rows
        point = follow(point, lines)
        rows += [json.loads(line)["row"] for line in lines]


async def wait_until_upgraded(scene: Scene) -> None:
    """Before that, members of older versions might not know of requesters."""

    async def is_upgraded() -> bool:
        return all([(await scene.members.status(scene.client, number)).entry_version >= 4 for number in range(3)])

    await wait_until(is_upgraded, "entries of version 4 are in force", PROGRESS_WITHIN_S)


def table_of(folder: Path) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(StateFiles(folder).current)
    try:
        return connection.execute("SELECT * FROM audit ORDER BY log_index").fetchall()
    finally:
        connection.close()


async def test_three_members_have_one_trail_with_every_acknowledged_change(tmp_path: Path) -> None:
    """After kills, cut links and a snapshot under load: row by row the same, and nobody's change is missing or there twice."""
    async with running_scene(tmp_path, SHORT_LOG) as scene:
        members, registers = scene.members, scene.registers
        registers.requester = REQUESTER
        await wait_until_upgraded(scene)
        async with registers.load():
            await scene.wait_for_progress()
            members.kill(2)
            await outrun(scene, 2)
            members.start(2)
            await assert_caught_up(scene, 2, within_s=60)
            for number in (0, 1):
                members.isolate(number)
                await scene.wait_for_progress()
                members.cuts.heal()
                members.kill(number)
                await scene.wait_for_progress()
                members.start(number)
            for number in range(3):
                members.kill(number)
            for number in range(3):
                members.start(number)
            await scene.wait_for_progress()
        await registers.check()
        await scene.wait_until_all_agree()
        rows = await exported(scene)
        assert installations(scene, 2), "it caught up without a snapshot"
        for number in range(3):
            members.kill(number)
    tables = [table_of(tmp_path / f"consensus-{number}") for number in (1, 2, 3)]
    assert tables[0] == tables[1] == tables[2]
    assert len(tables[0]) == len(rows)
    made = Counter(row["request"] for row in rows if row["outcome"] == "ok")
    assert set(made.values()) == {1}
    acknowledged = {
        operation.value
        for operations in registers.history.values()
        for operation in operations
        if operation.is_write and operation.returned_at < NEVER
    }
    assert len(acknowledged) > 100
    assert acknowledged <= made.keys(), f"seed {registers.seed}"
