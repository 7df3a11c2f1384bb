"""Checkpoints, and how much of the log is cut below them: never more than a checkpoint holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from services.consensus.persistence.compaction import LogCompaction, LogLimits
from services.consensus.raft.log import RaftLog
from services.consensus.raft.ports import Entry, EntryKind
from tests.simulation.disk import SimulatedDisk, SimulatedLogStore

ENTRIES = 20


class Runner:
    """Ends each piece of work when the test says so, with the result that it says."""

    def __init__(self) -> None:
        self.done: deque[Callable[[Any, BaseException | None], None]] = deque()

    def submit(self, _: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self.done.append(done)


def applied_log() -> RaftLog:
    """Twenty entries of ten bytes, all applied."""
    disk = SimulatedDisk(entries=[Entry(1, EntryKind.COMMAND, b"x" * 10)] * ENTRIES)

    class AtOnce:
        def submit(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
            done(work(), None)

    return RaftLog(SimulatedLogStore(disk), AtOnce(), last_applied=ENTRIES)


@pytest.mark.parametrize(
    ("limit_index", "keep_entries", "keep_bytes", "expected"),
    [
        (15, 0, 1000, 15),
        (15, 4, 1000, 15),
        (15, 5, 1000, 15),
        (15, 6, 1000, 14),
        (0, 0, 1000, 0),
        (ENTRIES, 0, 1000, ENTRIES),
        (ENTRIES + 5, 0, 1000, ENTRIES),
        (15, 100, 1000, 0),
        (15, 100, 30, 15),
    ],
)
def test_the_cut_point_is_never_beyond_the_limit_and_keeps_what_it_must(
    limit_index, keep_entries, keep_bytes, expected
):
    """Both sides of each bound: the checkpoint, what is applied, and what stays for followers in entries and bytes."""
    log = applied_log()
    assert log.cut_point(limit_index, keep_entries=keep_entries, keep_bytes=keep_bytes) == expected


def compaction(log: RaftLog, runner: Runner, limits: LogLimits, *, kept_from: int = ENTRIES) -> LogCompaction:
    machine: Any = SimpleNamespace(checkpoint=lambda: 0)
    return LogCompaction(log, machine, runner, limits, lambda: kept_from)


@pytest.mark.parametrize("checkpointed", [1, 7, ENTRIES - 1, ENTRIES])
def test_the_log_is_cut_at_the_index_of_the_checkpoint(checkpointed):
    """What was applied while it was under way stays: the checkpoint does not hold it."""
    log, runner = applied_log(), Runner()
    compacting = compaction(log, runner, LogLimits(checkpoint_entries=1, keep_entries=0))
    compacting.applied([Entry(1, EntryKind.NO_OP, b"")])
    runner.done.popleft()(checkpointed, None)
    assert (compacting.checkpointed_index, log.base.index) == (checkpointed, checkpointed)


@pytest.mark.parametrize(("needed", "pinned", "expected"), [(3, 100, 3), (3, 10, 10), (17, 100, 15)])
def test_what_live_followers_need_stays_up_to_a_limit(needed, pinned, expected):
    """A follower that needs more than the limit gets a snapshot after all; the checkpoint bounds both."""
    log, runner = applied_log(), Runner()
    limits = LogLimits(checkpoint_entries=1, keep_entries=0, pinned_entries=pinned)
    compacting = compaction(log, runner, limits, kept_from=needed)
    compacting.applied([Entry(1, EntryKind.NO_OP, b"")])
    runner.done.popleft()(15, None)
    assert log.base.index == expected


@pytest.mark.parametrize("outcome", [(None, OSError("fsync failed")), (None, None)])
def test_a_failed_checkpoint_cuts_nothing_and_ends_the_member(outcome):
    """What is durable is not known any more, and asking again would hide it."""
    log, runner, failures = applied_log(), Runner(), []
    log.on_failure = failures.append
    compacting = compaction(log, runner, LogLimits(checkpoint_entries=1, keep_entries=0))
    compacting.applied([Entry(1, EntryKind.NO_OP, b"")])
    runner.done.popleft()(*outcome)
    assert (compacting.checkpointed_index, log.base.index, len(failures)) == (0, 0, 1)


def test_one_checkpoint_at_a_time_once_enough_was_applied():
    """By entries or by bytes; what is applied meanwhile counts for the next one."""
    log, runner = applied_log(), Runner()
    compacting = compaction(log, runner, LogLimits(checkpoint_entries=3, checkpoint_bytes=100, keep_entries=100))
    small, large = Entry(1, EntryKind.COMMAND, b"x"), Entry(1, EntryKind.COMMAND, b"x" * 100)
    compacting.applied([small, small])
    assert not runner.done
    compacting.applied([small])
    assert len(runner.done) == 1
    compacting.applied([large])
    assert len(runner.done) == 1
    runner.done.popleft()(3, None)
    compacting.applied([small])
    assert len(runner.done) == 1
