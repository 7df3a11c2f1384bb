"""What the audit trail costs a publish: the CPU of a row, and its share of what a whole consensus member does for one.

`python -m benchmarks.audit` applies the same publishes to two stores in turn, with a row for each and without, and then has a
member that is alone in its cluster publish files. It ends in an error when a row is more than 5 per cent of the member's CPU.
A follower does less for a publish than this leader, and as much for the row: of all three members it is a larger share.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import psutil

from benchmarks.measuring import describe_machine, median_and_spread, show
from benchmarks.metadata import BATCH, example_publish, publish_files
from benchmarks.metadata_member import member_folder, publish_all, start_member, to_member
from services.consensus.metadata.entries import CommittedEntry, encode_proposal
from services.consensus.metadata.store import MetadataStore
from shared.contracts.access import SYSTEM, Requester
from shared.contracts.metadata import Proposal, PublishFile

_SHARE_MAX: Final = 0.05
_FILES_PER_ROUND: Final = 50 * BATCH
_REQUESTER: Final = Requester(principal=SYSTEM, request="5" * 32, address="192.0.2.7")
"""With the request and the address that a gateway names."""


class _Applied:
    """A store to which publishes are applied for one requester, or for nobody."""

    def __init__(self, path: Path, requester: Requester | None) -> None:
        self.store = MetadataStore.open(path)
        self._requester = requester
        publish_files(self.store, BATCH, random.Random(1), durations_s=[])

    def cost_ms(self, publishes: list[PublishFile]) -> float:
        """Milliseconds of CPU of this thread for each."""
        entries = [
            CommittedEntry(
                self.store.last_applied + number,
                1,
                encode_proposal(Proposal(request_id=secrets.token_hex(16), command=command, requester=self._requester)),
            )
            for number, command in enumerate(publishes, 1)
        ]
        began_s = time.thread_time()
        for at in range(0, len(entries), BATCH):
            results = self.store.apply_batch(entries[at : at + BATCH])
            assert all(result is not None and result.problem is None for result in results)
        return (time.thread_time() - began_s) / len(entries) * 1e3


def _measure_rows(folder: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds of CPU per publish applied, with a row and without, by rounds."""
    chance = random.Random(5)
    both = _Applied(folder / "with.sqlite", _REQUESTER), _Applied(folder / "without.sqlite", None)
    costs_ms: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        publishes = [example_publish(index, chance) for index in range(_FILES_PER_ROUND)]
        # The order changes from round to round: what one leaves behind hits the other as often.
        for which in (0, 1)[:: 1 if number % 2 else -1]:
            costs_ms[which].append(both[which].cost_ms(publishes))
    for each in both:
        each.store.close()
    return costs_ms


async def _measure_member(data_dir: Path, rounds: int) -> list[float]:
    """Milliseconds of CPU of the whole process per publish, by rounds behind a first one."""
    secret, chance = secrets.token_hex(32), random.Random(6)
    costs_ms = []
    async with to_member(secret) as consensus:
        process, _ = await start_member(data_dir, secret, consensus)
        try:
            for _ in range(1 + rounds):
                publishes = [example_publish(index, chance) for index in range(_FILES_PER_ROUND)]
                before = psutil.Process(process.pid).cpu_times()
                await publish_all(consensus, publishes, _REQUESTER)
                after = psutil.Process(process.pid).cpu_times()
                used_s = after.user + after.system - before.user - before.system
                costs_ms.append(used_s / _FILES_PER_ROUND * 1e3)
        finally:
            process.kill()
            process.wait()
    return costs_ms[1:]


def main() -> None:
    """Run and print; exit code 1 when the goal is not reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        with_row_ms, without_ms = _measure_rows(Path(folder), rounds)
        with member_folder(Path(folder) / "without.sqlite") as data_dir:
            member_ms = asyncio.run(_measure_member(data_dir, rounds))
    rows_ms = [one - other for one, other in zip(with_row_ms, without_ms, strict=True)]
    share = statistics.median(rows_ms) / statistics.median(member_ms)
    print(describe_machine())
    show(
        "The audit trail, ms of CPU",
        ["", f"median of {rounds} rounds"],
        [
            ["a publish applied, with a row", median_and_spread(with_row_ms)],
            ["a publish applied, without", median_and_spread(without_ms)],
            ["the row", median_and_spread([1000 * each for each in rows_ms]) + " µs"],
            ["a publish, whole member", median_and_spread(member_ms)],
            ["the row's share of it", f"{share:.1%}; goal: at most {_SHARE_MAX:.0%}"],
        ],
    )
    sys.exit(share > _SHARE_MAX)


if __name__ == "__main__":
    main()
