"""The log of one member: what is in it, what of it is durable, who waits for that; against a naive model of all three."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.consensus.raft import log as log_module
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.decide import LogPosition
from services.consensus.raft.log import ENTRY_OVERHEAD_BYTES, RaftLog
from services.consensus.raft.ports import Entry, EntryKind, LogDamagedError, SnapshotMeta
from shared.contracts.cluster import ConsensusMember
from tests.simulation.disk import SimulatedDisk, SimulatedLogStore


class Hand:
    """A `BlockingRunner` whose work ends when the test says so."""

    def __init__(self) -> None:
        self.queue: deque[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = deque()

    def submit(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self.queue.append((work, done))

    def finish(self) -> None:
        """The oldest write reaches the disk, and the log hears of it."""
        work, done = self.queue.popleft()
        done(work(), None)

    def fail(self, error: BaseException) -> None:
        """The oldest write fails."""
        self.queue.popleft()[1](None, error)


def make_log(disk: SimulatedDisk | None = None, *, last_applied: int = 0) -> tuple[RaftLog, Hand]:
    hand = Hand()
    return RaftLog(SimulatedLogStore(disk or SimulatedDisk()), hand, last_applied=last_applied), hand


def command(term: int, payload: bytes = b"x") -> Entry:
    return Entry(term, EntryKind.COMMAND, payload)


def configuration(*voters: str) -> Entry:
    members = tuple(ConsensusMember(id=v, url=f"http://{v}", peer_address=f"{v}:1") for v in voters)
    return Entry(1, EntryKind.CONFIGURATION, Configuration("c", members).encode())


def read_all(log: RaftLog) -> list[Entry]:
    """Every entry, in as many reads as it takes."""
    found: list[Entry] = []
    while len(found) < log.last_log_index:
        found += log.entries(len(found) + 1, max_count=1000, max_bytes=1 << 40)
    return found


# --- durability ----------------------------------------------------------------------------------------------------


def test_an_entry_is_durable_only_after_its_write_ended() -> None:
    """It is in the log at once, and nobody may acknowledge it yet."""
    log, hand = make_log()
    log.append([command(1)])
    assert (log.last_log_index, log.durable_index) == (1, 0)
    hand.finish()
    assert log.durable_index == 1


def test_what_comes_during_a_write_shares_the_next_one() -> None:
    """Group commit: however many appends, one write is under way and one follows."""
    log, hand = make_log()
    for _ in range(10):
        log.append([command(1)])
    assert len(hand.queue) == 1
    hand.finish()
    assert (log.durable_index, len(hand.queue)) == (1, 1)
    hand.finish()
    assert (log.durable_index, len(hand.queue)) == (10, 0)


def test_whoever_waits_is_told_once_and_in_time() -> None:
    """At once if it is durable already, else with the write that makes it so."""
    log, hand = make_log()
    told: list[int] = []
    log.append([command(1)])
    log.append([command(1)])
    for index in (2, 1):
        log.when_durable(index, lambda index=index: told.append(index))
    hand.finish()
    assert told == [1]
    hand.finish()
    assert told == [1, 2]
    log.when_durable(2, lambda: told.append(0))
    assert told == [1, 2, 0]


def test_the_end_of_a_write_says_nothing_about_an_entry_that_replaced_what_it_wrote() -> None:
    """The ABA hazard of a group commit: equal index, another entry, still in memory only."""
    log, hand = make_log()
    told: list[str] = []
    log.append([command(1, b"old")])
    log.when_durable(1, lambda: told.append("old"))
    log.erase_from(1)
    log.append([command(2, b"new")])
    log.when_durable(1, lambda: told.append("new"))
    hand.finish()
    assert (log.durable_index, told) == (0, [])
    hand.finish()
    assert (log.durable_index, told) == (1, ["new"])


def test_a_failed_write_is_reported_and_nothing_is_written_behind_it() -> None:
    """Whoever hears of it must end the process: a failed fsync is never tried again."""
    log, hand = make_log()
    failures: list[BaseException] = []
    log.on_failure = failures.append
    error = OSError("no space")
    log.append([command(1)])
    log.when_durable(1, lambda: pytest.fail("acknowledged after a failed write"))
    hand.fail(error)
    assert failures == [error]
    assert (log.durable_index, len(hand.queue)) == (0, 0)


def test_an_acknowledged_entry_that_cannot_be_read_ends_the_member() -> None:
    """Found by a check of its row or by its absence: it goes to whoever ends the process."""
    disk = SimulatedDisk(entries=[command(1), command(1)])
    log, _ = make_log(disk)
    failures: list[BaseException] = []
    log.on_failure = failures.append
    disk.entries.pop()
    with pytest.raises(LogDamagedError):
        log.entries(1, max_count=2, max_bytes=1)
    assert [type(error) for error in failures] == [LogDamagedError]


# --- configurations (section 6) ------------------------------------------------------------------------------------


def test_section_6_the_last_configuration_counts_from_its_append_to_its_erasure() -> None:
    """Committed or not."""
    log, _ = make_log()
    log.append([configuration("m1", "m2")])
    log.append([configuration("m1")])
    assert log.configuration()[0] == 2
    assert log.configuration()[1].voters == {"m1"}
    log.erase_from(2)
    assert log.configuration()[1].voters == {"m1", "m2"}
    log.erase_from(1)
    assert log.configuration() == (0, Configuration())


# --- reading -------------------------------------------------------------------------------------------------------


def test_entries_are_bounded_by_count_and_bytes_but_at_least_one() -> None:
    """An entry larger than a batch travels alone, or it would never travel."""
    log, _ = make_log()
    log.append([command(1, b"a" * 100) for _ in range(5)])
    size = 100 + ENTRY_OVERHEAD_BYTES
    assert len(log.entries(1, max_count=3, max_bytes=1 << 20)) == 3
    assert len(log.entries(1, max_count=9, max_bytes=2 * size)) == 2
    assert len(log.entries(1, max_count=9, max_bytes=2 * size - 1)) == 1
    assert len(log.entries(1, max_count=9, max_bytes=1)) == 1
    assert log.entries(6, max_count=9, max_bytes=1) == []


def test_what_left_the_memory_comes_from_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Applied and durable entries are let go of beyond the cache's bound; a follower far behind still gets them."""
    monkeypatch.setattr(log_module, "CACHE_BYTES", 3 * (1 + ENTRY_OVERHEAD_BYTES))
    log, hand = make_log()
    written = [command(1, bytes([n])) for n in range(10)]
    log.append(written)
    log.mark_committed(10)
    hand.finish()
    log.mark_applied(10)
    assert log._cache_first == 8
    assert read_all(log) == written


# --- the model -----------------------------------------------------------------------------------------------------


class LogMachine(RuleBasedStateMachine):
    """Any order of appends, erasures, commits, applications, ends of writes and crashes."""

    @initialize()
    def begin(self) -> None:
        self.disk = SimulatedDisk()
        self.applied = 0
        self._open()
        self.model: list[Entry] = []
        self.since_start = 0
        self.term = 1

    def _open(self) -> None:
        self.log, self.hand = make_log(self.disk, last_applied=self.applied)
        self.told: list[tuple[int, Entry]] = []

    @rule(count=st.integers(1, 4), is_new_term=st.booleans(), size=st.integers(0, 50))
    def append(self, count: int, is_new_term: bool, size: int) -> None:
        self.term += is_new_term
        entries = [command(self.term, bytes([n]) * size) for n in range(count)]
        self.model += entries
        assert self.log.append(entries) == len(self.model)
        index, entry = len(self.model), self.model[-1]
        self.log.when_durable(index, lambda: self.told.append((index, entry)))

    @precondition(lambda self: len(self.model) > self.log.commit_index)
    @rule(data=st.data())
    def replace_tail(self, data: st.DataObject) -> None:
        """Another leader's entry takes the place of a tail: the only way in which the engine erases."""
        index = data.draw(st.integers(self.log.commit_index + 1, len(self.model)), label="from")
        self.term += 1
        self.log.erase_from(index)
        self.model = [*self.model[: index - 1], command(self.term)]
        self.log.append(self.model[-1:])
        self.since_start = min(self.since_start, index - 1)

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.log.mark_committed(data.draw(st.integers(self.log.commit_index, len(self.model)), label="to"))

    @rule(data=st.data())
    def apply(self, data: st.DataObject) -> None:
        ready = min(self.log.commit_index, self.log.durable_index)
        self.applied = data.draw(st.integers(self.log.last_applied, max(ready, self.log.last_applied)), label="to")
        self.log.mark_applied(self.applied)

    @precondition(lambda self: self.hand.queue)
    @rule()
    def finish_write(self) -> None:
        self.hand.finish()

    @rule(is_written=st.booleans())
    def crash(self, is_written: bool) -> None:
        """What was not told to be durable may be there or not; what was, is."""
        durable = self.model[: self.log.durable_index]
        if is_written and self.hand.queue:
            self.hand.queue[0][0]()
        assert self.disk.entries[: len(durable)] == durable
        self.model = list(self.disk.entries)
        self.since_start = len(self.model)
        self._open()

    @invariant()
    def the_log_is_the_model(self) -> None:
        log = self.log
        assert log.last_log_index == len(self.model)
        assert read_all(log) == self.model
        assert [log.term_at(i) for i in range(len(self.model) + 1)] == [0, *(entry.term for entry in self.model)]

    @invariant()
    def what_is_durable_is_on_the_disk(self) -> None:
        log = self.log
        assert log.last_applied <= log.durable_index <= log.last_log_index
        assert self.disk.entries[: log.durable_index] == self.model[: log.durable_index]
        if not self.hand.queue:
            assert log.durable_index == log.last_log_index

    @invariant()
    def whoever_was_told_was_told_the_truth(self) -> None:
        for index, entry in self.told:
            assert index > len(self.model) or self.model[index - 1] != entry or self.log.durable_index >= index

    @invariant()
    def the_uncommitted_bytes_are_counted(self) -> None:
        """Of this life only: what a restart finds was bounded when it was proposed."""
        first = max(self.log.commit_index, self.since_start)
        waiting = sum(len(entry.payload) + ENTRY_OVERHEAD_BYTES for entry in self.model[first:])
        assert self.log.uncommitted_bytes == waiting


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_what_is_committed_and_not_durable_here_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others made a majority without this disk: what it still has to write must not be let go of."""
    monkeypatch.setattr(log_module, "CACHE_BYTES", 0)
    log, hand = make_log()
    log.append([command(1, b"a")])
    log.append([command(1, b"b"), command(1, b"c")])
    log.mark_committed(3)
    hand.finish()
    hand.finish()
    assert log.durable_index == 3
    assert [entry.payload for entry in read_all(log)] == [b"a", b"b", b"c"]


def test_an_installed_snapshot_is_answered_when_the_log_on_disk_agrees() -> None:
    """Before, a crash would leave a log that ends before the state begins."""
    log, hand = make_log()
    log.append([command(1)])
    hand.finish()
    answered: list[int] = []
    log.install(SnapshotMeta(LogPosition(term=3, index=9), 0, b"", 1, b""), lambda: answered.append(log.base.index))
    assert answered == []
    hand.finish()
    assert answered == [9]
