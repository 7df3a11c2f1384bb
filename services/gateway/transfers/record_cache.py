"""Remembers versions of files, so that consensus need not send a record again that a gateway has.

A record is never used as it is: each request reads linearizably, and asks whether the version that the gateway knows is still
the current one (`GetFile.known_version`). A version's number is the index of the log entry that published it, so within one
cluster an equal number is an equal record.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.chunk_lists import is_counted
from shared.contracts.files import FileVersion
from shared.contracts.s3 import S3Attributes

_OVERHEAD_BYTES: Final = 5632
"""What the objects of a version take in Python, beside its texts and digests."""

_RUN_BYTES: Final = 128
"""Of one run of equal parts."""


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A version that was the current one of its key in the cluster `cluster_id`."""

    cluster_id: str
    version: FileVersion


class RecordCache:
    """An LRU. Invariant: `_bytes` is the sum of `_size_bytes` over what is held, never more than the limit between calls."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: of all records with their overhead; 0 keeps none."""
        self._max_bytes = max_bytes
        self._held: OrderedDict[FileName, KnownFile] = OrderedDict()
        self._bytes = 0
        self._unchanged_count = 0

    def statistics(self) -> dict[str, int]:
        """`bytes` and `records` held now, and how often one was still the current version, so far."""
        return {"bytes": self._bytes, "records": len(self._held), "unchanged": self._unchanged_count}

    def find(self, name: FileName) -> KnownFile | None:
        """What is remembered of `name`. It may have changed."""
        if (known := self._held.get(name)) is not None:
            self._held.move_to_end(name)
        return known

    def confirmed(self) -> None:
        """A record that was found is still the current version."""
        self._unchanged_count += 1

    def put(self, name: FileName, cluster_id: str | None, version: FileVersion) -> None:
        """Remember `version`. One with a long list of chunks is not: the byte budget holds it while it is read.

        Nor is one of a member that does not say whose log it has: such a member may not understand `known_version`.
        """
        self.drop(name)
        size_bytes = _size_bytes(version)
        if cluster_id is None or is_counted(version) or size_bytes > self._max_bytes:
            return
        self._held[name] = KnownFile(cluster_id, version)
        self._bytes += size_bytes
        while self._bytes > self._max_bytes:
            _, evicted = self._held.popitem(last=False)
            self._bytes -= _size_bytes(evicted.version)

    def drop(self, name: FileName) -> None:
        """Forget `name`."""
        if (known := self._held.pop(name, None)) is not None:
            self._bytes -= _size_bytes(known.version)

    def forget(self) -> None:
        """Begin anew: for another cluster."""
        self._held.clear()
        self._bytes = 0


def _size_bytes(version: FileVersion) -> int:
    metadata_bytes = sum(len(name) + len(value) + 128 for name, value in version.user_metadata.items())
    s3_bytes = 0 if version.s3 is None else _s3_bytes(version.s3)
    return _OVERHEAD_BYTES + 2 * len(version.key) + len(version.content.chunk_digests) + metadata_bytes + s3_bytes


def _s3_bytes(attributes: S3Attributes) -> int:
    texts = (*attributes.headers.items(), *attributes.checksums.items())
    return _OVERHEAD_BYTES + _RUN_BYTES * len(attributes.part_sizes) + sum(len(a) + len(b) + 128 for a, b in texts)
