"""Faults composed at random: a plan is a pure function of its seed, and is then carried out on a trial.

Nothing is spared and nothing is kept within what the cluster can carry: a plan may take two members, three nodes and both
gateways at once. What is promised then is safety and honest refusals; progress is promised after the healing.
"""

from __future__ import annotations

import asyncio
import random
import signal
from dataclasses import dataclass
from typing import Final

from local_cluster.errors import LocalClusterError
from tests.faults.harness.fault_cluster import CLOCK, GATEWAYS, MEMBERS, REDIS, STORAGE
from tests.faults.harness.network import CUT, Weather
from tests.faults.harness.trial import Trial, ViolationError

LEADER: Final = "leader"
_EVERYBODY: Final = (*MEMBERS, *STORAGE, *REDIS, *GATEWAYS, CLOCK)

PROCESS_FAULTS: Final = ("kill", "stop", "terminate", "crash loop")
LINK_FAULTS: Final = (
    "isolate",
    "cannot call",
    "cannot be called",
    "lost replies",
    "lost requests",
    "late",
    "very late",
    "narrow",
    "wrong bits",
    "reset",
    "half-open",
)
GROUP_FAULTS: Final = ("kill all members", "kill all storage", "kill everything", "cut gateways from members", "split")
_TARGETS: Final = (
    (LEADER, 4),
    *((name, 1) for name in MEMBERS),
    *((name, 1.5) for name in STORAGE),
    *((name, 0.75) for name in REDIS),
    *((name, 0.75) for name in GATEWAYS),
    (CLOCK, 0.75),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One fault, from `at_s` after the beginning for `lasts_s`."""

    at_s: float
    lasts_s: float
    fault: str
    target: str

    def __str__(self) -> str:
        return f"{self.fault} {self.target} for {self.lasts_s:.1f} s"


def compose(seed: int, duration_s: float) -> list[Step]:
    """A plan: about one fault every three seconds, some of them at the same time."""
    draw = random.Random(f"plan {seed}")
    names, weights = zip(*_TARGETS, strict=True)
    plan: list[Step] = []
    at_s = draw.uniform(1.0, 3.0)
    while at_s < duration_s - 2:
        lasts_s = min(draw.uniform(0.3, 8.0), duration_s - at_s)
        chance = draw.random()
        target = draw.choices(names, weights)[0]
        if chance < 0.12:
            plan.append(Step(at_s, lasts_s, draw.choice(GROUP_FAULTS), "-"))
        elif chance < 0.5:
            plan.append(Step(at_s, lasts_s, draw.choice(PROCESS_FAULTS), target))
        else:
            # Redis and the clock call nobody, and clients reach gateways over links that are not ours to break.
            plan.append(Step(at_s, lasts_s, draw.choice(LINK_FAULTS), target))
        at_s += draw.uniform(0.5, 5.5)
    return plan


class Nemesis:
    """Carries a plan out on one trial."""

    def __init__(self, trial: Trial, plan: list[Step]) -> None:
        self._trial = trial
        self._cluster = trial.cluster
        self._network = trial.network
        self._plan = plan

    async def run(self) -> None:
        """Every step at its time; returns after the last one ended."""
        async with asyncio.TaskGroup() as group:
            for step in self._plan:
                group.create_task(self._one(step))

    async def _one(self, step: Step) -> None:
        await asyncio.sleep(step.at_s)
        target = await self._resolve(step)
        self._trial.note(f"{step}" + (f" ({target})" if step.target == LEADER else ""))
        if step.fault in PROCESS_FAULTS:
            await self._break_process(step, target)
        elif step.fault in LINK_FAULTS:
            await self._break_links(step, target)
        else:
            await self._break_group(step)

    async def _resolve(self, step: Step) -> str:
        if step.target != LEADER:
            return step.target
        try:
            return await self._trial.leader(within_s=1.0)
        except ViolationError:
            return MEMBERS[int(step.at_s * 1000) % len(MEMBERS)]

    async def _break_process(self, step: Step, name: str) -> None:
        if step.fault == "stop":
            await self._cluster.signal(name, signal.SIGSTOP)
            await asyncio.sleep(step.lasts_s)
            self._cluster.touch(name)
            self._cluster.resume(name)
        elif step.fault == "crash loop":
            # By count and not by time: a busy machine makes it longer, and never an error.
            for _ in range(max(1, int(step.lasts_s / 2))):
                await self._cluster.signal(name, signal.SIGKILL)
                await self._launch(name)
                await asyncio.sleep(1.5)
        else:
            await self._cluster.signal(name, signal.SIGKILL if step.fault == "kill" else signal.SIGTERM)
            # One that is still ending is not started again, and would be away for the rest of the run.
            await asyncio.gather(self._cluster.wait_until_ended(name), asyncio.sleep(step.lasts_s))
            await self._launch(name)

    async def _break_links(self, step: Step, name: str) -> None:
        others = [other for other in _EVERYBODY if other != name]
        if step.fault in {"reset", "half-open"}:
            act = self._network.reset if step.fault == "reset" else self._network.half_open
            for other in others:
                act(name, other)
                act(other, name)
            return
        outgoing, incoming = _weathers(step.fault, name)
        if step.fault == "wrong bits" and name not in {*STORAGE, *REDIS}:
            # Frames between members carry a keyed sum. HTTP to them does not, but for the body: see the README, wrong bits.
            others = [other for other in MEMBERS if other != name]
        if outgoing is not None:
            self._network.set([name], others, outgoing)
        if incoming is not None:
            self._network.set(others, [name], incoming)
        await asyncio.sleep(step.lasts_s)
        if outgoing is not None:
            self._network.clear([name], others)
        if incoming is not None:
            self._network.clear(others, [name])

    async def _break_group(self, step: Step) -> None:
        if step.fault.startswith("kill"):
            names = {"kill all members": MEMBERS, "kill all storage": STORAGE}.get(step.fault, list(_EVERYBODY))
            for name in names:
                self._cluster.touch(name)
            await asyncio.to_thread(self._cluster.kill_all, names)
            await asyncio.sleep(min(step.lasts_s, 2.0))
            for name in names:
                await self._launch(name)
            return
        one_side: list[str] = [*GATEWAYS]
        other_side: list[str] = [*MEMBERS]
        if step.fault == "split":
            # One gateway, one member and two nodes on the smaller side.
            smaller = {GATEWAYS[0], MEMBERS[0], *STORAGE[:2], *REDIS[:2]}
            one_side, other_side = sorted(smaller), [name for name in _EVERYBODY if name not in smaller]
        self._network.cut(one_side, other_side)
        await asyncio.sleep(step.lasts_s)
        self._network.clear(one_side, other_side)
        self._network.clear(other_side, one_side)

    async def _launch(self, name: str) -> None:
        try:
            await asyncio.to_thread(self._cluster.launch, name)
        except LocalClusterError as error:
            # Another step holds it, or it is still ending; the healing starts whatever does not run.
            self._trial.note(f"{name} was not started: {error}")


def _weathers(fault: str, name: str) -> tuple[Weather | None, Weather | None]:
    """What happens to (the links that `name` calls over, the links on which it is called)."""
    # Answers carry no signature, so only those that are checked against a digest can be changed on the way.
    wrong_bits = Weather(corrupts_one_in_bytes=20_000, corrupts_answers=name in {*STORAGE, *REDIS})
    return {
        "isolate": (CUT, CUT),
        "cannot call": (CUT, None),
        "cannot be called": (None, CUT),
        "lost replies": (None, Weather(loses_answers=True)),
        "lost requests": (None, Weather(loses_requests=True)),
        "late": (Weather(delay_s=0.025, jitter_s=0.05), Weather(delay_s=0.025, jitter_s=0.05)),
        "very late": (Weather(delay_s=0.5, jitter_s=1.0), Weather(delay_s=0.5, jitter_s=1.0)),
        "narrow": (Weather(bytes_per_s=125_000), Weather(bytes_per_s=125_000)),
        "wrong bits": (None, wrong_bits),
    }[fault]
