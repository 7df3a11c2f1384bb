"""Random events of membership and failure under load, one seed: nothing acknowledged is lost, and all of it comes to rest.

    python -m tests.faults.membership --events 100
    python -m tests.faults.membership --events 100 --seed 12345   the same events again

Nodes are drained, removed, admitted again, killed, wiped, restarted and paused, and so is the leader. Only what destroys
bytes waits until every chunk has all its replicas again: a write is made for the loss of one node, not of two at once.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Final

from tests.faults.harness.ended_by_signals import INTERRUPTED, run_until_told
from tests.faults.harness.fault_cluster import STORAGE, running_cluster
from tests.faults.harness.operator import QUICK, Operator
from tests.faults.harness.trial import Trial
from tests.faults.workloads.archive import Archive

REPLICA_COUNT: Final = 3
EVENTS: Final = {
    "restart": 3,
    "kill": 3,
    "pause": 3,
    "wipe": 2,
    "drain": 2,
    "add": 3,
    "cancel a drain": 1,
    "kill the leader": 1,
    "pause the leader": 1,
}


class Membership:
    """Carries out events on one cluster; `counts` says which."""

    def __init__(self, trial: Trial, operator: Operator, seed: int) -> None:
        self._trial = trial
        self._cluster = trial.cluster
        self._operator = operator
        self._draw = random.Random(f"membership {seed}")
        self._events = 0
        self.counts: Counter[str] = Counter()

    async def run(self, events: int) -> None:
        """So many events, one after the other; some have their end later, when others have begun."""
        acts = {
            "restart": self._restart,
            "kill": self._kill,
            "pause": self._pause,
            "wipe": self._wipe,
            "drain": self._drain,
            "add": self._add,
            "cancel a drain": self._cancel_drain,
            "kill the leader": self._kill_leader,
            "pause the leader": self._pause_leader,
        }
        self._events = events
        while self.counts.total() < events:
            name = self._draw.choices(list(EVENTS), list(EVENTS.values()))[0]
            if await acts[name]():
                self.counts[name] += 1
            await asyncio.sleep(self._draw.uniform(0.2, 2.0))

    async def _restart(self) -> bool:
        node = await self._one()
        self._note(f"restart {node}")
        await self._cluster.signal(node, signal.SIGTERM)
        await self._cluster.wait_until_ended(node)
        await self._cluster.bring_back([node])
        return True

    async def _kill(self) -> bool:
        node = await self._one()
        self._note(f"kill {node}")
        await self._cluster.signal(node, signal.SIGKILL)
        # Sometimes it comes back before anybody knows, sometimes after others took its place.
        await asyncio.sleep(self._draw.choice([0.5, 3.0, 10.0]))
        await self._cluster.bring_back([node])
        return True

    async def _pause(self) -> bool:
        await self._stop_and_continue(await self._one())
        return True

    async def _wipe(self) -> bool:
        node = await self._one()
        await self._operator.wait_for_replicas()
        self._note(f"wipe {node}")
        await self._operator.wipe(node)
        await asyncio.sleep(self._draw.choice([0.0, 10.0]))
        await self._cluster.bring_back([node, node.replace("storage", "redis")])
        self._note(f"all replicas {await self._operator.wait_for_replicas():.1f} s later")
        return True

    async def _drain(self) -> bool:
        states = await self._operator.admitted()
        if len(states) <= REPLICA_COUNT:
            return False
        node = self._draw.choice(sorted(states))
        answer = await self._operator.ask("DELETE", f"/v1/cluster/nodes/{node}")
        self._note(f"drain {node}: {answer.status_code} {answer.text[:80]}")
        if answer.status_code == 202 and self._draw.random() < 0.6:
            self._note(f"{node} was removed {await self._operator.wait_until_gone(node):.1f} s later")
        return answer.status_code == 202

    async def _cancel_drain(self) -> bool:
        draining = [node for node, state in (await self._operator.admitted()).items() if state == "draining"]
        if not draining:
            return False
        answer = await self._operator.ask("DELETE", f"/v1/cluster/nodes/{draining[0]}/drain")
        self._note(f"cancel the drain of {draining[0]}: {answer.status_code}")
        return answer.status_code == 204

    async def _add(self) -> bool:
        """One that was removed is admitted again, with what it had on its disk or with nothing."""
        removed = sorted(set(STORAGE) - set(await self._operator.admitted()))
        if not removed:
            return False
        node = self._draw.choice(removed)
        if is_wiped := self._draw.random() < 0.5:
            await self._operator.wipe(node)
        answer = await self._operator.ask("POST", "/v1/cluster/nodes", json={"id": node})
        self._note(f"add {node}, {'wiped' if is_wiped else 'as it was'}: {answer.status_code}")
        await self._cluster.bring_back([node, node.replace("storage", "redis")])
        await self._operator.wait_for_state(node, "active")
        return True

    async def _kill_leader(self) -> bool:
        leader = await self._trial.leader()
        self._note(f"kill {leader}, which leads")
        await self._cluster.signal(leader, signal.SIGKILL)
        await self._trial.leader(other_than=leader)
        await self._cluster.bring_back([leader])
        return True

    async def _pause_leader(self) -> bool:
        await self._stop_and_continue(await self._trial.leader())
        return True

    async def _stop_and_continue(self, name: str) -> None:
        self._note(f"pause {name}")
        await self._cluster.signal(name, signal.SIGSTOP)
        await asyncio.sleep(self._draw.choice([1.0, 4.0, 10.0]))
        self._cluster.touch(name)
        self._cluster.resume(name)

    async def _one(self) -> str:
        return self._draw.choice(sorted(await self._operator.admitted()))

    def _note(self, text: str) -> None:
        self._trial.note(f"event {self.counts.total() + 1} of {self._events}: {text}")


async def one_run(folder: Path, seed: int, events: int) -> str:
    """A fresh cluster under load, the events, and then everything that must be true at rest; a summary.

    Raises:
        AssertionError: something was lost, or does not come to rest.
    """
    async with running_cluster(folder, seed=seed, overrides=QUICK) as (cluster, network):
        trial = Trial(cluster, network, seed, workloads=[Archive], say=partial(print, flush=True))
        operator = Operator(cluster)
        membership = Membership(trial, operator, seed)
        try:
            async with trial.load():
                await trial.wait_for_answers(20)
                await membership.run(events)
            await finish(trial, operator)
        finally:
            await trial.aclose()
        return f"{dict(membership.counts)}; {trial.summary()}"


async def finish(trial: Trial, operator: Operator) -> None:
    """Heal everything, end every drain, and hold the cluster against what clients were told."""
    await trial.heal()
    await trial.converge()
    for node, state in (await operator.admitted()).items():
        if state == "draining":
            trial.note(f"{node} was removed {await operator.wait_until_gone(node):.1f} s later")
    trial.note(f"all replicas after {await operator.wait_for_replicas():.1f} s")
    (archive,) = trial.workloads
    assert isinstance(archive, Archive)
    await archive.read_everything()
    assert not archive.violations(), archive.violations()[:8]
    # `converge` keeps one small file in the same bucket.
    expected = REPLICA_COUNT * (sum(archive.chunk_sizes_bytes) + len(b"yes"))
    trial.note(f"nothing else is held after {await operator.wait_for_held_bytes(expected):.1f} s")
    report = await operator.verify()
    counts = {name: report[f"{name}_chunks"] for name in ("missing", "bad", "surplus", "orphaned")}
    trial.note(f"verify: {report['checked_chunks']} replicas checked, {counts}")
    assert report["is_clean"] is True, report
    assert not any(counts.values()), report
    assert report["checked_chunks"] == REPLICA_COUNT * (len(archive.chunk_sizes_bytes) + 1), report


def main() -> int:
    """Entry point; 1 when something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.membership", description=__doc__)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    folder = Path(tempfile.mkdtemp(prefix=f"trivet-membership-{seed}-"))
    print(f"seed {seed}, {arguments.events} events; logs and data: {folder}", flush=True)
    try:
        print(run_until_told(one_run(folder, seed, arguments.events)))
    except KeyboardInterrupt:
        print(f"interrupted; the cluster has ended. Logs and data: {folder}", file=sys.stderr)
        return INTERRUPTED
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
