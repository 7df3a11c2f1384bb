"""Log compaction: cuts the log below the last durable checkpoint, keeping what live followers still need (C-52).

Disk use and restart time then depend on what exists, not on what ever happened. The order is the whole point: an entry leaves
the log only when its effect survives a power cut without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.consensus.raft.log import RaftLog
from services.consensus.raft.ports import BlockingRunner, Entry, StateMachine
from services.consensus.raft.snapshot_sending import PIECE_BYTES
from shared.units import MIB


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much of the log is kept.

    Attributes:
        checkpoint_entries, checkpoint_bytes: a checkpoint begins once so much was applied since the last one. Often, because
            what a checkpoint syncs holds up the log on the same disk: 2,000 entries cost a pause of 0.4 s, 250 none over 50 ms.
        keep_entries, keep_bytes: what stays in the log for followers that fall behind, so that they need no snapshot.
        pinned_entries, pinned_bytes: what stays at most for followers that are known to need it; who needs more gets a
            snapshot after all.
        snapshot_piece_bytes: sent at once.
    """

    checkpoint_entries: int = 250
    checkpoint_bytes: int = 8 * MIB
    keep_entries: int = 2_000
    keep_bytes: int = 64 * MIB
    pinned_entries: int = 1_000_000
    pinned_bytes: int = 512 * MIB
    snapshot_piece_bytes: int = PIECE_BYTES


class LogCompaction:
    """Checkpoints and cuts of one member.

    Invariant: the log is never cut above `checkpointed_index`, and the state up to there survives a power cut.
    """

    def __init__(
        self,
        log: RaftLog,
        machine: StateMachine,
        runner: BlockingRunner,
        limits: LogLimits,
        kept_from: Callable[[], int],
    ) -> None:
        self._log = log
        self._machine = machine
        self._runner = runner
        self._limits = limits
        self._kept_from = kept_from
        # A log that was left long by short lives of this process is cut soon.
        self._entries = max(0, log.last_applied - log.base.index - limits.keep_entries)
        self._bytes = 0
        self._is_under_way = False
        self.checkpointed_index = log.base.index

    def applied(self, entries: Sequence[Entry]) -> None:
        """These were applied; perhaps it is time for a checkpoint."""
        self._entries += len(entries)
        self._bytes += sum(len(entry.payload) for entry in entries)
        is_due = self._entries >= self._limits.checkpoint_entries or self._bytes >= self._limits.checkpoint_bytes
        if is_due and not self._is_under_way:
            self._entries = self._bytes = 0
            self._is_under_way = True
            self._runner.submit(self._machine.checkpoint, self._checkpointed)

    def _checkpointed(self, index: int | None, error: BaseException | None) -> None:
        self._is_under_way = False
        if index is None or error is not None:
            # A failed fsync above all: what is durable is not known any more, and asking again would hide it.
            self._log.on_failure(error or RuntimeError("a checkpoint gave no index"))
            return
        self.checkpointed_index = max(self.checkpointed_index, index)
        self._log.cut(self._cut_point())

    def _cut_point(self) -> int:
        log, limits = self._log, self._limits
        usual = log.cut_point(self.checkpointed_index, keep_entries=limits.keep_entries, keep_bytes=limits.keep_bytes)
        at_least = log.cut_point(
            self.checkpointed_index, keep_entries=limits.pinned_entries, keep_bytes=limits.pinned_bytes
        )
        return max(min(usual, self._kept_from()), at_least)
