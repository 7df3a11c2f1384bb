"""D11 where it hurts most: the two members that are left both have a damaged log. They must not make a cluster that forgot."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.harness.fault_cluster import GATEWAYS, MEMBERS, running_cluster
from tests.faults.harness.trial import Trial

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(600)]

FILES = 40


async def test_d11_two_damaged_logs_are_no_majority_that_forgot(tmp_path, seed) -> None:
    """A byte of one entry in the middle is wrong on two members, the third is off: both stop, and no answer is wrong."""
    async with running_cluster(tmp_path, seed=seed) as (cluster, network):
        trial = Trial(cluster, network, seed)
        async with trial.by_hand() as client:
            for number in range(FILES):
                assert (await client.call(GATEWAYS[0], "PUT", f"file-{number}", body=b"%d" % number)).status == 201
            await asyncio.to_thread(cluster.kill_all, MEMBERS)
            for name in MEMBERS[:2]:
                await asyncio.to_thread(damage_entry, cluster.layout.data_dir(name), FILES // 2)
                cluster.launch(name)
            ends = time.monotonic() + 15
            answers = set()
            while time.monotonic() < ends:
                for number in (0, FILES // 2, FILES - 1):
                    reply = await client.call(GATEWAYS[1], "GET", f"file-{number}")
                    answers.add(reply.status)
                    assert reply.status in {200, 503}, (
                        f"entries are gone: file-{number} was acknowledged and is {reply}"
                    )
                    assert reply.status == 503 or reply.body == b"%d" % number
                await asyncio.sleep(0.1)
            running = [name for name in MEMBERS if cluster.pid(name)]
            print(f"answers: {answers}")
            assert running == [], f"entries are gone, and these go on: {running}"


def damage_entry(folder: Path, back: int) -> None:
    """Flip one bit of the payload of the entry that is `back` before the last."""
    (path,) = folder.glob("**/raft_log.sqlite")
    with closing(sqlite3.connect(path)) as log, log:
        last = log.execute("SELECT max(position) FROM entries").fetchone()[0]
        payload = bytearray(log.execute("SELECT payload FROM entries WHERE position=?", (last - back,)).fetchone()[0])
        payload[len(payload) // 2] ^= 1
        log.execute("UPDATE entries SET payload=? WHERE position=?", (bytes(payload), last - back))
