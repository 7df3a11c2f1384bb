"""The state machine: applies committed entries and answers queries, each on a connection and a lock of its own (C-9).

A batch of entries is one SQLite transaction with `last_applied` inside, so that a crash at any moment leaves exactly a
prefix of the log applied. SQLite may lose the last transactions in a power cut, never tear one; the Raft log, which is
fsynced before anything is acknowledged, replays them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Final, Self

from services.consensus.metadata.apply_context import NO_STAMP, ApplyContext, KnownLimits
from services.consensus.metadata.audit import Trail
from services.consensus.metadata.bucket_records import BucketRecords
from services.consensus.metadata.checkpoint import SMALL_FRAMES, is_for_want_of_room, move_bulk, sync_write_ahead
from services.consensus.metadata.database import ConstraintViolatedError
from services.consensus.metadata.decisions import fence_of, next_stamp
from services.consensus.metadata.entries import CommittedEntry, decode_proposal
from services.consensus.metadata.garbage import Garbage
from services.consensus.metadata.history import History
from services.consensus.metadata.object_queries import Buckets
from services.consensus.metadata.older_versions import OlderVersions
from services.consensus.metadata.outcomes import (
    encode_outcome,
    fingerprint_of,
    first_result,
    is_of_attempt,
    repeated_result,
    reused,
)
from services.consensus.metadata.queries import answer_query, read_node_map
from services.consensus.metadata.quotas import run_within_quotas
from services.consensus.metadata.references import size_bytes
from services.consensus.metadata.requesters import check_requester
from services.consensus.metadata.retention import retention_class
from services.consensus.metadata.rows import NodeRow, RequestRow, RunRow, State
from services.consensus.metadata.tables import READER_CACHE_BYTES, WRITER_CACHE_BYTES, Tables
from services.consensus.metadata.upload_queries import size_bytes_of
from shared.contracts.audit import AuditPage
from shared.contracts.base import WireModel
from shared.contracts.cluster import NodeMap
from shared.contracts.files import FileVersion
from shared.contracts.metadata import (
    AnyCommand,
    AnyQuery,
    BucketsAnswer,
    FileAnswer,
    FilePage,
    Proposal,
    ProposalResult,
    PublishFile,
    ReadResult,
    ReadResults,
)
from shared.contracts.objects import BucketDocumentAnswer, VersionPage
from shared.contracts.references import CheckedReferences, ReferenceChanges, ReferencePage
from shared.contracts.uploads import PiecePage, UploadAnswer, UploadPage
from shared.errors import AccessChangedError, NodeRemovedError, NodeReplacedError, OverloadedError, TrivetError

MARK_EVERY_ENTRIES: Final = 256
MARKS_KEPT: Final = 16
_ROW_BYTES: Final = 150
"""Of one file or bucket in a list, without its key."""


@dataclass(frozen=True, slots=True)
class StateMark:
    """The state hash at an index that all members record, so that they can be compared while entries keep coming."""

    index: int
    state_hash: str


@dataclass(frozen=True, slots=True)
class _Committed:
    """What the last committed transaction left; replaced whole, so any thread may read it."""

    state: State
    node_map: NodeMap
    marks: tuple[StateMark, ...]
    announced: dict[str, int]
    nodes: dict[str, NodeRow]
    runs: dict[str, RunRow]
    newest_condemned: int


class MetadataStore:
    """All metadata of one member.

    `apply_batch` may run in one thread while `answer` runs in another; each waits only for its own kind. The properties,
    `node_map` and `state_hash` never wait and never touch the disk.

    Invariant: `last_applied` is what the last committed transaction says.
    """

    def __init__(self, path: Path, writer: Tables, reader: Tables) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._write_lock = Lock()
        self._read_lock = Lock()
        self._limits = KnownLimits()
        self._committed = self._read_committed()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the state machine's file, or make it.

        Raises:
            UnknownTablesError: it was written by another version.
            sqlite3.DatabaseError: it is damaged or cannot be opened. It is disposable: the log or a peer's snapshot
                makes it anew.
        """
        writer = Tables.open(path, cache_bytes=WRITER_CACHE_BYTES)
        try:
            return cls(path, writer, Tables.open(path, cache_bytes=READER_CACHE_BYTES))
        except BaseException:
            writer.database.close()
            raise

    def close(self) -> None:
        """Give the file back; waits for an apply or an answer under way."""
        with self._read_lock:
            self._reader.database.close()
        with self._write_lock:
            self._writer.database.close()

    @property
    def last_applied(self) -> int:
        """The index of the last entry applied; 0 before the first."""
        return self._committed.state.last_applied

    @property
    def cluster_id(self) -> str | None:
        """None before InitCluster was applied."""
        return self._committed.state.cluster_id

    def node_map(self) -> NodeMap:
        """The storage nodes as of `last_applied`; no SQL is run."""
        return self._committed.node_map

    def highest_hlc(self) -> int:
        """The highest hybrid timestamp applied: a gateway seeds its clock from it."""
        return self._committed.state.highest_hlc

    def apply_batch(self, entries: Sequence[CommittedEntry]) -> list[ProposalResult | None]:
        """Apply committed entries in log order, all in one transaction; None for Raft's own entries.

        After an exception nothing of the batch is applied, and the member must stop applying.

        Raises:
            UnknownEntryError: an entry is not known to this version.
            RowDamagedError, sqlite3.Error: the file cannot be used any more.
        """
        with self._write_lock:
            if not entries:
                return []
            before = self._committed
            batch = _Batch(self._writer, before, self._limits)
            with self._writer.usage.batch(), self._writer.database.transaction(write=True):
                results = [batch.apply(entry) for entry in entries]
                batch.write_trail()
                state = batch.state()
                self._writer.write_state(state)
                self._writer.usage.write()
                is_same_epoch = state.epoch == before.state.epoch
                node_map = before.node_map if is_same_epoch else read_node_map(self._writer, state)
                newest_condemned = batch.newest_condemned()
            self._committed = _Committed(
                state,
                node_map,
                batch.marks[-MARKS_KEPT:],
                batch.announced(),
                batch.nodes(),
                batch.runs(),
                newest_condemned,
            )
            return results

    def answer(self, queries: Sequence[AnyQuery], *, term: int, max_bytes: int | None = None) -> ReadResults:
        """Answer all queries from one state, at `last_applied` or later.

        Linearizable only when the caller has passed a ReadIndex barrier in `term` and waited for `last_applied`. In
        ClusterAnswer the caller fills in leader and members, which Raft knows.

        With `max_bytes`, queries after the one whose answer exceeds it get a problem that says to ask again.
        """
        sum_bytes = 0
        results: list[ReadResult] = []
        buckets: Buckets = {}
        with self._read_lock, self._reader.database.transaction(write=False):
            state = self._reader.read_state(with_trail=False)
            for query in queries:
                if max_bytes is not None and sum_bytes > max_bytes:
                    results.append(ReadResult(problem=_TOO_MUCH_AT_ONCE.to_problem()))
                    continue
                results.append(answer_query(self._reader, state, query, buckets))
                sum_bytes += _size_bytes(results[-1])
        return ReadResults(
            log_index=state.last_applied,
            term=term,
            epoch=state.epoch,
            hlc=state.highest_hlc,
            cluster_id=state.cluster_id,
            access_index=state.access_index,
            results=results,
        )

    @property
    def path(self) -> Path:
        """The file in force."""
        return self._path

    def checkpoint(self) -> int:
        """Make what is applied durable, and keep the write-ahead file short. Returns an index that survives a power cut.

        Blocks, in a thread of its own: applying waits for the last few frames only. Without room to move the write-ahead
        file it grows, and what it holds is durable all the same.

        Raises:
            OSError, sqlite3.Error: an fsync failed, or the file is damaged: what is durable is not known any more.
        """
        while True:
            index, path = self.last_applied, self._path
            try:
                sync_write_ahead(path)
                self._shorten_write_ahead(path)
            except (FileNotFoundError, sqlite3.OperationalError):
                if path == self._path:
                    raise
                continue  # a snapshot took the place of these tables meanwhile
            return index

    def _shorten_write_ahead(self, path: Path) -> None:
        try:
            if move_bulk(path) <= SMALL_FRAMES:
                with self._write_lock:
                    self._writer.database.checkpoint()
        except sqlite3.OperationalError as error:
            if not is_for_want_of_room(error):
                raise

    def replace_with(self, path: Path) -> None:
        """Go on with other tables; waits for an apply or an answer under way, and those that come wait for it."""
        writer = Tables.open(path, cache_bytes=WRITER_CACHE_BYTES)
        reader = Tables.open(path, cache_bytes=READER_CACHE_BYTES)
        with self._write_lock, self._read_lock:
            old = (self._writer, self._reader)
            self._writer, self._reader, self._path = writer, reader, path
            self._limits = KnownLimits()
            self._committed = self._read_committed()
        for tables in old:
            tables.database.close()

    def state_hash(self) -> str:
        """Over everything at `last_applied`: equal on every member that has applied the same entries. No SQL is run."""
        return self._committed.state.digest()

    def marks(self) -> tuple[StateMark, ...]:
        """The last ones, ascending, of this process' life. No SQL is run."""
        return self._committed.marks

    def state_hashes(self) -> dict[int, str]:
        """The state hashes that are known, by log index: at the marks and at `last_applied`. No SQL is run."""
        committed = self._committed
        hashes = {mark.index: mark.state_hash for mark in committed.marks}
        return hashes | {committed.state.last_applied: committed.state.digest()}

    def announced(self) -> dict[str, int]:
        """The newest entry version that each member said it can apply. No SQL is run."""
        return self._committed.announced

    def runs(self) -> dict[str, RunRow]:
        """The run of each storage node that was recorded last. No SQL is run."""
        return self._committed.runs

    def fence(self, node_id: str) -> int | None:
        """See `decisions.fence_of`; None for a node that is not admitted. No SQL is run."""
        committed = self._committed
        node = next((node for node in committed.node_map.nodes if node.id == node_id), None)
        return None if node is None else fence_of(node.incarnation, committed.runs.get(node_id))

    def summary(self) -> State:
        """What the last committed transaction left; no SQL is run."""
        return self._committed.state

    def _read_committed(self) -> _Committed:
        with self._writer.database.transaction(write=False):
            state = self._writer.read_state()
            node_map = read_node_map(self._writer, state)
            nodes = {node.node_id: node for node in self._writer.nodes()}
            newest = Garbage(self._writer).newest()
            return _Committed(state, node_map, (), self._writer.members(), nodes, self._writer.runs(), newest)


def _size_bytes(result: ReadResult) -> int:
    """About as many bytes as the long parts of an answer have; one alone is bounded by its kind."""
    found = 0
    match result.answer:
        case FileAnswer(file=FileVersion() as file):
            found = len(file.content.chunk_digests)
        case FilePage(files=rows, prefixes=prefixes) | VersionPage(versions=rows, prefixes=prefixes):
            found = sum(len(row.key) + _ROW_BYTES for row in rows) + sum(map(len, prefixes))
        case BucketDocumentAnswer(body=bytes() as body):
            found = len(body)
        case BucketsAnswer() as answer:
            found = len(answer.buckets) * _ROW_BYTES
        case ReferencePage() | ReferenceChanges() | CheckedReferences() as answer:
            found = size_bytes(answer)
        case PiecePage() | UploadAnswer() | UploadPage() as answer:
            found = size_bytes_of(answer)
        case AuditPage(lines=lines):
            found = len(lines)
    return found


def _is_new_attempt_due(command: AnyCommand, outcome: WireModel | TrivetError) -> bool:
    """The refusal is of this attempt and not of what was asked for: the next one may come under the same request id.

    Applied again it is the same refusal: what was replaced does not come back, and indexes of changes only grow. Not of
    publishes without fences: members of an older version remembered those, and all must come to the same state.
    """
    is_fenced = isinstance(command, PublishFile) and command.fences is not None
    return isinstance(outcome, AccessChangedError) or (
        is_fenced and isinstance(outcome, NodeRemovedError | NodeReplacedError)
    )


_TOO_MUCH_AT_ONCE: Final = OverloadedError("The answers of this batch are too large together; ask again.")


class _Batch:
    """Applies entries one after the other inside one transaction.

    What every entry changes is kept beside the state and put into it once, at the end and at every mark.
    """

    def __init__(self, tables: Tables, before: _Committed, limits: KnownLimits) -> None:
        state = before.state
        self.marks = before.marks
        self._database = tables.database
        self._database.content_sum = state.content_sum
        self._last_applied, self._last_term = state.last_applied, state.last_term
        self._highest_hlc = state.highest_hlc
        # A copy: commands change it in place, and the store shows the one from before until this batch is committed.
        nodes = dict(before.nodes)
        self._context = ApplyContext(
            index=0,
            term=0,
            stamp=NO_STAMP,
            tables=tables,
            history=History(tables),
            garbage=Garbage(tables, before.newest_condemned),
            state=state,
            nodes=nodes,
            runs=before.runs,
            buckets={},
            announced=before.announced,
            older=OlderVersions(tables),
            records=BucketRecords(tables),
            settings={},
            trail=Trail(tables.database, state.trail),
            limits=limits,
        )

    def apply(self, entry: CommittedEntry) -> ProposalResult | None:
        assert entry.index == self._last_applied + 1, "entries come once and in order"
        try:
            result = None if entry.payload is None else self._propose(entry, entry.payload)
        except sqlite3.IntegrityError as error:
            raise ConstraintViolatedError(entry.index, str(error)) from error
        self._last_applied, self._last_term = entry.index, entry.term
        if entry.index % MARK_EVERY_ENTRIES == 0:
            self.marks = (*self.marks, StateMark(entry.index, self.state().digest()))
        return result

    def announced(self) -> dict[str, int]:
        """What the table of members says."""
        return self._context.announced

    def nodes(self) -> dict[str, NodeRow]:
        """What the table of nodes says."""
        return self._context.nodes

    def runs(self) -> dict[str, RunRow]:
        """What the table of runs says."""
        return self._context.runs

    def newest_condemned(self) -> int:
        """See `Garbage.newest`."""
        return self._context.garbage.newest()

    def write_trail(self) -> None:
        """All rows of the batch at once: that costs half of one by one."""
        self._context.trail.flush()

    def state(self) -> State:
        """What the tables say, but for the row `state`, at the end of the entry applied last."""
        return replace(
            self._context.state,
            last_applied=self._last_applied,
            last_term=self._last_term,
            highest_hlc=self._highest_hlc,
            content_sum=self._database.signed_sum(),
            trail=self._context.trail.ends,
        )

    def _propose(self, entry: CommittedEntry, payload: bytes) -> ProposalResult:
        proposal, context = decode_proposal(payload), self._context
        if proposal.attempt_id is not None and (known := context.tables.request(proposal.attempt_id)) is not None:
            return repeated_result(known, context.tables)
        known = context.tables.request(proposal.request_id)
        if proposal.requester is not None and (known is None or not is_of_attempt(known, proposal)):
            try:
                check_requester(context, proposal.requester, proposal.command)
            except AccessChangedError as refusal:
                self._take_up(entry, proposal)
                return self._stored(entry, proposal, refusal)
        if known is not None:
            if fingerprint_of(known) != proposal.fingerprint:
                return reused(entry.index, entry.term)
            return repeated_result(known, context.tables)
        self._take_up(entry, proposal)
        outcome: WireModel | TrivetError
        try:
            outcome = run_within_quotas(context, proposal.command)
        except TrivetError as rejection:
            outcome = rejection
        return self._stored(entry, proposal, outcome)

    def _take_up(self, entry: CommittedEntry, proposal: Proposal) -> None:
        """The entry decides something: it has its place and its time."""
        context = self._context
        context.index, context.term = entry.index, entry.term
        context.act_for(proposal.requester)
        context.stamp = next_stamp(self._highest_hlc, proposal.command.stamp)
        self._highest_hlc = context.stamp.hlc

    def _stored(self, entry: CommittedEntry, proposal: Proposal, outcome: WireModel | TrivetError) -> ProposalResult:
        """The answer, in the trail and kept under the id of what it answers for all time: the attempt, or the request."""
        if proposal.requester is not None:
            context = self._context
            context.trail.record(entry.index, context.stamp, proposal.requester, proposal.command, outcome)
        stored_under = proposal.request_id
        if proposal.attempt_id is not None and isinstance(outcome, TrivetError) and outcome.is_transient:
            stored_under = proposal.attempt_id
        elif _is_new_attempt_due(proposal.command, outcome):
            return first_result(entry.index, entry.term, outcome)
        if proposal.retain_s > 0:
            attempt_id = None if proposal.requester is None else proposal.attempt_id
            stored = encode_outcome(outcome, entry.index, proposal.fingerprint, attempt_id)
            retain_s = retention_class(proposal.retain_s)
            self._context.tables.insert_request(RequestRow(stored_under, entry.index, entry.term, retain_s, stored))
        return first_result(entry.index, entry.term, outcome)
