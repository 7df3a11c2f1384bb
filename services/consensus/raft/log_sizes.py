"""How many bytes the tail of the log has, coarsely: one mark in `SIZE_MARK_ENTRIES` entries.

What is kept for slow followers is bounded in bytes, and asking the disk for the size of a million entries would hold up the
group commit.
"""

from __future__ import annotations

from bisect import bisect_left

from services.consensus.raft.ports import SIZE_MARK_ENTRIES


class LogSizes:
    """Marks (index, bytes of all payloads up to it).

    Invariant: indexes and bytes of the marks ascend; the last mark is at most `SIZE_MARK_ENTRIES` behind the end.
    """

    def __init__(self, marks: list[tuple[int, int]], last_index: int) -> None:
        self._marks = list(marks)
        self._total_bytes = marks[-1][1] if marks else 0
        self._last_index = last_index

    def add(self, size_bytes: int) -> None:
        """One more entry at the end."""
        self._last_index += 1
        self._total_bytes += size_bytes
        if not self._marks or self._last_index - self._marks[-1][0] >= SIZE_MARK_ENTRIES:
            self._marks.append((self._last_index, self._total_bytes))

    def erase_from(self, index: int) -> None:
        """The log ends before `index` now. What lies behind the last mark that is left counts as nothing."""
        while self._marks and self._marks[-1][0] >= index:
            self._marks.pop()
        self._total_bytes = self._marks[-1][1] if self._marks else 0
        self._last_index = index - 1

    def cut(self, index: int) -> None:
        """Entries up to `index` are gone."""
        del self._marks[: bisect_left(self._marks, (index + 1, 0))]

    def first_index_within(self, limit_bytes: int) -> int:
        """The lowest marked index behind which at most `limit_bytes` lie; 0 when that is so for the whole log."""
        if not self._marks or self._total_bytes - self._marks[0][1] <= limit_bytes:
            return 0
        for index, total_bytes in self._marks:
            if self._total_bytes - total_bytes <= limit_bytes:
                return index
        return self._last_index
