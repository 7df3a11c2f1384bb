"""What the log says about references, as typed calls. Consensus answers them from one state each, and says at which index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from services.storage.reconcile.expected_chunks import Position, Sized
from shared.consensus_calls.client import ReadContext
from shared.contracts.calls import AnswerT, Command, Proposed, Query, ResultT
from shared.contracts.cluster import NodeMap
from shared.contracts.metadata import GetCluster
from shared.contracts.names import DIGEST_BYTES
from shared.contracts.references import CheckReferences, CondemnChunks, ListReferenceChanges, ListReferences
from shared.contracts.time import Stamp
from shared.errors import InternalError

PAGE: Final = 1000
"""Chunks in one page: a few milliseconds of the member that answers, of this node's loop and of the thread that places them."""


class Consensus(Protocol):
    """The part of `shared.consensus_calls.client.ConsensusClient` that is used here."""

    async def read(self, query: Query[AnswerT]) -> tuple[AnswerT, ReadContext]:
        """Linearizable."""

    async def propose(self, command: Command[ResultT]) -> Proposed[ResultT]:
        """Once."""


class Stamps(Protocol):
    """See `shared.timekeeping.time_client.TimeClient`."""

    def stamp(self) -> Stamp:
        """A stamp of now."""


@dataclass(frozen=True, slots=True)
class Condemned:
    """A chunk that the log condemned last at `log_index`."""

    digest: bytes
    log_index: int


@dataclass(frozen=True, slots=True)
class Changes:
    """One page of what the log did to references.

    Attributes:
        added: chunks that files refer to.
        condemned: chunks to which no file refers at `context.log_index`.
        position: where the next page goes on.
        must_restart: changes before it are not known any more.
    """

    context: ReadContext
    added: Sequence[Sized]
    condemned: Sequence[Condemned]
    position: Position
    has_more: bool
    must_restart: bool


@dataclass(frozen=True, slots=True)
class ReferencesPage:
    """Chunks that files refer to, in order of digests."""

    context: ReadContext
    chunks: Sequence[Sized]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Checked:
    """Which of the chunks that were asked about files refer to; `condemned` has those that the log condemned, and when.

    `aged_index`: the newest log index that is older than the grace period.
    """

    context: ReadContext
    referenced: frozenset[bytes]
    condemned: dict[bytes, int]
    aged_index: int


class References:
    """Asks consensus. Every method raises what `ConsensusClient` raises, and InternalError for an answer that does not fit."""

    def __init__(self, consensus: Consensus, stamps: Stamps, gc_grace_s: int) -> None:
        self._consensus = consensus
        self._stamps = stamps
        self._gc_grace_s = gc_grace_s

    async def node_map(self) -> tuple[NodeMap, ReadContext]:
        """The node map, and where in the log it was read."""
        answer, context = await self._consensus.read(GetCluster())
        return answer.node_map, context

    async def log_index(self) -> int:
        """How far the log is: no index that anybody read in it before is higher."""
        _, context = await self._consensus.read(GetCluster())
        return context.log_index

    async def page(self, after: bytes) -> ReferencesPage:
        """The references after the digest `after`."""
        answer, context = await self._consensus.read(ListReferences(after=after, limit=PAGE))
        return ReferencesPage(context, _sized(answer.digests, answer.sizes), answer.has_more)

    async def changes(self, position: Position) -> Changes:
        """What came after `position`."""
        query = ListReferenceChanges(after_index=position.log_index, after_chunk=position.chunk, limit=PAGE)
        answer, context = await self._consensus.read(query)
        digests = _cut(answer.condemned)
        if not len(digests) == len(answer.condemned_indexes) == len(answer.is_referenced):
            raise InternalError("Consensus sent another number of indexes than of condemned chunks.")
        condemned = zip(digests, answer.condemned_indexes, answer.is_referenced, strict=True)
        return Changes(
            context,
            _sized(answer.added, answer.added_sizes),
            [Condemned(digest, index) for digest, index, is_referenced in condemned if not is_referenced],
            Position(answer.next_index, answer.next_chunk),
            answer.has_more,
            answer.must_restart,
        )

    async def check(self, digests: Sequence[bytes]) -> Checked:
        """Whether files refer to these, at most REFERENCES_MAX of them."""
        query = CheckReferences(digests=b"".join(digests), age_s=self._gc_grace_s)
        answer, context = await self._consensus.read(query)
        if len(answer.is_referenced) != len(digests):
            raise InternalError("Consensus answered about another number of chunks than was asked.")
        referenced = [digest for digest, found in zip(digests, answer.is_referenced, strict=True) if found]
        condemned = zip(digests, answer.condemned_indexes or [], strict=False)
        return Checked(
            context,
            frozenset(referenced),
            {digest: index for digest, index in condemned if index},
            answer.aged_index,
        )

    async def condemn(self, start_indexes: dict[bytes, int]) -> None:
        """Propose that these, to which no file refers, be deleted; at most CONDEMN_MAX of them."""
        await self._consensus.propose(
            CondemnChunks(
                digests=b"".join(start_indexes),
                start_indexes=list(start_indexes.values()),
                stamp=self._stamps.stamp(),
            )
        )


def _cut(digests: bytes) -> list[bytes]:
    if len(digests) % DIGEST_BYTES:
        raise InternalError("Consensus sent a part of a digest.")
    return [digests[start : start + DIGEST_BYTES] for start in range(0, len(digests), DIGEST_BYTES)]


def _sized(digests: bytes, sizes: Sequence[int]) -> list[Sized]:
    cut = _cut(digests)
    if len(cut) != len(sizes):
        raise InternalError("Consensus sent another number of sizes than of chunks.")
    return list(zip(cut, sizes, strict=True))
