"""Forgetting: how long ago an entry was applied, by the log's own clock, and what may go because of that (C-56).

Apply knows no clock, and the proposers' wall clocks may lie (docs/promises.md, P7): an hour that a wrong clock skipped must not
make a retry happen twice. So the log has a clock of its own. The leader proposes `PassTime` now and then, with the time that
passed on its monotonic clock since the one before was answered; apply adds it up and remembers which index was reached when.
Time without a leader, and across a change of leaders, is not counted, so this clock is never ahead of real time, and what is
kept for a day is kept for a day at least; it goes on over restarts and changes of leadership.

One entry forgets a bounded number of rows, so that applying it never stops the member for long; it says when there is more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final

from services.consensus.metadata.access_records import AccessRecords
from services.consensus.metadata.audit import Trail
from services.consensus.metadata.decisions import STORED_INTEGER_MAX
from services.consensus.metadata.garbage import Garbage
from services.consensus.metadata.history import History
from services.consensus.metadata.manifests import Manifests, content_of
from services.consensus.metadata.pieces import PieceList
from services.consensus.metadata.rows import RETENTIONS_S, State, decode_content
from services.consensus.metadata.tables import Tables, distinct_chunks
from services.consensus.metadata.upload_records import ABORTED, COMPLETED, OPEN, UploadRecords, UploadRow
from services.consensus.metadata.version_retention import drop_expired_versions
from shared.contracts.files import FileContent
from shared.contracts.metadata import PassedTime, PassTime

FORGET_ROWS_MAX: Final = 250
"""Rows that an entry before version 5 forgets, chunk references included; never changed, or members would differ."""

FORGOTTEN_MAX_LIMIT: Final = 10_000
"""What an entry may ask for."""


PIECES_PER_ROW: Final = 100
"""Pieces of a composition that take as long as a row, about: a file of few manifests may have many thousands."""

PART_BYTES_PER_ROW: Final = 8192
"""The same of the body of a part."""


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
        unneeded_index = sweep.unneeded_index(lived_ms, command.reference_retention_s)
        sweep.released(unneeded_index)
        sweep.uploads(lived_ms, unneeded_index)
    sweep.tombstones(state.tombstone_horizon)
    sweep.access(state.tombstone_horizon)
    sweep.requests(lived_ms)
    sweep.doomed(condemns=keeps_references)
    if command.condemned_retention_s is not None:
        sweep.condemned(history.index_at(_ago(lived_ms, command.condemned_retention_s)))
    if command.audit_retention_s is not None and command.audit_limit_bytes is not None:
        sweep.trail(history.index_at(_ago(lived_ms, command.audit_retention_s)), command.audit_limit_bytes)
    longest_s = max(
        *RETENTIONS_S,
        command.tombstone_retention_s,
        command.reference_retention_s or 0,
        command.condemned_retention_s or 0,
        command.audit_retention_s or 0,
    )
    history.forget_moments(_ago(lived_ms, longest_s), sweep.limit)
    forgotten = sweep.limit - sweep.left
    return state, PassedTime(forgotten=forgotten, has_more=sweep.has_more, lived_ms=lived_ms, horizon=state.horizon)


def _ago(lived_ms: int, seconds: int) -> int:
    return max(lived_ms - max(seconds, 0) * 1000, 0)


class Sweep:
    """The share of forgetting of the entry at `index`. Each step takes what is `left`; the next entry begins with the first."""

    def __init__(
        self, tables: Tables, history: History, garbage: Garbage, index: int, trail: Trail, *, limit: int | None
    ) -> None:
        self._history = history
        self._tables = tables
        self._garbage = garbage
        self._manifests = Manifests(tables)
        self._uploads = UploadRecords(tables)
        self._access = AccessRecords(tables)
        self._trail = trail
        self._index = index
        self._is_trail_longer = False
        self.limit = FORGET_ROWS_MAX if limit is None else min(max(1, limit), FORGOTTEN_MAX_LIMIT)
        self.left = self.limit

    @property
    def has_more(self) -> bool:
        """Whether the next entry would forget more."""
        return self.left <= 0 or self._is_trail_longer

    def past(self, horizon: int, *, releases: bool) -> None:
        """Superseded and deleted versions, and buckets, that no list can be pinned to any more."""
        rows = self._history.oldest(horizon, self._share())
        self._history.remove(rows)
        unheld = self._garbage.unheld(rows)
        if releases:
            self._garbage.release_each(unheld)
        else:
            self._history.doom(*[row.version for row in unheld])
        self.left -= len(rows)
        self.left -= self._history.forget_buckets(horizon, self._share())

    def versions(self, lived_ms: int) -> None:
        """Older versions that their buckets keep for a limited time."""
        self.left -= drop_expired_versions(
            self._tables, self._garbage, lived_ms=lived_ms, index=self._index, limit=self._share()
        )

    def unneeded_index(self, lived_ms: int, retention_s: int) -> int:
        """What an entry up to this index gave up, neither a slow reader nor a backup needs any more."""
        up_to_index = self._history.index_at(_ago(lived_ms, retention_s))
        for backup in self._garbage.backups():
            if backup.is_living(lived_ms):
                up_to_index = min(up_to_index, backup.log_index)
            elif self.left > 0:
                self._garbage.remove_backup(backup)
                self.left -= 1
        return up_to_index

    def released(self, unneeded_index: int) -> None:
        """Chunk lists that versions and parts gave up so long ago that nobody needs them."""
        self.left -= self._garbage.doom_released(unneeded_index, self._share())

    def uploads(self, lived_ms: int, unneeded_index: int) -> None:
        """Uploads whose time is over, and what closed ones refer to without need."""
        for row in self._uploads.expired(lived_ms, self._share()):
            if row.state == OPEN:
                closed = row._replace(state=ABORTED, closed_index=self._index, expires_ms=None)
                self._uploads.replace(row, closed)
            else:
                self._uploads.remove(row)
            self.left -= 1
        for row in self._uploads.closed(unneeded_index, self._share()):
            if self.left <= 0:
                return
            self._sweep_upload(row)

    def _sweep_upload(self, row: UploadRow) -> None:
        """Some parts of a closed upload, then some references to manifests that it does not show."""
        parts, counted = self._uploads.parts_within(row.upload, self._share(), bytes_per_row=PART_BYTES_PER_ROW)
        for part in parts:
            self._uploads.remove_part(part)
        self.left -= counted
        if self.left <= 0:
            return
        share = self._share()
        manifests = self._manifests.refs_after(row.upload, row.swept, share)
        composition = self._manifests.composition(row.upload)
        shown = set() if composition is None else composition.manifests()
        self._drop_manifests(row.upload, [manifest for manifest in manifests if manifest not in shown])
        self.left -= 1 + len(manifests) + (0 if composition is None else len(composition) // PIECES_PER_ROW)
        if len(manifests) == share:
            self._uploads.replace(row, row._replace(swept=manifests[-1]))
        elif row.state == COMPLETED:
            self._uploads.replace(row, row._replace(closed_index=None))
        else:
            self._uploads.remove(row)

    def _drop_manifests(self, owner: int, manifests: Iterable[int]) -> None:
        for manifest in manifests:
            if self._manifests.drop_ref(owner, manifest):
                self._history.doom(manifest)

    def tombstones(self, horizon: int) -> None:
        """Deletions that are forgotten: an absent key's version is 0 again."""
        rows = self._history.oldest_tombstones(horizon, self._share())
        for row in rows:
            self._history.remove_tombstone(row)
        self.left -= len(rows)

    def access(self, horizon: int) -> None:
        """Identities and keys that were deleted: a gateway whose copy is older starts anew."""
        self.left -= self._access.forget(horizon, self._share())

    def requests(self, lived_ms: int) -> None:
        """Results whose retention ended; a version that was kept for one goes with it."""
        for retain_s in RETENTIONS_S:
            up_to_index = self._history.index_at(_ago(lived_ms, retain_s))
            rows = self._tables.oldest_requests(retain_s, up_to_index, self._share())
            self._tables.remove_requests(rows)
            released = self._history.release([row.log_index for row in rows])
            self._tables.remove_versions({version: self._tables.version_body(version) for version in released})
            self.left -= len(rows)

    def doomed(self, *, condemns: bool) -> None:
        """What nothing shows any more, its references first, a slice at a time: versions, compositions and manifests.

        Each dooms what it alone referred to, so that a whole file goes as far as one entry may.
        """
        while self.left > 0 and (rows := self._history.doomed(self._share())):
            bodies = self._plain_bodies([doomed for doomed, dropped in rows if not dropped])
            at_once: dict[int, list[tuple[bytes, int]]] = {}
            for doomed, dropped in rows:
                if self.left <= 0:
                    break
                if (refs := self._refs_within_share(bodies.get(doomed))) is not None:
                    at_once[doomed] = refs
                    self.left -= 1 + len(refs)
                    continue
                self._drop_versions(at_once, bodies, condemns=condemns)
                at_once = {}
                if (chunks := self._manifests.manifest(doomed)) is not None:
                    if self._drop_chunks(doomed, content_of(chunks), dropped, condemns=condemns):
                        self._manifests.remove(doomed, chunks)
                elif (pieces := self._manifests.composition(doomed)) is not None:
                    self._drop_composition(doomed, pieces)
                else:
                    self._drop_version(doomed, dropped, condemns=condemns)
            self._drop_versions(at_once, bodies, condemns=condemns)

    def _plain_bodies(self, doomed: Sequence[int]) -> dict[int, bytes]:
        """Of those that are versions of few chunks."""
        others = self._manifests.named(doomed)
        return self._tables.short_bodies([version for version in doomed if version not in others])

    def _refs_within_share(self, body: bytes | None) -> list[tuple[bytes, int]] | None:
        """All references of a version that has some of its own, if they can be dropped now."""
        if body is None or (content := decode_content(body)).composition is not None:
            return None
        refs = distinct_chunks(content)
        return refs if len(refs) <= self.left else None

    def _drop_versions(
        self, refs: Mapping[int, list[tuple[bytes, int]]], bodies: Mapping[int, bytes], *, condemns: bool
    ) -> None:
        """Drop whole versions as if it were one by one, at half of what that costs."""
        if not refs:
            return
        self._tables.remove_refs(*refs.items())
        if condemns:
            self._condemn({digest for dropped in refs.values() for digest, _ in dropped})
        self._history.drop_whole(list(refs))
        remembered = self._tables.remembered(refs)
        self._history.keep(*remembered)
        self._tables.remove_versions({version: bodies[version] for version in refs.keys() - remembered})

    def _condemn(self, digests: AbstractSet[bytes]) -> None:
        """Those of the chunks to which nothing refers any more."""
        self._garbage.condemn(digests - self._tables.referenced(digests), self._index)

    def _drop_version(self, version: int, dropped: int, *, condemns: bool) -> None:
        body = self._tables.version_body(version)
        content = decode_content(body)
        if not self._drop_chunks(version, content, dropped, condemns=condemns):
            return
        composition = content.composition
        if composition is not None and self._manifests.drop_composition_ref(composition, version):
            self._history.doom(composition)
        if self._tables.remembered([version]):
            self._history.keep(version)
        else:
            self._tables.remove_versions({version: body})

    def _drop_composition(self, composition: int, pieces: PieceList) -> None:
        share = self._share()
        manifests = self._manifests.refs_after(composition, 0, share)
        self._drop_manifests(composition, manifests)
        self.left -= 1 + len(manifests) + len(pieces) // PIECES_PER_ROW
        if len(manifests) < share:
            self._manifests.remove_composition(composition, pieces)
            self._history.replace_doomed(composition, 0, done=None)

    def _drop_chunks(self, chunk_list: int, content: FileContent, dropped: int, *, condemns: bool) -> bool:
        """Some references of a doomed chunk list, of which so many are `dropped`; whether none is left."""
        refs = distinct_chunks(content)
        share = refs[dropped : dropped + self._share()]
        self._tables.remove_refs((chunk_list, share))
        if condemns:
            self._condemn({digest for digest, _ in share})
        self.left -= 1 + len(share)
        done = dropped + len(share)
        is_done = done >= len(refs)
        self._history.replace_doomed(chunk_list, dropped, done=None if is_done else done)
        return is_done

    def condemned(self, up_to_index: int) -> None:
        """Which chunks were condemned so long ago that no upload goes on that began before it."""
        self.left -= self._garbage.forget_condemned(up_to_index, self._share())

    def trail(self, up_to_index: int, limit_bytes: int) -> None:
        """Old rows of the audit trail, beside the share: one costs a fraction of the others, and every change adds one."""
        self._is_trail_longer = self._trail.cut(up_to_index, limit_bytes)

    def _share(self) -> int:
        return max(self.left, 0)
