"""The metadata half of a schedule: the real state machine behind a log that commits what reaches it.

Raft is proved elsewhere (`tests.simulation.chaos`): here an entry is committed and applied in the step in which its proposal
arrives, and a read is answered from the state in the step in which it arrives. What a proposer learns, and when, is decided
by the network in between.
"""

from __future__ import annotations

import sqlite3
from functools import cache
from pathlib import Path
from typing import Any, Final, Self
from unittest.mock import patch

from services.consensus.metadata import retention
from services.consensus.metadata.database import Database
from services.consensus.metadata.entries import (
    KNOWN_ENTRY_VERSION,
    CommittedEntry,
    encode_proposal,
)
from services.consensus.metadata.store import MetadataStore
from services.consensus.metadata.tables import WRITER_CACHE_BYTES, Tables
from shared.contracts.cluster import NodeMap
from shared.contracts.metadata import (
    AnnounceMember,
    Answer,
    AnyCommand,
    AnyQuery,
    CreateBucket,
    InitCluster,
    PassTime,
    Proposal,
    ProposalResult,
    RaiseEntryVersion,
)
from shared.contracts.time import ClockState, Stamp
from shared.errors import error_from_problem

REPLICA_COUNT: Final = 3
REFERENCE_RETENTION_S: Final = 60
"""The longer of the grace period and the longest download. A node asks with it how old its orphans are, too."""
CURSOR_RETENTION_S: Final = 20
CONDEMNED_RETENTION_S: Final = 400

BUCKET: Final = "photos"
"""Keeps no versions."""

KEPT_BUCKET: Final = "letters"
"""May keep versions, as a schedule decides."""

BUCKETS: Final = (BUCKET, KEPT_BUCKET)

_WAITING: Final = "SELECT version FROM released UNION SELECT version FROM doomed"
_LEAKS: Final = {
    "version": (
        "SELECT version FROM versions WHERE version NOT IN (SELECT version FROM files UNION SELECT version FROM past UNION "
        f"SELECT version FROM older_versions UNION SELECT version FROM kept UNION {_WAITING})"
    ),
    "manifest": f"SELECT manifest FROM manifests WHERE manifest NOT IN (SELECT manifest FROM manifest_refs UNION {_WAITING})",
    "composition": (
        "SELECT composition FROM compositions WHERE composition NOT IN "
        f"(SELECT composition FROM composition_refs UNION {_WAITING})"
    ),
    "chunk list": (
        "SELECT DISTINCT version FROM chunk_refs WHERE version NOT IN (SELECT version FROM versions UNION "
        "SELECT manifest FROM manifests)"
    ),
    "references of": (
        "SELECT DISTINCT owner FROM manifest_refs WHERE owner NOT IN (SELECT upload FROM uploads UNION "
        "SELECT composition FROM compositions)"
    ),
}
"""By what it is: those that cannot be reached."""

_MEMORY: Final = Path(":memory:")

STAMP: Final = Stamp(hlc=1 << 32, state=ClockState.LOGICAL)


@cache
def _template(cluster_id: str) -> bytes:
    """A cluster that has just been initialised: schedules begin with a copy of it."""
    log = Log(_store(None), "first")
    log.propose(InitCluster(cluster_id=cluster_id, admitted_nodes=[], stamp=STAMP))
    log.propose(AnnounceMember(member_id="consensus-1", entry_version=KNOWN_ENTRY_VERSION, stamp=STAMP))
    log.propose(RaiseEntryVersion(entry_version=KNOWN_ENTRY_VERSION, stamp=STAMP))
    for bucket in BUCKETS:
        log.propose(CreateBucket(bucket=bucket, stamp=STAMP))
    content = log.connection.serialize()
    log.close()
    return content


def _store(content: bytes | None) -> MetadataStore:
    """Tables in memory, over one connection: nothing of a schedule outlives it, and nobody asks while something is applied."""
    if content is None:
        tables = Tables.open(_MEMORY, cache_bytes=WRITER_CACHE_BYTES)
    else:
        connection = sqlite3.connect(_MEMORY, isolation_level=None, cached_statements=256)
        connection.deserialize(content)
        tables = Tables(Database(connection))
    return MetadataStore(_MEMORY, tables, tables)


class Log:
    """Entries in order, and the state they make."""

    def __init__(self, store: MetadataStore, name: str = "request") -> None:
        self.store = store
        self.rows_per_entry = retention.FORGET_ROWS_MAX
        """How much an entry forgets: with few rows what is given up goes in several entries, and others come in between."""
        self._name = name
        self._requests = 0
        self.proposals: list[Proposal] = []
        """Of every entry since the first ones, which `create` brings."""

    @classmethod
    def create(cls, cluster_id: str = "simulated") -> Self:
        """The log of a new cluster, which has its buckets."""
        return cls(_store(_template(cluster_id)), f"{cluster_id} request")

    def restored(self, cluster_id: str, entries: int) -> Self:
        """A cluster with another id that begins as this one was after so many entries."""
        log = self.create(cluster_id)
        log.rows_per_entry = self.rows_per_entry
        for proposal in self.proposals[:entries]:
            log.commit(proposal)
        return log

    def close(self) -> None:
        """Give the memory back."""
        self.store.close()

    @property
    def connection(self) -> sqlite3.Connection:
        """To the tables."""
        return self.store._reader.database.connection

    @property
    def index(self) -> int:
        """Of the last entry applied."""
        return self.store.last_applied

    @property
    def lived_s(self) -> float:
        """The log's own age."""
        return self.store.summary().lived_ms / 1000

    @property
    def node_map(self) -> NodeMap:
        """As of the last entry."""
        return self.store.node_map()

    def new_request_id(self) -> str:
        """For a request or an attempt."""
        self._requests += 1
        return f"{self._name}-{self._requests}"

    def append(
        self, command: AnyCommand, request_id: str, *, attempt_id: str | None = None, fingerprint: str | None = None
    ) -> ProposalResult:
        """Commit and apply one entry; what became of it."""
        proposal = Proposal(
            request_id=request_id, attempt_id=attempt_id, fingerprint=fingerprint, command=command, retain_s=86_400
        )
        return self.commit(proposal)

    def commit(self, proposal: Proposal) -> ProposalResult:
        """One entry."""
        self.proposals.append(proposal)
        with patch.object(retention, "FORGET_ROWS_MAX", self.rows_per_entry):
            (result,) = self.store.apply_batch([CommittedEntry(self.index + 1, 1, encode_proposal(proposal))])
        assert result is not None
        return result

    def propose(self, command: AnyCommand) -> dict[str, Any]:
        """As `append` of a request that nobody repeats. Raises the refusal."""
        result = self.append(command, self.new_request_id())
        if result.problem is not None:
            raise error_from_problem(result.problem)
        return result.result or {}

    def read(self, *queries: AnyQuery) -> tuple[int, list[Answer]]:
        """The answers of one state, and its index. Raises a refusal."""
        results = self.store.answer(queries, term=1)
        answers = []
        for result in results.results:
            if result.answer is None:
                raise error_from_problem(result.problem or {})
            answers.append(result.answer)
        return results.log_index, answers

    def leaked_rows(self) -> list[str]:
        """Chunk lists that nothing leads to any more, and that nothing is about to forget."""
        execute = self.connection.execute
        return [f"{what} {number}" for what, query in _LEAKS.items() for (number,) in execute(query)]


def pass_time(elapsed_s: float, *, reference_retention_s: int = REFERENCE_RETENTION_S) -> PassTime:
    """The entry that lets the log's clock go on, and some be forgotten."""
    return PassTime(
        elapsed_ms=int(elapsed_s * 1000),
        cursor_retention_s=CURSOR_RETENTION_S,
        tombstone_retention_s=REFERENCE_RETENTION_S,
        reference_retention_s=reference_retention_s,
        condemned_retention_s=CONDEMNED_RETENTION_S,
        stamp=STAMP,
    )
