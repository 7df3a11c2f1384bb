"""Which nodes should hold a chunk: weighted rendezvous hashing over a node map, zones first.

Pure, so that gateways and storage nodes agree without asking. Rendezvous hashing gives every (digest, node) pair a score;
the best scores win, and a node that joins or leaves moves only the chunks that it wins or loses. Weights enter as
-w / ln(u) (Schindelhauer & Schomaker 2005). Scores are compared as integers derived from one 64-bit hash each, with a
fixed-point logarithm of our own, because the last bit of `math.log2` may differ between C libraries. Far from an edge
that bit does not matter; there `math.log2` gives the same integer in a tenth of the time, and it is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from blake3 import blake3

from shared.contracts.cluster import NodeMap, NodeState, StorageNode
from shared.units import GIB

_LIVE: Final = frozenset({"active", "suspect"})
"""States, by name: `suspect` is stored by newer members only."""
_HASH_BITS: Final = 64
_FRACTION_BITS: Final = 32
_EDGE: Final = 2.0**-10
"""In units of the last fraction bit. `math.log2` of a number in [1, 2) errs by about 2^-53, the exact way by less than
2^-63: in these units 2^-21 and 2^-31. So a C library may be a thousand times worse than any is."""


def preference_list(digest: str, nodes: Iterable[StorageNode]) -> list[StorageNode]:
    """All `nodes` in the order in which they should hold chunk `digest` (64 hex digits), best first.

    The first nodes lie in as many different zones as there are; within that rule the higher score wins. The order
    depends on ids, zones and capacities only: state is the caller's business, so that a node that is away keeps its
    place and gets its chunks back.
    """
    ranked = sorted(nodes, key=lambda node: (-_score(digest, node.id, _weight(node.capacity_bytes)), node.id))
    spread: list[StorageNode] = []
    while ranked:
        zones: set[str] = set()
        rest: list[StorageNode] = []
        for node in ranked:
            (rest if node.zone in zones else spread).append(node)
            zones.add(node.zone)
        ranked = rest
    return spread


def can_take_chunks(node: StorageNode) -> bool:
    """Whether new chunks may be written to `node`: it has an address and is not being drained."""
    return bool(node.url) and node.state != NodeState.DRAINING


def write_order(digest: str, node_map: NodeMap) -> list[StorageNode]:
    """The preference list of a write: nodes that may take new chunks, those believed away last."""
    usable = [node for node in preference_list(digest, node_map.nodes) if can_take_chunks(node)]
    return sorted(usable, key=lambda node: node.state != NodeState.ACTIVE)


def read_order(digest: str, node_map: NodeMap) -> list[StorageNode]:
    """The preference list of a read: every node that has an address, those believed away last."""
    usable = [node for node in preference_list(digest, node_map.nodes) if node.url]
    return sorted(usable, key=lambda node: node.state == NodeState.INACTIVE)


def live_nodes(node_map: NodeMap) -> list[StorageNode]:
    """The nodes that count as places for replicas: they have an address, and are neither away, nor leaving, nor yet to come."""
    return [node for node in node_map.nodes if node.url and node.state in _LIVE]


def expected_holders(digest: str, live: Sequence[StorageNode], replica_count: int) -> list[StorageNode]:
    """Who should hold the chunk for good, best first; `live` from `live_nodes`. All of them, when they are too few."""
    return preference_list(digest, live)[:replica_count]


def is_expected_holder(digest: bytes, node_id: str, live: Sequence[StorageNode], replica_count: int) -> bool:
    """Whether `node_id` is one of `expected_holders`, for a raw digest. For many digests in a row: nothing is cached."""
    if len(live) <= replica_count:
        return any(node.id == node_id for node in live)
    name = digest.hex()
    own = next((node for node in live if node.id == node_id), None)
    if own is None:
        return False
    if any(node.zone != own.zone for node in live):
        return any(node.id == node_id for node in expected_holders(name, live, replica_count))
    rank = (-_uncached_score(name, own.id, _weight(own.capacity_bytes)), own.id)
    better = sum((-_uncached_score(name, node.id, _weight(node.capacity_bytes)), node.id) < rank for node in live)
    return better < replica_count


def _weight(capacity_bytes: int) -> int:
    """Whole GiB, at least one: small changes of a file system's size must not move chunks."""
    return max(1, capacity_bytes // GIB)


@lru_cache(maxsize=65536)
def _score(digest: str, node_id: str, weight: int) -> int:
    return _uncached_score(digest, node_id, weight)


def _uncached_score(digest: str, node_id: str, weight: int) -> int:
    raw = int.from_bytes(blake3(f"{digest}/{node_id}".encode()).digest(_HASH_BITS // 8))
    # u in (0, 1) as (raw + 1) / (2^64 + 1), so that -log2(u) > 0 and the division is defined.
    distance = (_HASH_BITS << _FRACTION_BITS) - _log2(raw + 1) + 1
    return (weight << (2 * _FRACTION_BITS)) // distance


def _log2(value: int) -> int:
    """floor(log2(value) * 2^32) for 1 <= value <= 2^64; the same on every machine."""
    exponent = value.bit_length() - 1
    scaled = math.log2(value / (1 << exponent)) * (1 << _FRACTION_BITS)
    fraction = int(scaled)
    if _EDGE < scaled - fraction < 1 - _EDGE:
        return (exponent << _FRACTION_BITS) | fraction
    return _exact_log2(value)


def _exact_log2(value: int) -> int:
    """What `_log2` promises, in integers alone, by repeated squaring of the mantissa."""
    exponent = value.bit_length() - 1
    mantissa = (value << _HASH_BITS) >> exponent  # fixed point in [1, 2)
    fraction = 0
    for bit in range(_FRACTION_BITS - 1, -1, -1):
        mantissa = (mantissa * mantissa) >> _HASH_BITS
        if mantissa >> (_HASH_BITS + 1):
            mantissa >>= 1
            fraction |= 1 << bit
    return (exponent << _FRACTION_BITS) | fraction
