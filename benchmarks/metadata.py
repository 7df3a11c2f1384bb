"""What the state machine costs at many files: no Raft, no network.

`python -m benchmarks.metadata --files 1000000 [--folder DIR]` publishes that many files and prints one row per tenth, so that
what grows with the number of files is seen; then lists at 10,000 files against lists at all of them, a restart, a copy while
entries are applied, forgetting, uploads by parts (`metadata_parts`), versions that are kept (`metadata_versions`), and a whole
member over all of it. Keys are random within a thousand folders, the worst case for the file table.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgpack

from benchmarks.metadata_member import LOAD_FILES, measure_member
from benchmarks.metadata_parts import measure_parts
from benchmarks.metadata_versions import measure_versions
from services.consensus.metadata.copy import write_copy
from services.consensus.metadata.entries import CommittedEntry, encode_proposal
from services.consensus.metadata.store import MetadataStore
from services.consensus.metadata.verification import verify
from services.consensus.persistence.compaction import LogLimits
from shared.contracts.files import Durability, FileContent
from shared.contracts.metadata import (
    AnyCommand,
    BucketAnswer,
    DeleteFile,
    GetBucket,
    InitCluster,
    ListFiles,
    PassTime,
    Proposal,
    ProposalResult,
    PublishFile,
)
from shared.contracts.time import ClockState, Stamp
from shared.units import MIB

BATCH: Final = 64
NODES: Final = ["storage-1", "storage-2", "storage-3"]
SMALL_FILES: Final = 10_000
DEAD_KEYS: Final = 50_000
CHECKPOINT_ENTRIES: Final = LogLimits().checkpoint_entries
FORGET_ENTRIES: Final = 1_000
FOLDERS: Final = 1000


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=None, help="where the file is made; a temporary one by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        small = MetadataStore.open(Path(folder) / "small.sqlite")
        publish_files(small, SMALL_FILES, random.Random(2), durations_s=[])
        measure(Path(folder) / "metadata.sqlite", arguments.files, small)
        small.close()


def measure(path: Path, file_count: int, small: MetadataStore) -> None:
    """Everything, in the order of the module's docstring."""
    chance = random.Random(1)
    store = MetadataStore.open(path)
    print("      files  publishes/s  batch p50 ms  p99 ms  max ms  MiB on disk")
    rates = []
    for tenth in range(1, 11):
        durations_s: list[float] = []
        publish_files(store, file_count * tenth // 10, chance, durations_s)
        rates.append(len(durations_s) * BATCH / sum(durations_s))
        hundredths = statistics.quantiles(durations_s, n=100, method="inclusive")
        print(
            f"{store.last_applied - 1:11,}  {rates[-1]:11,.0f}  {hundredths[49] * 1e3:12.2f}  {hundredths[98] * 1e3:6.2f}"
            f"  {max(durations_s) * 1e3:6.1f}  {path.stat().st_size / MIB:11.1f}"
        )
    print(f"last tenth against the first: {rates[-1] / rates[0]:.2f}")
    print(f"bytes per file: {path.stat().st_size / store.last_applied:.0f}")
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    compare_pages(small, store)
    store = restart(store, path)
    copy_while_applying(store, path, chance)
    forget(store)
    store.close()
    print(f"every row checked and summed: {seconds(lambda: verify(path)):.1f} s")
    measure_parts(path.with_name("parts.sqlite"))
    measure_versions(path.with_name("versions.sqlite"), file_count)
    measure_member(path, [example_publish(number, chance) for number in range(LOAD_FILES)])


def publish_files(store: MetadataStore, last: int, chance: random.Random, durations_s: list[float]) -> None:
    """Publish until the entry at `last` + 1 is applied, in batches."""
    if store.last_applied == 0:
        init = InitCluster(cluster_id="benchmark", admitted_nodes=NODES, stamp=_stamp(1))
        store.apply_batch([_entry(1, init)])
    # In a cluster that was initialised by its members the bucket is not of the first entry.
    bucket = store.answer([GetBucket(bucket="default")], term=1).results[0].answer
    assert isinstance(bucket, BucketAnswer)
    assert bucket.bucket is not None
    _COMMAND["incarnation"] = bucket.bucket.incarnation
    results: list[ProposalResult | None] = []
    checkpoint: threading.Thread | None = None
    while (first := store.last_applied + 1) <= last:
        if first % CHECKPOINT_ENTRIES < BATCH and (checkpoint is None or not checkpoint.is_alive()):
            # As a member does, beside the applying.
            checkpoint = threading.Thread(target=store.checkpoint)
            checkpoint.start()
        batch = [_publish_entry(index, chance) for index in range(first, first + BATCH)]
        durations_s.append(seconds(lambda batch=batch: results.extend(store.apply_batch(batch))))  # type: ignore[misc]
        assert all(result is not None and result.problem is None for result in results), results[0]
        results.clear()
    if checkpoint is not None:
        checkpoint.join()


def compare_pages(small: MetadataStore, large: MetadataStore) -> None:
    """One page of every kind, with few files and with many."""
    deep = f"{FOLDERS - 20:03}"
    queries: dict[str, dict[str, object]] = {
        "1,000 keys, from the start": {},
        "1,000 keys, deep in the list": {"after_key": "5"},
        "a folder, deep, with a delimiter": {"prefix": deep, "delimiter": "/"},
        "1,000 folders, with a delimiter": {"delimiter": "/"},
        "1,000 keys, pinned": {"after_key": "5", "at_index": 0},
    }
    print(f"\n{'page':34}  {SMALL_FILES:,} files: ms  all files: ms  ratio")
    for name, query in queries.items():
        costs_s = []
        for store in (small, large):
            fields = query | ({"at_index": store.last_applied - 5} if "at_index" in query else {})
            page = ListFiles.model_validate({"bucket": "default", **fields})
            costs_s.append(_median_s(lambda store=store, page=page: store.answer([page], term=1)))  # type: ignore[misc]
        print(f"{name:34}  {costs_s[0] * 1e3:16.2f}  {costs_s[1] * 1e3:13.2f}  {costs_s[1] / costs_s[0]:5.2f}")
    deleted_keys(small, large)


def deleted_keys(small: MetadataStore, large: MetadataStore) -> None:
    """Many keys came and went: the page that follows them, of the present and pinned to where they were gone already."""
    for store in (small, large):
        for kind in (True, False):
            for number in range(0, DEAD_KEYS, BATCH):
                at = store.last_applied + 1
                keys = [f"5-dead/{number + offset:06}" for offset in range(BATCH)]
                store.apply_batch(
                    [
                        _entry(
                            at + offset,
                            example_publish(at + offset, random.Random(at + offset)).model_copy(update={"key": key})
                            if kind
                            else DeleteFile(bucket="default", key=key, stamp=_stamp(at + offset)),
                        )
                        for offset, key in enumerate(keys)
                    ]
                )
        store.apply_batch([_entry(store.last_applied + 1, example_publish(1, random.Random(7)))])
    for name, is_pinned in (("after 50,000 deleted keys", False), ("the same, pinned after they went", True)):
        costs_s = []
        for store in (small, large):
            at_index = store.last_applied - 1 if is_pinned else None
            page = ListFiles(bucket="default", after_key="5-", at_index=at_index)
            costs_s.append(_median_s(lambda store=store, page=page: store.answer([page], term=1)))  # type: ignore[misc]
        print(f"{name:34}  {costs_s[0] * 1e3:16.2f}  {costs_s[1] * 1e3:13.2f}  {costs_s[1] / costs_s[0]:5.2f}")


def restart(store: MetadataStore, path: Path) -> MetadataStore:
    """Close, open, answer."""
    store.close()
    began_at_s = time.perf_counter()
    again = MetadataStore.open(path)
    again.answer([ListFiles(bucket="default", after_key="7")], term=1)
    print(f"\nopened and first page answered: {(time.perf_counter() - began_at_s) * 1e3:.0f} ms")
    return again


def copy_while_applying(store: MetadataStore, path: Path, chance: random.Random) -> None:
    """A copy in another thread; the pauses that applying sees meanwhile."""
    target = path.with_name("copy")
    took_s: list[float] = []
    copier = threading.Thread(target=lambda: took_s.append(seconds(lambda: write_copy(path, target))))
    durations_s: list[float] = []
    copier.start()
    while copier.is_alive():
        publish_files(store, store.last_applied + BATCH - 1, chance, durations_s)
    copier.join()
    print(
        f"copy of {target.stat().st_size / MIB:.0f} MiB: {took_s[0]:.1f} s; meanwhile {len(durations_s)} batches applied, "
        f"max {max(durations_s) * 1e3:.0f} ms"
    )
    target.unlink()


def forget(store: MetadataStore) -> None:
    """All results and everything that was deleted becomes old at once; the pause of each entry that forgets."""
    durations_s: list[float] = []
    rows = 0
    waiting_ms = [8 * 86_400_000, 1]
    has_more = False
    while waiting_ms or (has_more and len(durations_s) < FORGET_ENTRIES):
        command = PassTime(
            elapsed_ms=0 if has_more else waiting_ms.pop(),
            cursor_retention_s=900,
            tombstone_retention_s=86_400,
            stamp=_stamp(1),
        )
        entry = _entry(store.last_applied + 1, command)
        began_at_s = time.perf_counter()
        [result] = store.apply_batch([entry])
        durations_s.append(time.perf_counter() - began_at_s)
        assert result is not None
        assert result.result is not None
        has_more = result.result["has_more"]
        rows += result.result["forgotten"]
    print(
        f"forgetting {rows:,} rows: {len(durations_s):,} entries, p50 {statistics.median(durations_s) * 1e3:.1f} ms, "
        f"max {max(durations_s) * 1e3:.0f} ms"
    )


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    began_at_s = time.perf_counter()
    work()
    return time.perf_counter() - began_at_s


def _median_s(work: Callable[[], object]) -> float:
    return statistics.median(seconds(work) for _ in range(9))


def _entry(index: int, command: AnyCommand) -> CommittedEntry:
    request_id = random.Random(index).randbytes(16).hex()
    return CommittedEntry(index, 1, encode_proposal(Proposal(request_id=request_id, command=command)))


def _publish_entry(index: int, chance: random.Random) -> CommittedEntry:
    """As `_entry` of a publish, written down without the models, which would take as long as applying it."""
    digest = chance.randbytes(32)
    _FIELDS["request_id"] = chance.randbytes(16).hex()
    _COMMAND["key"] = f"{chance.randrange(FOLDERS):03}/{chance.randbytes(8).hex()}.jpg"
    _COMMAND["content"] |= {"chunk_digests": digest, "digest": chance.randbytes(32)}
    _COMMAND["etag"] = chance.randbytes(16).hex()
    _COMMAND["stamp"]["hlc"] = index << 32
    return CommittedEntry(index, 1, _HEAD + msgpack.packb(_FIELDS))


def example_publish(index: int, chance: random.Random) -> PublishFile:
    """A photo of 100 kB that nobody else has."""
    digest = chance.randbytes(32)
    return PublishFile(
        bucket="default",
        incarnation=1,
        key=f"{chance.randrange(FOLDERS):03}/{chance.randbytes(8).hex()}.jpg",
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


_TEMPLATE: Final = _entry(1, example_publish(1, random.Random(1))).payload or b""
_HEAD: Final = _TEMPLATE[:1]
_FIELDS: Final[dict[str, Any]] = msgpack.unpackb(_TEMPLATE[1:])
_COMMAND: Final[dict[str, Any]] = _FIELDS["command"]


if __name__ == "__main__":
    main()
