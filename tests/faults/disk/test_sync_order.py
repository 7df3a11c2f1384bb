"""Nothing is durable before it is synced, in the right order: read off the system calls of real processes.

A power cut cannot show all of it: on ext4 any fsync commits the whole journal, so a forgotten fsync of a directory is made good
by the next one of the catalog. Other file systems promise no such thing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.harness.fault_cluster import GATEWAYS, MEMBERS, running_cluster
from tests.faults.harness.trial import Trial
from tests.faults.tools.needs import require
from tests.faults.tools.strace import TracedCall, read_trace, recorder

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(600)]

_SYNCS = {"fsync", "fdatasync"}
_RENAMES = {"rename", "renameat", "renameat2"}


async def test_names_and_votes_are_synced_before_anybody_hears_of_them(tmp_path, seed) -> None:
    """Every chunk file and every vote: its bytes synced before it gets its name, and the folder after."""
    require("strace")
    traces = {name: tmp_path / f"{name}.trace" for name in ("storage-1", *MEMBERS)}
    wrappers = {name: recorder(trace) for name, trace in traces.items()}
    draw = random.Random(seed)
    async with running_cluster(tmp_path / "cluster", seed=seed, wrappers=wrappers) as (cluster, network):
        trial = Trial(cluster, network, seed)
        async with trial.by_hand() as client:
            for number in range(12):
                body = draw.randbytes(300_000)
                assert (await client.call(GATEWAYS[0], "PUT", f"file-{number}", body=body)).status == 201
    chunks = [check_rename(calls, place) for calls, place in renames(traces["storage-1"], "/chunks/")]
    votes = [check_rename(calls, place) for name in MEMBERS for calls, place in renames(traces[name], "/hard_state")]
    print(f"{len(chunks)} chunks, {len(votes)} times term or vote")
    assert len(chunks) >= 3
    assert len(votes) >= len(MEMBERS)


def renames(trace: Path, part: str) -> list[tuple[Sequence[TracedCall], int]]:
    """The places of the renames to a name with `part` in it."""
    calls = read_trace(trace)
    return [
        (calls, place)
        for place, call in enumerate(calls)
        if call.name in _RENAMES and part in call.paths[-1] and "quarantine" not in call.paths[-1]
    ]


def check_rename(calls: Sequence[TracedCall], place: int) -> str:
    """The name that was given, durably."""
    named = [path for path in calls[place].paths if not Path(path).is_dir()]
    source, target = named[0], named[-1]
    before = [call for call in calls[:place] if call.name in _SYNCS and source in call.paths]
    assert before, f"renamed before its bytes were synced: {calls[place].text}"
    folder = str(Path(target).parent)
    after = [call for call in calls[place:] if call.name in _SYNCS and folder in call.paths]
    assert after, f"its folder was not synced after: {calls[place].text}"
    return target
