"""Remembers which storage nodes held which chunks a moment ago, so that a GET need not ask them again (G-130).

Every acknowledged put, every get whose bytes had the digest and every `has` answer leaves a confirmation: this node, with
this fence, held this chunk at that time. They serve GET alone: a write never counts one, and neither does a read that makes
the read quorum a condition (docs/promises.md, "Whose acknowledgement counts").
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from shared.contracts.cluster import StorageNode

MAX_CONFIRMATIONS: Final = 100_000
"""Over all nodes; each takes about 220 bytes."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """`node` held the chunk `age_s` ago."""

    node: StorageNode
    age_s: float


@dataclass(slots=True)
class _NodeMemory:
    """What one disk of a node confirmed. `asked_s`: monotonic, by digest, in the order in which it was confirmed."""

    fence: int
    asked_s: OrderedDict[str, float] = field(default_factory=OrderedDict)


class Confirmations:
    """Bounded; those that were confirmed longest ago are evicted first.

    Invariant: all confirmations of a node came with one fence, that of its last answer. A node that answers with another
    one has another disk or Redis, and what it held before says nothing any more.
    """

    def __init__(
        self,
        *,
        max_age_s: float,
        max_count: int = MAX_CONFIRMATIONS,
        read_s: Callable[[], float] | None = None,
    ) -> None:
        """`max_age_s`: older ones do not count; 0 remembers nothing. `read_s`: the monotonic clock, by default the process'."""
        self._max_age_s = max_age_s
        self._max_count = max_count
        self._read_s = read_s or time.monotonic
        self._nodes: dict[str, _NodeMemory] = {}
        self._forgotten_s = self._read_s()

    def __len__(self) -> int:
        return sum(len(node.asked_s) for node in self._nodes.values())

    def is_aging(self, confirmation: Confirmation) -> bool:
        """Whether its node should be asked again before it is too old to count."""
        return confirmation.age_s > self._max_age_s / 2

    def confirm(self, node_id: str, digests: Iterable[str], fence: int | None, asked_s: float) -> None:
        """`node_id` answered under `fence` that it holds `digests`; it was asked at `asked_s`, monotonic.

        An answer without a fence is not remembered: nothing would say when the disk behind it has changed.
        """
        if fence is None or self._max_age_s == 0 or asked_s < self._forgotten_s:
            return
        known = self._nodes.get(node_id)
        if known is None or known.fence != fence:
            known = self._nodes[node_id] = _NodeMemory(fence)
        for digest in digests:
            before_s = known.asked_s.pop(digest, asked_s)
            known.asked_s[digest] = max(before_s, asked_s)
        self._evict()

    def refute(self, node_id: str, digest: str) -> None:
        """`node_id` lacks the chunk, or has it wrong."""
        if (known := self._nodes.get(node_id)) is not None:
            known.asked_s.pop(digest, None)

    def holders(self, digest: str, expected: Sequence[StorageNode]) -> list[Confirmation]:
        """Those of `expected` that confirmed the chunk lately with the disk that counts now, the youngest first.

        `expected` are the expected holders in the epoch of a read, as the node map of that epoch describes them.
        """
        now_s = self._read_s()
        found = []
        for node in expected:
            known = self._nodes.get(node.id)
            # A fence is the epoch since which the acknowledgements of a disk and Redis count: a lower one is of a disk
            # that is gone.
            if known is None or known.fence < node.incarnation:
                continue
            asked_s = known.asked_s.get(digest)
            if asked_s is not None and now_s - asked_s <= self._max_age_s:
                found.append(Confirmation(node, now_s - asked_s))
        return sorted(found, key=lambda confirmation: confirmation.age_s)

    def forget(self) -> None:
        """Begin anew: for another cluster. What was asked before and is answered later is not remembered either."""
        self._nodes.clear()
        self._forgotten_s = self._read_s()

    def _evict(self) -> None:
        while len(self) > self._max_count:
            largest = max(self._nodes.values(), key=lambda node: len(node.asked_s))
            largest.asked_s.popitem(last=False)
