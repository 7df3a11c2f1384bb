"""What is known in memory of the chunks that have a row: their sums by partition, and which chunks certainly have none.

Invariant: the commit thread changes both, after the commit and before its replies.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

from services.storage.disk.absence_filter import AbsenceFilter
from services.storage.disk.group_commit import Transaction
from shared.partitions import PartitionTable, SetSum


class Holdings:
    """Of one folder. Any thread may ask."""

    def __init__(self) -> None:
        self._absence = AbsenceFilter()
        self._sums = PartitionTable()
        self._lock = threading.Lock()
        """The commit thread changes the sums while others read them."""

    def fill(self, sizes: Iterable[tuple[bytes, int]]) -> None:
        """At start: digest and length of every chunk that has a row."""
        self._sums.fill(self._added_to_filter(sizes))

    def _added_to_filter(self, sizes: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, int]]:
        for digest, size_bytes in sizes:
            self._absence.add(digest)
            yield digest, size_bytes

    def change(self, transaction: Transaction) -> None:
        """It is committed."""
        for digest in transaction.written:
            self._absence.add(bytes.fromhex(digest))
        with self._lock:
            for partition, difference in transaction.differences.items():
                self._sums.change(partition, difference)

    def is_absent(self, digest: str) -> bool:
        """See `AbsenceFilter.is_absent`."""
        return self._absence.is_absent(digest)

    @property
    def total(self) -> SetSum:
        """Of all chunks."""
        return self._sums.total

    def sums(self, group: int | None) -> list[SetSum]:
        """See `ports.Tier.sums`."""
        with self._lock:
            return list(self._sums.groups()) if group is None else self._sums.group(group)
