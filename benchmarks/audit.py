"""What the audit trail costs a publish: the CPU of a row, beside what a whole consensus member does for one.

`python -m benchmarks.audit` applies the same publishes to two stores in turn, with a row for each and without, and then has a
member that is alone in its cluster publish files, 64 at a time: the least that a publish costs any member. Who asks stands in the
entry for owners and quotas, too, so reading it there is told apart.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks.measuring import describe_machine, median_and_spread, show
from benchmarks.metadata import BATCH, example_publish, publish_files
from benchmarks.metadata_member import member_folder, publish_all, start_member, to_member
from services.consensus.metadata.entries import CommittedEntry, decode_proposal, encode_proposal
from services.consensus.metadata.store import MetadataStore
from shared.contracts.access import SYSTEM, Requester
from shared.contracts.metadata import Proposal, PublishFile

_BATCHES_PER_ROUND: Final = 50
_FILES_PER_ROUND: Final = _BATCHES_PER_ROUND * BATCH
_REQUESTER: Final = Requester(principal=SYSTEM, request="5" * 32, address="192.0.2.7")
"""With the request and the address that a gateway names."""


class _Applied:
    """A store to which publishes are applied for one requester, or for nobody."""

    def __init__(self, path: Path, requester: Requester | None) -> None:
        self.store = MetadataStore.open(path)
        self._requester = requester
        publish_files(self.store, BATCH, random.Random(1), durations_s=[])

    def cost_ms(self, publishes: list[PublishFile]) -> tuple[float, float]:
        """Milliseconds of CPU of this thread for each: to read its entry alone, and to apply all as one batch."""
        entries = [
            CommittedEntry(
                self.store.last_applied + number,
                1,
                encode_proposal(Proposal(request_id=secrets.token_hex(16), command=command, requester=self._requester)),
            )
            for number, command in enumerate(publishes, 1)
        ]
        began_s = time.thread_time()
        for entry in entries:
            decode_proposal(entry.payload or b"")
        read_s = time.thread_time() - began_s
        results = self.store.apply_batch(entries)
        took_s = time.thread_time() - began_s - read_s
        assert all(result is not None and result.problem is None for result in results)
        return read_s / len(entries) * 1e3, took_s / len(entries) * 1e3


@dataclass(frozen=True, slots=True)
class _Round:
    """Milliseconds of CPU per publish: applied with a row and without; what it costs to read who asks, in the first."""

    with_row: float
    without: float
    requester: float

    @property
    def row(self) -> float:
        return self.with_row - self.without - self.requester


def _measure_rows(folder: Path, rounds: int) -> list[_Round]:
    """The median batch of each round."""
    chance = random.Random(5)
    both = _Applied(folder / "with.sqlite", _REQUESTER), _Applied(folder / "without.sqlite", None)
    found = []
    for _ in range(rounds):
        batches_ms: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
        for number in range(_BATCHES_PER_ROUND):
            # All of one second, as changes come. One right after the other, in changing order: what the machine does hits both.
            publishes = [example_publish(BATCH, chance) for _ in range(BATCH)]
            for which in (0, 1)[:: 1 if number % 2 else -1]:
                batches_ms[which].append(both[which].cost_ms(publishes))
        (read, with_row), (read_less, without) = (
            map(statistics.median, zip(*each, strict=True)) for each in batches_ms
        )
        found.append(_Round(with_row, without, read - read_less))
    for each in both:
        each.store.close()
    return found


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
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        found = _measure_rows(Path(folder), rounds)
        with member_folder(Path(folder) / "without.sqlite") as data_dir:
            member_ms = asyncio.run(_measure_member(data_dir, rounds))
    share = statistics.median(each.row for each in found) / statistics.median(member_ms)
    print(describe_machine())
    show(
        "The audit trail, ms of CPU",
        ["", f"median of {rounds} rounds"],
        [
            ["a publish applied, with a row", median_and_spread([each.with_row for each in found])],
            ["a publish applied, without", median_and_spread([each.without for each in found])],
            ["who asks, read", median_and_spread([1000 * each.requester for each in found]) + " µs"],
            ["the row", median_and_spread([1000 * each.row for each in found]) + " µs"],
            ["a publish, whole member", median_and_spread(member_ms)],
            ["the row's share of it", f"{share:.1%}"],
        ],
    )


if __name__ == "__main__":
    main()
