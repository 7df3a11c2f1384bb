"""Forgetting: how long ago an entry was applied, by the log's own clock, and what may go because of that (C-56).

Apply knows no clock, and the proposers' wall clocks may lie (docs/promises.md, P7): an hour that a wrong clock skipped must not
make a retry happen twice. So the log has a clock of its own. The leader proposes `PassTime` now and then, with the time that
passed on its monotonic clock since the one before was answered; apply adds it up and remembers which index was reached when.
Time without a leader, and across a change of leaders, is not counted, so this clock is never ahead of real time, and what is
kept for a day is kept for a day at least; it goes on over restarts and changes of leadership.

One entry forgets a bounded number of rows, so that applying it never stops the member for long; it says when there is more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from services.consensus.metadata.decisions import STORED_INTEGER_MAX
from services.consensus.metadata.garbage import Garbage
from services.consensus.metadata.history import History
from services.consensus.metadata.rows import RETENTIONS_S, State, decode_content
from services.consensus.metadata.tables import Tables, distinct_chunks
from services.consensus.metadata.version_retention import drop_expired_versions
from shared.contracts.metadata import PassedTime, PassTime

FORGET_ROWS_MAX: Final = 250
"""Rows that one entry forgets, chunk references included."""


def retention_class(retain_s: int) -> int:
    """The shortest retention that is no shorter than the one asked for."""
    return next((known_s for known_s in RETENTIONS_S if known_s >= retain_s), RETENTIONS_S[-1])


def forget(command: PassTime, index: int, state: State, history: History, sweep: Sweep) -> tuple[State, PassedTime]:
    """Move the log's clock and the horizons, and forget some of what lies behind them: the state, and the result."""
    lived_ms = min(state.lived_ms + max(command.elapsed_ms, 0), STORED_INTEGER_MAX)
    if lived_ms > state.lived_ms:
        history.add_moment(lived_ms, index)
    state = replace(
        state,
        lived_ms=lived_ms,
        horizon=max(state.horizon, history.index_at(_ago(lived_ms, command.cursor_retention_s))),
        tombstone_horizon=max(state.tombstone_horizon, history.index_at(_ago(lived_ms, command.tombstone_retention_s))),
    )
    keeps_references = command.reference_retention_s is not None
    sweep.versions(lived_ms)
    sweep.past(state.horizon, releases=keeps_references)
    if command.reference_retention_s is not None:
        sweep.released(lived_ms, command.reference_retention_s)
    sweep.tombstones(state.tombstone_horizon)
    sweep.requests(lived_ms)
    sweep.doomed(condemns=keeps_references)
    if command.condemned_retention_s is not None:
        sweep.condemned(history.index_at(_ago(lived_ms, command.condemned_retention_s)))
    longest_s = max(
        *RETENTIONS_S,
        command.tombstone_retention_s,
        command.reference_retention_s or 0,
        command.condemned_retention_s or 0,
    )
    history.forget_moments(_ago(lived_ms, longest_s), FORGET_ROWS_MAX)
    forgotten = FORGET_ROWS_MAX - sweep.left
    return state, PassedTime(forgotten=forgotten, has_more=sweep.left <= 0, lived_ms=lived_ms, horizon=state.horizon)


def _ago(lived_ms: int, seconds: int) -> int:
    return max(lived_ms - max(seconds, 0) * 1000, 0)


class Sweep:
    """The share of forgetting of the entry at `index`. Each step takes what is `left`; the next entry begins with the first."""

    def __init__(self, tables: Tables, history: History, garbage: Garbage, index: int) -> None:
        self._history = history
        self._tables = tables
        self._garbage = garbage
        self._index = index
        self.left = FORGET_ROWS_MAX

    def past(self, horizon: int, *, releases: bool) -> None:
        """Superseded and deleted versions, and buckets, that no list can be pinned to any more."""
        rows = self._history.oldest(horizon, self._share())
        for row in rows:
            self._history.remove(row)
            if self._garbage.is_held(row):
                continue
            if releases:
                self._garbage.release(row.version, row.deleted_index)
            else:
                self._history.doom(row.version)
        self.left -= len(rows)
        self.left -= self._history.forget_buckets(horizon, self._share())

    def versions(self, lived_ms: int) -> None:
        """Older versions that their buckets keep for a limited time."""
        self.left -= drop_expired_versions(
            self._tables, self._garbage, lived_ms=lived_ms, index=self._index, limit=self._share()
        )

    def released(self, lived_ms: int, retention_s: int) -> None:
        """Versions whose chunks neither a slow reader nor a backup needs any more."""
        up_to_index = self._history.index_at(_ago(lived_ms, retention_s))
        for backup in self._garbage.backups():
            if backup.is_living(lived_ms):
                up_to_index = min(up_to_index, backup.log_index)
            elif self.left > 0:
                self._garbage.remove_backup(backup)
                self.left -= 1
        self.left -= self._garbage.doom_released(up_to_index, self._share())

    def tombstones(self, horizon: int) -> None:
        """Deletions that are forgotten: an absent key's version is 0 again."""
        rows = self._history.oldest_tombstones(horizon, self._share())
        for row in rows:
            self._history.remove_tombstone(row)
        self.left -= len(rows)

    def requests(self, lived_ms: int) -> None:
        """Results whose retention ended; a version that was kept for one goes with it."""
        for retain_s in RETENTIONS_S:
            up_to_index = self._history.index_at(_ago(lived_ms, retain_s))
            rows = self._tables.oldest_requests(retain_s, up_to_index, self._share())
            for row in rows:
                self._tables.remove_request(row)
                if self._history.release(row.log_index):
                    self._tables.remove_version(row.log_index, self._tables.version_body(row.log_index))
            self.left -= len(rows)

    def doomed(self, *, condemns: bool) -> None:
        """Chunk references of versions that nothing shows, a slice at a time, and then the versions themselves."""
        for version, dropped in self._history.doomed(self._share()):
            if self.left <= 0:
                return
            body = self._tables.version_body(version)
            refs = distinct_chunks(decode_content(body))
            share = refs[dropped : dropped + self._share()]
            self._tables.remove_refs(version, share)
            if condemns:
                digests = {digest for digest, _ in share}
                self._garbage.condemn(digests - self._tables.referenced(digests), self._index)
            self.left -= 1 + len(share)
            done = dropped + len(share)
            self._history.replace_doomed(version, dropped, done=done if done < len(refs) else None)
            if done < len(refs):
                return
            if self._tables.is_remembered(version):
                self._history.keep(version)
            else:
                self._tables.remove_version(version, body)

    def condemned(self, up_to_index: int) -> None:
        """Which chunks were condemned so long ago that no upload goes on that began before it."""
        self.left -= self._garbage.forget_condemned(up_to_index, self._share())

    def _share(self) -> int:
        return max(self.left, 0)
