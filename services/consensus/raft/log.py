"""The replicated log of one member: a cached tail in memory, everything on disk, one group commit at a time.

Why it must exist: raftos' log is never fsynced and truncates on every stale message (docs/consensus.md,
"Defects of raftos"). This one answers for three facts: what is in the log, what of it is durable, and who waits for durability.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from services.consensus.raft.configuration import Configuration
from services.consensus.raft.decide import LogPosition
from services.consensus.raft.log_sizes import LogSizes
from services.consensus.raft.ports import BlockingRunner, Entry, EntryKind, LogStore, SnapshotMeta, StoredLog
from shared.units import MIB

CACHE_BYTES = 32 * MIB
ENTRY_OVERHEAD_BYTES = 64


class RaftLog:
    """Entries `base.index + 1 .. last_log_index`, indexed from one; what lies before is in a durable checkpoint or snapshot.

    Invariants:
        base.index <= last_applied <= commit_index <= last_log_index (a member that lost its state: last_applied < base.index
            until a snapshot is installed; `is_behind_base`)
        last_applied <= durable_index
        durable_index <= last_log_index; entries up to durable_index survive a power cut as they are
        nothing at or below commit_index is ever erased

    raftos reads and writes `next_index`, `match_index`, `last_log_index` and `last_log_term` by these names.
    """

    def __init__(
        self, store: LogStore, runner: BlockingRunner, *, last_applied: int, installed: SnapshotMeta | None = None
    ) -> None:
        stored = store.load()
        if installed is not None and not _covers(stored, installed.position):
            # The crash came between the installation of a snapshot and the end of the log that it replaces.
            store.reset(installed.position, _stored_configuration(installed))
            stored = store.load()
        self._store = store
        self._runner = runner
        self.base = stored.base
        self._terms = list(stored.terms)
        self._last_index = stored.last_index
        self._configurations = [(index, Configuration.decode(raw)) for index, raw in stored.configurations]
        self._cache: list[Entry] = []
        self._cache_first = stored.last_index + 1
        self._cache_bytes = 0
        self.durable_index = stored.last_index
        self.commit_index = max(last_applied, stored.base.index)
        self.last_applied = last_applied
        self.next_index: dict[str, int] | None = None
        self.match_index: dict[str, int] | None = None
        self.uncommitted_bytes = 0
        self._generation = 0
        self._is_flushing = False
        self._unflushed_from = stored.last_index + 1
        self._erase_from: int | None = None
        self._sizes = LogSizes(stored.size_marks, stored.last_index)
        self._is_cutting = False
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self.on_flushed: Callable[[], None] = _ignore
        self.on_failure: Callable[[BaseException], None] = _raise

    @property
    def last_log_index(self) -> int:
        """Index of the last entry, durable or not."""
        return self._last_index

    @property
    def last_log_term(self) -> int:
        """Its term."""
        return self.term_at(self._last_index)

    @property
    def end(self) -> LogPosition:
        """Where the log ends."""
        return LogPosition(self.last_log_term, self._last_index)

    def configuration(self) -> tuple[int, Configuration]:
        """(index, configuration) in force: the last one in the log, committed or not (section 6)."""
        return self._configurations[-1] if self._configurations else (0, Configuration())

    def configuration_at(self, index: int) -> tuple[int, Configuration]:
        """(index, configuration) that was in force at `index`, which is not below the base."""
        return next((found for found in reversed(self._configurations) if found[0] <= index), (0, Configuration()))

    @property
    def is_behind_base(self) -> bool:
        """Whether the state machine lacks what the log no longer has: only a snapshot helps."""
        return self.last_applied < self.base.index

    def has(self, position: LogPosition) -> bool:
        """Whether this log holds that very entry, or has cut it away."""
        if position.index <= self.base.index:
            return True
        return position.index <= self._last_index and self.term_at(position.index) == position.term

    def term_at(self, index: int) -> int:
        """Term of the entry at base.index <= index <= last_log_index."""
        if index <= self.base.index:
            assert index == self.base.index, f"the entry at {index} was cut away"
            return self.base.term
        assert index <= self._last_index, f"no entry at {index}"
        return self._terms[bisect_right(self._terms, (index, 1 << 62)) - 1][1]

    def append(self, entries: Sequence[Entry]) -> int:
        """Add entries at the end; they become durable with the next group commit. Returns the new last index."""
        for entry in entries:
            self._last_index += 1
            if not self._terms or self._terms[-1][1] != entry.term:
                self._terms.append((self._last_index, entry.term))
            if entry.kind == EntryKind.CONFIGURATION:
                self._configurations.append((self._last_index, Configuration.decode(entry.payload)))
            self._cache.append(entry)
            self._cache_bytes += _size_bytes(entry)
            self.uncommitted_bytes += _size_bytes(entry)
            self._sizes.add(len(entry.payload))
        self._start_flush()
        return self._last_index

    def erase_from(self, index: int) -> None:
        """Drop `index` and everything after it, because a leader's log says otherwise."""
        assert index > self.commit_index, "would erase a committed entry"
        if index > self._last_index:
            return
        if index < self._cache_first:
            # Everything cached is uncommitted then, and nothing else was counted.
            self._cache, self._cache_first, self._cache_bytes, self.uncommitted_bytes = [], index, 0, 0
        else:
            dropped = self._cache[index - self._cache_first :]
            del self._cache[index - self._cache_first :]
            self._cache_bytes -= sum(map(_size_bytes, dropped))
            self.uncommitted_bytes -= sum(map(_size_bytes, dropped))
        self._last_index = index - 1
        self._sizes.erase_from(index)
        while self._terms and self._terms[-1][0] >= index:
            self._terms.pop()
        while self._configurations and self._configurations[-1][0] >= index:
            self._configurations.pop()
        self._generation += 1
        self.durable_index = min(self.durable_index, index - 1)
        self._erase_from = index if self._erase_from is None else min(self._erase_from, index)
        self._unflushed_from = min(self._unflushed_from, index)
        self._waiting = [waiter for waiter in self._waiting if waiter[0] < index]

    def entries(self, first_index: int, *, max_count: int, max_bytes: int) -> list[Entry]:
        """Entries from `first_index` on, at least one if there is any, bounded by count and bytes.

        Recent ones come from memory, older ones from the store (blocking; only a follower that is far behind needs it).
        """
        last_index = min(self._last_index, first_index + max_count - 1)
        if first_index > last_index:
            return []
        if first_index >= self._cache_first:
            start = first_index - self._cache_first
            found = self._cache[start : start + last_index - first_index + 1]
        else:
            found = self._read(first_index, min(last_index, self._cache_first - 1), max_bytes)
        total = 0
        for count, entry in enumerate(found):
            total += _size_bytes(entry)
            if total > max_bytes and count:
                return found[:count]
        return found

    def _read(self, first_index: int, last_index: int, max_bytes: int) -> list[Entry]:
        try:
            return self._store.read(first_index, last_index, max_bytes=max_bytes)
        except Exception as error:
            # Acknowledged entries are gone: the member must stop, not only whoever asked for them.
            self.on_failure(error)
            raise

    def when_durable(self, index: int, then: Callable[[], None]) -> None:
        """Call `then` once everything up to `index` is durable; never, if it is erased before."""
        if index <= self.durable_index:
            then()
        else:
            self._waiting.append((index, then))

    def mark_committed(self, index: int) -> None:
        """Move the commit index forward."""
        assert self.commit_index <= index <= self._last_index
        for committed in range(max(self.commit_index + 1, self._cache_first), index + 1):
            self.uncommitted_bytes -= _size_bytes(self._cache[committed - self._cache_first])
        self.uncommitted_bytes = max(0, self.uncommitted_bytes)
        self.commit_index = index
        self._trim_cache()

    def mark_applied(self, index: int) -> None:
        """Move last_applied forward."""
        assert self.last_applied <= index <= self.commit_index
        self.last_applied = index

    # --- cutting and replacing ----------------------------------------------------------------------------------

    def cut_point(self, limit_index: int, *, keep_entries: int, keep_bytes: int) -> int:
        """Up to where the log may be cut so that its end keeps at most so many entries and bytes; never over the limit."""
        wanted = max(self._last_index - keep_entries, self._sizes.first_index_within(keep_bytes))
        return min(wanted, limit_index, self.last_applied)

    def cut(self, index: int) -> None:
        """Drop entries up to `index`, which a durable checkpoint covers. The disk follows, a slice at a time."""
        assert index <= min(self.last_applied, self.durable_index), "would cut what nothing else holds"
        if index <= self.base.index or self._is_cutting:
            return
        # Memory first: nobody asks the store for an entry at or below the base, and from now on it may go at any time.
        self.base = LogPosition(index=index, term=self.term_at(index))
        self._drop_below_base()
        self._is_cutting = True
        self._cut_slice(self.base)

    def _cut_slice(self, base: LogPosition) -> None:
        def done(is_finished: bool | None, error: BaseException | None) -> None:
            if error is not None:
                self.on_failure(error)
            elif is_finished or base != self.base:
                self._is_cutting = False
            else:
                self._cut_slice(base)

        self._runner.submit(lambda: self._store.cut(base.index), done)

    def _drop_below_base(self) -> None:
        index = self.base.index
        while len(self._terms) > 1 and self._terms[1][0] <= index + 1:
            self._terms.pop(0)
        if index == self._last_index:
            self._terms.clear()
        while len(self._configurations) > 1 and self._configurations[1][0] <= index:
            self._configurations.pop(0)
        self._sizes.cut(index)
        drop = index + 1 - self._cache_first
        if drop > 0:
            self._cache_bytes -= sum(map(_size_bytes, self._cache[:drop]))
            del self._cache[:drop]
            self._cache_first = index + 1

    def install(self, snapshot: SnapshotMeta, then: Callable[[], None]) -> None:
        """The state machine has durably become `snapshot`; call `then` when the log on disk agrees.

        A log that holds the snapshot's last entry keeps what follows it; any other is replaced as a whole, because it
        differs from what was committed (section 7).
        """
        position = snapshot.position
        if self.has(position):
            self.when_durable(position.index, lambda: self._advance_to(position.index, then))
            return
        configuration = _stored_configuration(snapshot)
        self._generation += 1
        self.base = position
        self._last_index = self.commit_index = self.last_applied = self.durable_index = position.index
        self._terms.clear()
        self._configurations = [(index, Configuration.decode(raw)) for index, raw in filter(None, [configuration])]
        self._cache, self._cache_first, self._cache_bytes, self.uncommitted_bytes = [], position.index + 1, 0, 0
        self._sizes = LogSizes([], position.index)
        self._unflushed_from = position.index + 1
        self._erase_from = None
        self._waiting.clear()

        def done(_: object, error: BaseException | None) -> None:
            if error is not None:
                self.on_failure(error)
            else:
                then()

        self._runner.submit(lambda: self._store.reset(position, configuration), done)

    def _advance_to(self, index: int, then: Callable[[], None]) -> None:
        if index > self.commit_index:
            self.mark_committed(index)
        self.last_applied = max(self.last_applied, index)
        then()

    def _trim_cache(self) -> None:
        """Let go of old entries: what is committed and durable is read from the store again by whoever lags behind."""
        drop = 0
        limit = min(self.commit_index, self.durable_index)
        while self._cache_bytes > CACHE_BYTES and self._cache_first + drop <= limit:
            self._cache_bytes -= _size_bytes(self._cache[drop])
            drop += 1
        if drop:
            del self._cache[:drop]
            self._cache_first += drop

    def _start_flush(self) -> None:
        """Group commit: everything that came while the last one was under way goes into the next."""
        if self._is_flushing or self._unflushed_from > self._last_index:
            return
        first, last, generation = self._unflushed_from, self._last_index, self._generation
        entries = self._cache[first - self._cache_first :]
        erase_from, self._erase_from = self._erase_from, None
        self._is_flushing = True
        self._unflushed_from = last + 1
        self._runner.submit(
            lambda: self._store.write(erase_from, first, entries),
            lambda _, error: self._flushed(generation, last, error),
        )

    def _flushed(self, generation: int, last_index: int, error: BaseException | None) -> None:
        self._is_flushing = False
        if error is not None:
            self.on_failure(error)
            return
        if generation == self._generation:
            # Otherwise part of what was written has been erased since; the next flush says what is durable then.
            self.durable_index = max(self.durable_index, last_index)
            self._trim_cache()
        ready = [then for index, then in self._waiting if index <= self.durable_index]
        self._waiting = [waiter for waiter in self._waiting if waiter[0] > self.durable_index]
        for then in ready:
            then()
        self.on_flushed()
        self._start_flush()


def _covers(stored: StoredLog, position: LogPosition) -> bool:
    """Whether that very entry is in the log on disk, or was cut from it."""
    if position.index <= stored.base.index:
        return True
    run = bisect_right(stored.terms, (position.index, 1 << 62)) - 1
    return position.index <= stored.last_index and run >= 0 and stored.terms[run][1] == position.term


def _stored_configuration(snapshot: SnapshotMeta) -> tuple[int, bytes] | None:
    return (snapshot.configuration_index, snapshot.configuration) if snapshot.configuration_index else None


def _size_bytes(entry: Entry) -> int:
    return len(entry.payload) + ENTRY_OVERHEAD_BYTES


def _ignore() -> None:
    pass


def _raise(error: BaseException) -> None:
    raise error
