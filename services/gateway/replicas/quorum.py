"""All arithmetic of N, W and R, in one place and pure.

Overlap (W + R > N) alone does not make a store linearizable; the Raft log does (docs/promises.md, P2). What is counted here is
how many replicas of a chunk are durable before an answer, and how many are confirmed before a read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from services.gateway.semantics.parameters import Header
from shared.contracts.files import Durability
from shared.errors import DiskFullError, InvalidRequestError, QuorumNotReachedError, TrivetError

WRITE_QUORUM: Final = Header(
    "X-Trivet-Write-Quorum", "Replicas of every chunk that must be durable before the answer, 1 to N.", "2"
)
READ_QUORUM: Final = Header(
    "X-Trivet-Read-Quorum",
    "Replicas of every chunk that must be proved; fewer are answered 503. HEAD counts them only with this.",
    "2",
)


@dataclass(frozen=True, slots=True)
class Quorums:
    """N, W and R of one request. Invariant: 1 <= write <= replicas and 1 <= read <= replicas.

    `is_read_strict` makes R a condition of the answer; otherwise it is what is asked for and reported.
    """

    replica_count: int
    write_quorum: int
    read_quorum: int
    is_read_strict: bool = False

    def for_request(self, write_quorum: str | None, read_quorum: str | None) -> Quorums:
        """These quorums with what the headers of one request ask for; asking for R makes it strict.

        Raises:
            InvalidRequestError: a header is not a number in 1..N.
        """
        chosen = self
        if write_quorum is not None:
            chosen = replace(chosen, write_quorum=self._parse(WRITE_QUORUM, write_quorum))
        if read_quorum is not None:
            asked = self._parse(READ_QUORUM, read_quorum)
            chosen = replace(chosen, read_quorum=asked, is_read_strict=True)
        return chosen

    def _parse(self, header: Header, value: str) -> int:
        # int() would also take "+2", "1_0" and digits of other scripts.
        if not (value.isascii() and value.isdigit() and len(value) <= 2 and 1 <= int(value) <= self.replica_count):
            raise InvalidRequestError(f"{header.name} is a number from 1 to {self.replica_count}.", header=header.name)
        return int(value)


@dataclass(slots=True)
class WriteTally:
    """How the replicas of one chunk stand. It may grow after the quorum was met.

    Invariant: a node is in `acknowledged` or in `refusals`, never in both.
    """

    target: int
    needed: int
    acknowledged: set[str] = field(default_factory=set)
    refusals: dict[str, TrivetError] = field(default_factory=dict)
    fences: dict[str, int] = field(default_factory=dict)

    def record_stored(self, node_id: str, fence: int | None = None) -> None:
        """`node_id` has the chunk durably, and acknowledged it under `fence`."""
        self.refusals.pop(node_id, None)
        self.acknowledged.add(node_id)
        if fence is not None:
            self.fences[node_id] = fence

    def record_refusal(self, node_id: str, error: TrivetError) -> None:
        """`node_id` did not store the chunk in time."""
        if node_id not in self.acknowledged:
            self.refusals[node_id] = error

    @property
    def is_complete(self) -> bool:
        """All replicas are durable."""
        return len(self.acknowledged) >= self.target

    @property
    def is_quorum_met(self) -> bool:
        """Enough replicas are durable for the answer."""
        return len(self.acknowledged) >= self.needed

    def wanted(self, under_way: int) -> int:
        """How many more attempts to start for the full number of replicas, when `under_way` are not overdue."""
        return max(0, self.target - len(self.acknowledged) - under_way)

    def is_short(self, under_way: int) -> bool:
        """Even if all `under_way` succeed, the quorum is missed."""
        return len(self.acknowledged) + under_way < self.needed

    def failure(self) -> TrivetError:
        """Why the write quorum was missed, as the client is told. Definite: nothing was published."""
        if self.refusals and all(isinstance(error, DiskFullError) for error in self.refusals.values()):
            return DiskFullError("The storage nodes are full.", needed=self.needed, acknowledged=len(self.acknowledged))
        return QuorumNotReachedError(
            f"{len(self.acknowledged)} of the {self.needed} replicas needed were stored.",
            definite=True,
            needed=self.needed,
            acknowledged=len(self.acknowledged),
            outcomes={node_id: error.code for node_id, error in sorted(self.refusals.items())},
        )


def fences(tallies: Iterable[WriteTally]) -> dict[str, int]:
    """What a publish names: the lowest fence of each node. One that differs between chunks is that of a disk which is gone."""
    lowest: dict[str, int] = {}
    for tally in tallies:
        for node_id, fence in tally.fences.items():
            lowest[node_id] = min(fence, lowest.get(node_id, fence))
    return lowest


def durability(tallies: Iterable[WriteTally], target: int) -> Durability:
    """What a receipt says: the weakest chunk counts. A file without chunks is as durable as the log itself."""
    acknowledged = target
    nodes: set[str] = set()
    for tally in tallies:
        acknowledged = min(acknowledged, len(tally.acknowledged))
        nodes |= tally.acknowledged
    return Durability(target=target, acknowledged=acknowledged, nodes=sorted(nodes))


def replicas_confirmed(holders: Iterable[set[str]], replica_count: int) -> int:
    """The weakest chunk's number of confirmed replicas; `replica_count` when there is no chunk."""
    return min((len(nodes) for nodes in holders), default=replica_count)


def require_read_quorum(confirmed: int, quorums: Quorums) -> None:
    """Raises QuorumNotReachedError when R is a condition and `confirmed` misses it."""
    if quorums.is_read_strict and confirmed < quorums.read_quorum:
        raise QuorumNotReachedError(
            f"{confirmed} of the {quorums.read_quorum} replicas needed confirm every chunk.",
            needed=quorums.read_quorum,
            acknowledged=confirmed,
        )


def require_enough_nodes(node_count: int, quorums: Quorums) -> None:
    """Raises QuorumNotReachedError when the cluster has fewer nodes than the write quorum needs."""
    if node_count < quorums.write_quorum:
        raise QuorumNotReachedError(
            f"The cluster has {node_count} usable storage nodes; the write quorum is {quorums.write_quorum}.",
            definite=True,
            needed=quorums.write_quorum,
            acknowledged=0,
            outcomes={},
        )
