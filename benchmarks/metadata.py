"""How many publishes per second the state machine applies, and what a list page costs: no Raft, no network.

`python -m benchmarks.metadata --files 100000 [--folder DIR]` prints one row per tenth of the files, so that what grows
with the number of files is seen. Keys are random within a thousand folders, the worst case for the file table.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from services.consensus.metadata.entries import CommittedEntry, encode_proposal
from services.consensus.metadata.store import MetadataStore
from shared.contracts.metadata import (
    Command,
    Durability,
    FileContent,
    InitCluster,
    ListFiles,
    Proposal,
    PublishFile,
)
from shared.contracts.time import ClockState, Stamp
from shared.units import MIB

BATCH: Final = 64
NODES: Final = ["storage-1", "storage-2", "storage-3"]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=None, help="where the file is made; a temporary one by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(Path(folder) / "metadata.sqlite", arguments.files)


def measure(path: Path, file_count: int) -> None:
    """Publish `file_count` files in batches of `BATCH`; one row of figures per tenth."""
    chance = random.Random(1)
    store = MetadataStore.open(path)
    init = InitCluster(cluster_id="benchmark", admitted_nodes=NODES, stamp=_stamp(1))
    store.apply_batch([_entry(1, init)])
    print("      files  publishes/s  batch p50 ms  p99 ms  max ms  page of 1000 ms  MiB on disk")
    tenth = max(BATCH, file_count // 10)
    while store.last_applied <= file_count:
        durations_s = []
        for _ in range(tenth // BATCH):
            first = store.last_applied + 1
            batch = [_entry(index, _publish(index, chance)) for index in range(first, first + BATCH)]
            began_at_s = time.perf_counter()
            store.apply_batch(batch)
            durations_s.append(time.perf_counter() - began_at_s)
        _report(path, store, durations_s)
    store.close()


def _report(path: Path, store: MetadataStore, durations_s: list[float]) -> None:
    pages_s = []
    for _ in range(5):
        began_at_s = time.perf_counter()
        store.answer([ListFiles(bucket="default", limit=1000, after_key="5")], term=1)
        pages_s.append(time.perf_counter() - began_at_s)
    hundredths = statistics.quantiles(durations_s, n=100, method="inclusive")
    rate = len(durations_s) * BATCH / sum(durations_s)
    print(
        f"{store.last_applied:11,}  {rate:11,.0f}  {hundredths[49] * 1e3:12.2f}  {hundredths[98] * 1e3:6.2f}  "
        f"{max(durations_s) * 1e3:6.1f}  {statistics.median(pages_s) * 1e3:15.2f}  "
        f"{path.stat().st_size / MIB:11.1f}"
    )


def _entry(index: int, command: Command) -> CommittedEntry:
    request_id = random.Random(index).randbytes(16).hex()
    return CommittedEntry(index, 1, encode_proposal(Proposal(request_id=request_id, command=command)))


def _publish(index: int, chance: random.Random) -> PublishFile:
    digest = chance.randbytes(32)
    return PublishFile(
        bucket="default",
        incarnation=1,
        key=f"{chance.randrange(1000):03}/{chance.randbytes(8).hex()}.jpg",
        content=FileContent(
            size_bytes=100_000, chunk_size_bytes=MIB, chunk_digests=digest, digest=chance.randbytes(32).hex()
        ),
        content_type="image/jpeg",
        etag=chance.randbytes(16).hex(),
        start_index=index,
        epoch=len(NODES),
        durability=Durability(target=3, acknowledged=2, nodes=NODES[:2]),
        stamp=_stamp(index),
    )


def _stamp(seconds: int) -> Stamp:
    return Stamp(hlc=seconds << 32, state=ClockState.LOGICAL)


if __name__ == "__main__":
    main()
