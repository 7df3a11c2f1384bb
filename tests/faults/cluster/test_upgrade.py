"""The whole cluster restarted, its key changed and its leader removed under load; and what refuses to start.

docs/faults.md, "Upgrades and membership".
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import subprocess
import time
from collections.abc import Sequence

import pytest

from local_cluster.local_secrets import write_peer_keys, write_private
from shared.cluster_keys import derive_peer_keys
from shared.contracts.cluster import MembersResponse
from shared.errors import ConflictError, TrivetError
from shared.peer_calls.http_client import PeerClient
from shared.roles import Role
from tests.faults.cluster.conftest import steady_of
from tests.faults.harness.fault_cluster import CLOCK, GATEWAYS, MEMBERS, STORAGE, FaultCluster
from tests.faults.harness.trial import Trial
from tests.faults.workloads.steady import MAX_WAIT_S, Steady, failed_share

pytestmark = [
    pytest.mark.faults,
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.asyncio(loop_scope="module"),
]


async def restart(trial: Trial, names: Sequence[str]) -> None:
    """One process after the other, each ready before the next.

    After a gateway, those whom it refused have come back before the next one goes: their one retry is at the other gateway.
    """
    for name in names:
        trial.cluster.touch(name)
        await trial.cluster.restart(name)
        trial.cluster.touch(name)
        trial.note(f"restarted {name}")
        if name in GATEWAYS:
            await asyncio.sleep(MAX_WAIT_S)


async def test_r1_a_rolling_restart_of_everything_is_not_noticed(make_trial) -> None:
    """Under load; at most one request in a thousand fails after one retry."""
    trial = make_trial(Steady)
    steady = steady_of(trial)
    async with trial.load():
        await trial.wait_for_answers(40)
        began = time.monotonic()
        await restart(trial, (CLOCK, *MEMBERS, *STORAGE, *GATEWAYS))
        await trial.wait_for_answers(100)
    await trial.judge()
    requests = steady.between(began)
    print(f"{failed_share(requests):.3%} of {len(requests)} failed after one retry")
    assert failed_share(requests) <= 0.001


async def test_r8_the_cluster_key_is_changed_without_a_failure(make_trial) -> None:
    """Both keys accepted, then the new one signs, then the old one is gone: three rolling restarts under load."""
    trial = make_trial(Steady)
    steady = steady_of(trial)
    file = trial.cluster.layout.secrets / "cluster-secret"
    old, new = file.read_text().strip(), secrets.token_hex(32)
    async with trial.load():
        await trial.wait_for_answers(20)
        began = time.monotonic()
        for lines in (f"{old}\n{new}\n", f"{new}\n{old}\n", f"{new}\n"):
            write_private(file, lines)
            write_peer_keys(file.parent, lines, write_private)
            trial.peers = await replaced(trial)
            # A member, a node and a gateway at a time: what each kind can spare.
            async with asyncio.TaskGroup() as group:
                for names in ((CLOCK, *MEMBERS), STORAGE, GATEWAYS):
                    group.create_task(restart(trial, names))
    await trial.judge()
    requests = steady.between(began)
    print(f"{failed_share(requests):.3%} of {len(requests)} failed after one retry")
    assert trial.cluster.keys == derive_peer_keys(new, Role.OPERATOR)
    assert failed_share(requests) <= 0.001


async def replaced(trial: Trial) -> PeerClient:
    """The driver's own client with the keys that are in the file now."""
    await trial.peers.aclose()
    return PeerClient(trial.cluster.keys)


async def test_r7_quorums_that_cannot_hold_end_the_start(tmp_path) -> None:
    """W > N; R > N; W + R <= N, unless that is asked for by name: exit code 78 and one sentence."""
    cluster = FaultCluster(tmp_path)
    spec = cluster.plan.get(GATEWAYS[0])
    for settings, reason in (
        ({"TRIVET_REPLICA_COUNT": "3", "TRIVET_WRITE_QUORUM": "4"}, "TRIVET_WRITE_QUORUM=4"),
        ({"TRIVET_REPLICA_COUNT": "3", "TRIVET_READ_QUORUM": "4"}, "TRIVET_READ_QUORUM=4"),
        ({"TRIVET_WRITE_QUORUM": "1", "TRIVET_READ_QUORUM": "2"}, "do not overlap"),
    ):
        environment = {"PATH": "/usr/bin:/bin", **spec.environment, **settings}
        ended = await asyncio.to_thread(
            subprocess.run, spec.command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 78, ended.stderr
        assert reason in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1


async def test_r4_a_leader_that_removes_itself_is_followed_by_another(make_trial) -> None:
    """Under load, the last test of this cluster: another leads within seconds, and two members carry on."""
    trial = make_trial()
    async with trial.load():
        await trial.wait_for_answers(40)
        leader = await trial.leader()
        began = time.monotonic()
        await remove_member(trial, leader)
        await trial.leader(other_than=leader)
        await trial.wait_for_answers(20)
        trial.note(f"{leader} removed itself; another led and answered after {time.monotonic() - began:.2f} s")
        await trial.cluster.signal(leader, signal.SIGKILL)
        await trial.wait_for_answers(40)
    for workload in trial.workloads:
        await workload.read_everything()
    await trial.aclose()
    print("\n".join([*trial.log, trial.summary()]))
    assert not trial.safety_violations()


async def remove_member(trial: Trial, name: str) -> None:
    """As an operator does: again while another change is under way, or when the answer was lost."""
    async with asyncio.timeout(30):
        while True:
            leader = trial.cluster.peer(await trial.leader())
            try:
                answer = await trial.peers.call(leader, "DELETE", f"/v1/members/{name}", MembersResponse, timeout_s=5.0)
            except ConflictError:
                await asyncio.sleep(0.05)
            except TrivetError as error:
                if error.status not in {421, 503}:
                    raise
            else:
                if name not in {member.id for member in answer.members}:
                    return
