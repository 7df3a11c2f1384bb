"""What versions that are kept cost the state machine: lists beside as many dead ones, batch deletions, copies, a restart.

Part of `benchmarks.metadata`; `python -m benchmarks.metadata_versions --files 100000` measures it alone. On a store of its
own that many files are published, the bucket keeps versions from then on, and every file is published once more.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from services.consensus.metadata.entries import KNOWN_ENTRY_VERSION, CommittedEntry, encode_proposal
from services.consensus.metadata.store import MetadataStore
from shared.contracts.files import Durability, FileContent
from shared.contracts.metadata import (
    AnnounceMember,
    AnyCommand,
    AnyQuery,
    InitCluster,
    ListFiles,
    Proposal,
    PublishFile,
    RaiseEntryVersion,
)
from shared.contracts.objects import (
    DELETE_FILES_MAX,
    BucketSettings,
    CopyFile,
    DeleteFiles,
    FileToDelete,
    ListVersions,
    PutBucketSettings,
)
from shared.contracts.time import ClockState, Stamp
from shared.contracts.uploads import INLINE_CHUNKS_MAX
from shared.units import MIB

BATCH: Final = 64
DELETED: Final = 1000
FOLDERS: Final = 1000
RUNS: Final = 15
NODES: Final = ["storage-1", "storage-2", "storage-3"]
_STAMP: Final = Stamp(hlc=1 << 32, state=ClockState.LOGICAL)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    files = parser.parse_args().files
    with tempfile.TemporaryDirectory() as folder:
        measure_versions(Path(folder) / "versions.sqlite", files)


def measure_versions(path: Path, files: int) -> None:
    """Everything, in the order of the module's docstring."""
    chance = random.Random(4)
    keys = [f"{chance.randrange(FOLDERS):03}/{chance.randbytes(8).hex()}.jpg" for _ in range(files)]
    store = _new_store(path)
    first_s = _publish(store, keys, chance)
    before = _pages(store)
    _apply(store, [PutBucketSettings(bucket="default", settings=BucketSettings(versioning="enabled"), stamp=_STAMP)])
    again_s = _publish(store, keys, chance)
    after = _pages(store)
    print(f"\n{'versions kept':34}  {files:,} files: ms  and as many dead: ms  ratio")
    for name, before_s in before.items():
        print(f"{name:34}  {before_s * 1e3:10.2f}  {after[name] * 1e3:17.2f}  {after[name] / before_s:5.2f}")
    page_s = _median_s(store, ListVersions(bucket="default", after_key="5"))
    print(f"a page of 1,000 versions: {page_s * 1e3:.1f} ms")
    print(f"publish: new {first_s / files * 1e6:.0f} us, over a version that is kept {again_s / files * 1e6:.0f} us")
    _delete(store, keys, chance)
    _copy(store, chance)
    store.close()
    began_at_s = time.perf_counter()
    store = MetadataStore.open(path)
    store.answer([ListFiles(bucket="default", after_key="7")], term=1)
    print(f"opened and first page answered: {(time.perf_counter() - began_at_s) * 1e3:.0f} ms")
    store.close()


def _new_store(path: Path) -> MetadataStore:
    store = MetadataStore.open(path)
    _apply(
        store,
        [
            InitCluster(cluster_id="benchmark", admitted_nodes=NODES, stamp=_STAMP),
            AnnounceMember(member_id="consensus-1", entry_version=KNOWN_ENTRY_VERSION, stamp=_STAMP),
            RaiseEntryVersion(entry_version=KNOWN_ENTRY_VERSION, stamp=_STAMP),
        ],
    )
    return store


def _publish(store: MetadataStore, keys: Sequence[str], chance: random.Random) -> float:
    """All of them; how long applying took."""
    spent_s = 0.0
    for at in range(0, len(keys), BATCH):
        spent_s += _apply(store, [_version_of(store, key, 1, chance) for key in keys[at : at + BATCH]])
    return spent_s


def _version_of(store: MetadataStore, key: str, chunks: int, chance: random.Random) -> PublishFile:
    content = FileContent(
        size_bytes=chunks * MIB,
        chunk_size_bytes=MIB,
        chunk_digests=chance.randbytes(32 * chunks),
        digest=chance.randbytes(32).hex(),
    )
    return PublishFile(
        bucket="default",
        incarnation=1,
        key=key,
        content=content,
        content_type="image/jpeg",
        etag=chance.randbytes(16).hex(),
        start_index=store.last_applied,
        epoch=len(NODES),
        durability=Durability(target=3, acknowledged=2, nodes=NODES[:2]),
        stamp=_STAMP,
    )


def _pages(store: MetadataStore) -> dict[str, float]:
    queries = {
        "1,000 keys, from the start": ListFiles(bucket="default"),
        "1,000 keys, deep in the list": ListFiles(bucket="default", after_key="5"),
        "1,000 folders, with a delimiter": ListFiles(bucket="default", delimiter="/"),
    }
    return {name: _median_s(store, query) for name, query in queries.items()}


def _delete(store: MetadataStore, keys: Sequence[str], chance: random.Random) -> None:
    """A thousand at once, in entries of `DELETE_FILES_MAX`, while versions are kept: each gets a marker."""
    chosen = chance.sample(keys, min(DELETED, len(keys)))
    durations_s = [
        _apply(store, [DeleteFiles(bucket="default", files=[FileToDelete(key=key) for key in part], stamp=_STAMP)])
        for part in (chosen[at : at + DELETE_FILES_MAX] for at in range(0, len(chosen), DELETE_FILES_MAX))
    ]
    print(
        f"batch deletion of {len(chosen):,}: {sum(durations_s) * 1e3:.0f} ms, max {max(durations_s) * 1e3:.0f} ms an entry"
    )


def _copy(store: MetadataStore, chance: random.Random) -> None:
    """Of the longest chunk list that a version of its own may have."""
    _apply(store, [_version_of(store, "long", INLINE_CHUNKS_MAX, chance)])
    durations_s = [
        _apply(
            store,
            [CopyFile(bucket="default", key=f"copy {n}", source_bucket="default", source_key="long", stamp=_STAMP)],
        )
        for n in range(RUNS)
    ]
    print(
        f"copy of {INLINE_CHUNKS_MAX:,} chunks: median {statistics.median(durations_s) * 1e3:.0f} ms, "
        f"max {max(durations_s) * 1e3:.0f} ms"
    )


def _apply(store: MetadataStore, commands: Sequence[AnyCommand]) -> float:
    """In one batch; how long it took."""
    first = store.last_applied + 1
    entries = [
        CommittedEntry(first + n, 1, encode_proposal(Proposal(request_id=f"v-{first + n}", command=command)))
        for n, command in enumerate(commands)
    ]
    began_at_s = time.perf_counter()
    results = store.apply_batch(entries)
    spent_s = time.perf_counter() - began_at_s
    assert all(result is not None and result.problem is None for result in results), results
    return spent_s


def _median_s(store: MetadataStore, query: AnyQuery) -> float:
    def once() -> float:
        began_at_s = time.perf_counter()
        store.answer([query], term=1)
        return time.perf_counter() - began_at_s

    return statistics.median(once() for _ in range(RUNS))


if __name__ == "__main__":
    main()
