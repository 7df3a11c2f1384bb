"""P5 for storage: SIGKILL before every fsync, rename and unlink of a node's work, then a power cut, then the truth."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from shared.units import MIB
from tests.faults.disk.crash_stage import CrashStage
from tests.faults.disk.node_on_disk import NodeOnDisk
from tests.faults.tools.needs import require

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

ATTEMPTS = 5
"""Calls are counted by thread, and which of some threads makes one differs from life to life."""


@pytest.mark.parametrize("mode", ["disk", "tiered"])
async def test_a_crash_at_any_durable_step_breaks_no_promise(mode, mounts, seed, repetitions):
    """Start with adoption, put, flush, quarantine, raise of a start index, delete, stop: at each call in turn."""
    require("strace")
    machine = NodeOnDisk(mounts, mounts.loop_disk(256 * MIB), mode, TRIVET_FLUSH_INTERVAL_S="0.05")
    stage = CrashStage(machine, seed)
    await stage.set_up()
    points = await stage.reference()
    kinds = Counter(point.kind for point in points)
    print(f"{len(points)} calls of {len(kinds)} kinds: {dict(kinds)}")
    draw = random.Random(seed)
    # In a short run some kinds once, drawn anew each time; in a full one each call ten times.
    some = [draw.choice([point for point in points if point.kind == kind]) for kind in sorted(kinds)]
    chosen = points * repetitions(0, 10) or draw.sample(some, 3)
    reached: Counter[str] = Counter()
    for number, point in enumerate(chosen, 1):
        for _ in range(repetitions(ATTEMPTS, 1)):
            if was_reached := await stage.crash(point):
                break
        reached[point.kind] += was_reached
        print(
            f"{number}/{len(chosen)} {point.kind} #{point.nth}: {'crashed' if was_reached else 'not reached'}",
            flush=True,
        )
    print(f"{reached.total()} crashes of {len(chosen)} tried: {dict(reached)}")
    missed = [point.kind for point in chosen if not reached[point.kind]]
    assert not missed, "a kind of call was never reached"
    assert reached.total() >= 0.9 * len(chosen)
