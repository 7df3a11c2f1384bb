"""What uploads by parts and files made of pieces cost the state machine, an entry at a time: no entry may take longer than 50 ms.

Part of `benchmarks.metadata`; `python -m benchmarks.metadata_parts` measures it on an empty store.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any, Final

from services.consensus.metadata.entries import KNOWN_ENTRY_VERSION, CommittedEntry, encode_proposal
from services.consensus.metadata.store import MetadataStore
from shared.contracts.files import Durability, FileContent
from shared.contracts.metadata import (
    AnnounceMember,
    AnyCommand,
    DeleteFile,
    InitCluster,
    PassTime,
    Proposal,
    RaiseEntryVersion,
)
from shared.contracts.objects import CopyFile
from shared.contracts.time import ClockState, Stamp
from shared.contracts.uploads import (
    PART_BYTES_MAX,
    PART_NUMBER_MAX,
    PIECES_MAX,
    BeginUpload,
    CompleteUpload,
    CopyPart,
    ListPieces,
    PiecePage,
    PutPart,
)
from shared.units import MIB

_NONCE: Final = "0" * 32
_CHUNKS: Final = 5
_LARGE_CHUNKS: Final = 5120
_STAMP: Final = Stamp(hlc=1 << 32, state=ClockState.LOGICAL)
_DURABILITY: Final = Durability(target=3, acknowledged=2, nodes=["storage-1", "storage-2"])


class _Parts:
    """Commands in order, and how long each kind took to apply."""

    def __init__(self, store: MetadataStore) -> None:
        self.store = store
        self.durations_s: dict[str, list[float]] = {}
        self._requests = count()
        self._chance = random.Random(3)

    def apply(self, name: str, command: AnyCommand) -> dict[str, Any]:
        """One entry of its own."""
        proposal = Proposal(request_id=f"parts-{next(self._requests)}", retain_s=0, command=command)
        entry = CommittedEntry(self.store.last_applied + 1, 1, encode_proposal(proposal))
        began_at_s = time.perf_counter()
        [result] = self.store.apply_batch([entry])
        self.durations_s.setdefault(name, []).append(time.perf_counter() - began_at_s)
        assert result is not None
        assert result.problem is None, result.problem
        return result.result or {}

    def content(self, chunks: int) -> FileContent:
        """Chunks that nothing else has."""
        raw = self._chance.randbytes(32 * chunks)
        return FileContent(
            size_bytes=chunks * MIB, chunk_size_bytes=MIB, chunk_digests=raw, digest=self._chance.randbytes(32).hex()
        )

    def begin(self, key: str) -> int:
        """An upload under way."""
        command = BeginUpload(bucket="default", key=key, nonce=_NONCE, content_type="", stamp=_STAMP)
        return int(self.apply("begin an upload", command)["upload"])

    def put(self, name: str, upload: int, number: int, chunks: int) -> tuple[int, str]:
        """A part: number and etag."""
        command = PutPart(
            upload=upload,
            nonce=_NONCE,
            number=number,
            content=self.content(chunks),
            start_index=self.store.last_applied,
            epoch=3,
            durability=_DURABILITY,
            stamp=_STAMP,
        )
        return number, str(self.apply(name, command)["etag"])

    def copy(self, upload: int, number: int, key: str, start: int, end: int) -> tuple[int, str]:
        """A part that is a range: number and etag."""
        command = CopyPart(
            upload=upload,
            nonce=_NONCE,
            number=number,
            source_bucket="default",
            source_key=key,
            range_start=start,
            range_end=end,
            stamp=_STAMP,
        )
        return number, str(self.apply("copy a part of 1,024 pieces", command)["etag"])

    def complete(self, name: str, upload: int, parts: list[tuple[int, str]]) -> int:
        """The version."""
        command = CompleteUpload(upload=upload, nonce=_NONCE, parts=parts, stamp=_STAMP)
        return int(self.apply(name, command)["version"]["version"])

    def pass_time(self, name: str, seconds: int) -> None:
        """Until nothing more is forgotten."""
        has_more, elapsed_ms = True, seconds * 1000
        while has_more:
            command = PassTime(
                elapsed_ms=elapsed_ms,
                cursor_retention_s=900,
                tombstone_retention_s=86_400,
                reference_retention_s=86_400,
                condemned_retention_s=7 * 86_400,
                stamp=_STAMP,
            )
            has_more, elapsed_ms = self.apply(name, command)["has_more"], 0


def measure_parts(path: Path) -> None:
    """Print a row for each kind of entry, on a store that is made at `path`: how many, p50 and the longest."""
    store = MetadataStore.open(path)
    init = InitCluster(cluster_id="benchmark", admitted_nodes=["storage-1", "storage-2", "storage-3"], stamp=_STAMP)
    store.apply_batch([CommittedEntry(1, 1, encode_proposal(Proposal(request_id="init", command=init)))])
    _measure(_Parts(store))
    store.close()


def _measure(parts: _Parts) -> None:
    parts.apply("", AnnounceMember(member_id="consensus-1", entry_version=KNOWN_ENTRY_VERSION, stamp=_STAMP))
    parts.apply("", RaiseEntryVersion(entry_version=KNOWN_ENTRY_VERSION, stamp=_STAMP))
    upload = parts.begin("large")
    put = [parts.put("put a part of 5 chunks", upload, number, _CHUNKS) for number in range(1, PART_NUMBER_MAX + 1)]
    parts.put(f"put a part of {_LARGE_CHUNKS:,} chunks", parts.begin("left"), 1, _LARGE_CHUNKS)
    version = parts.complete(f"complete {PART_NUMBER_MAX:,} parts", upload, put)
    _twice_as_many(parts)
    for number in range(5):
        for source in ("large", "pieces"):
            command = CopyFile(
                bucket="default", key=f"copy-{number}", source_bucket="default", source_key=source, stamp=_STAMP
            )
            parts.apply(f"copy a file of up to {PIECES_MAX:,} pieces", command)
    _read(parts, version)
    for key in ("large", "pieces", *(f"copy-{number}" for number in range(5))):
        parts.apply("delete", DeleteFile(bucket="default", key=key, stamp=_STAMP))
    parts.pass_time("forget", 1)
    parts.pass_time("forget", 2 * 86_400)
    parts.pass_time("forget", 8 * 86_400)
    print(f"\n{'uploads by parts, an entry at a time':44}  entries   p50 ms   max ms")
    for name, durations_s in parts.durations_s.items():
        if name:
            p50_ms, max_ms = statistics.median(durations_s) * 1e3, max(durations_s) * 1e3
            print(f"{name:44}  {len(durations_s):7,}  {p50_ms:7.2f}  {max_ms:7.1f}")


def _twice_as_many(parts: _Parts) -> None:
    """A file of about as many pieces as there may be, ranges of the one that is there."""
    # A part has 5 GiB at most: so many of these parts, each a piece.
    upload, pieces, step = parts.begin("pieces"), [], PART_BYTES_MAX // (_CHUNKS * MIB)
    for number in range(1, PIECES_MAX // step + 1):
        start = number * step % (PART_NUMBER_MAX - step) * _CHUNKS * MIB
        pieces.append(parts.copy(upload, number, "large", start, start + step * _CHUNKS * MIB))
    parts.complete("complete parts of ranges", upload, pieces)


def _read(parts: _Parts, version: int) -> None:
    durations_s = []
    offset: int | None = 0
    while offset is not None:
        began_at_s = time.perf_counter()
        [result] = parts.store.answer([ListPieces(version=version, offset_bytes=offset)], term=1).results
        durations_s.append(time.perf_counter() - began_at_s)
        assert isinstance(result.answer, PiecePage)
        offset = result.answer.next_offset
    parts.durations_s["answer: a page of pieces"] = durations_s


def main() -> None:
    """On an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        measure_parts(Path(folder) / "parts.sqlite")


if __name__ == "__main__":
    main()
