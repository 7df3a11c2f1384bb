"""Which nodes should hold a chunk: weighted rendezvous hashing over a node map, zones first (X-13).

Pure, so that gateways and storage nodes agree without asking. Rendezvous hashing gives every (digest, node) pair a score;
the best scores win, and a node that joins or leaves moves only the chunks that it wins or loses. Weights enter as
-w / ln(u) (Schindelhauer & Schomaker 2005). Scores are compared as integers derived from one 64-bit hash each, with a
fixed-point logarithm of our own, because the last bit of `math.log2` may differ between C libraries. Far from an edge
that bit does not matter; there `math.log2` gives the same integer in a tenth of the time, and it is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from operator import itemgetter
from typing import Final

from blake3 import blake3

from shared.contracts.cluster import NodeMap, NodeState, StorageNode
from shared.units import GIB

_LIVE: Final = frozenset({"active", "suspect"})
"""States, by name: `suspect` is stored by newer members only."""
_FULL: Final = 2
_ABSENCE: Final = {NodeState.SUSPECT: 1, NodeState.INACTIVE: 3}
"""What puts a node behind others: it certainly refuses a write when it is full, and does not answer at all when it is away."""

_HASH_BITS: Final = 64
_FRACTION_BITS: Final = 32
_HASH_BYTES: Final = _HASH_BITS // 8
_ONE: Final = float(1 << _FRACTION_BITS)
_MAX_LOG: Final = float((_HASH_BITS << _FRACTION_BITS) + 1)
_MIN_DISTANCE: Final = 2.0**20
_NEAR: Final = 2.0**-18
"""Scores in floating point that differ by less, as a part of them, are compared exactly: nearly twice the errors of two scores
together, each at most 2^-20 for the distance and 2^-25 for the rest. That is one digest in about a thousand."""
_int_from_bytes: Final = int.from_bytes
_first: Final = itemgetter(0)
_EDGE: Final = 2.0**-10
"""In units of the last fraction bit. `math.log2` of a number in [1, 2) errs by about 2^-53, the exact way by less than
2^-63: in these units 2^-21 and 2^-31. So a C library may be a thousand times worse than any is."""


def preference_list(digest: str, nodes: Iterable[StorageNode]) -> list[StorageNode]:
    """All `nodes` in the order in which they should hold chunk `digest` (64 hex digits), best first.

    The first nodes lie in as many different zones as there are; within that rule the higher score wins. The order
    depends on ids, zones and capacities only: state is the caller's business, so that a node that is away keeps its
    place and gets its chunks back.
    """
    ranked = _by_score(digest, list(nodes))
    spread: list[StorageNode] = []
    while ranked:
        zones: set[str] = set()
        rest: list[StorageNode] = []
        for node in ranked:
            (rest if node.zone in zones else spread).append(node)
            zones.add(node.zone)
        ranked = rest
    return spread


def _by_score(digest: str, nodes: list[StorageNode]) -> list[StorageNode]:
    """The highest score first, without a look at zones."""
    name = digest.encode()
    try:
        scored = sorted(
            ((_kept_score(name, _candidate(node.id, node.capacity_bytes)), node) for node in nodes),
            key=_first,
            reverse=True,
        )
        for (score, _), (next_score, _) in pairwise(scored):
            _is_before(score, next_score)
    except _NearTieError:
        return sorted(
            nodes, key=lambda node: (-_score(digest, node.id, placement_weight(node.capacity_bytes)), node.id)
        )
    return [node for _, node in scored]


def can_take_chunks(node: StorageNode) -> bool:
    """Whether new chunks may be written to `node`: it has an address and is not being drained."""
    return bool(node.url) and node.state != NodeState.DRAINING


def write_order(digest: str, node_map: NodeMap) -> list[StorageNode]:
    """The preference list of a write: nodes that may take new chunks; then suspect, full and absent ones, in this order."""
    usable = [node for node in preference_list(digest, node_map.nodes) if can_take_chunks(node)]
    return sorted(usable, key=lambda node: max(_absence(node), _FULL if node.is_full else 0))


def read_order(digest: str, node_map: NodeMap) -> list[StorageNode]:
    """The preference list of a read: every node that has an address, suspect ones later, those believed away last."""
    usable = [node for node in preference_list(digest, node_map.nodes) if node.url]
    return sorted(usable, key=_absence)


def _absence(node: StorageNode) -> int:
    return _ABSENCE.get(node.state, 0)


def live_nodes(node_map: NodeMap) -> list[StorageNode]:
    """The nodes that count as places for replicas: they have an address, and are neither away, nor leaving, nor yet to come."""
    return [node for node in node_map.nodes if node.url and node.state in _LIVE]


def expected_holders(digest: str, live: Sequence[StorageNode], replica_count: int) -> list[StorageNode]:
    """Who should hold the chunk for good, best first; `live` from `live_nodes`. All of them, when they are too few."""
    return preference_list(digest, live)[:replica_count]


def is_expected_holder(digest: bytes, node_id: str, live: Sequence[StorageNode], replica_count: int) -> bool:
    """Whether `node_id` is one of `expected_holders`, for a raw digest. For many digests: `expected_holder_filter`."""
    return expected_holder_filter(node_id, live, replica_count)(digest)


def expected_holder_filter(node_id: str, live: Sequence[StorageNode], replica_count: int) -> Callable[[bytes], bool]:
    """`is_expected_holder` for many raw digests in a row: what only depends on the nodes is done once, nothing is cached."""
    own = next((node for node in live if node.id == node_id), None)
    if own is None or len(live) <= replica_count:
        return lambda _: own is not None
    by_zone: dict[str, list[_Candidate]] = {}
    for node in live:
        if node.id != node_id:
            by_zone.setdefault(node.zone, []).append(_candidate(node.id, node.capacity_bytes))
    mates = by_zone.pop(own.zone, [])
    candidate = _candidate(own.id, own.capacity_bytes)
    if not by_zone or (not mates and all(len(others) == 1 for others in by_zone.values())):
        others = [*mates, *(other for zone in by_zone.values() for other in zone)]
        count_before = partial(_count_before, candidate, others, replica_count)
    else:
        count_before = partial(_count_before_by_zone, candidate, mates, list(by_zone.values()))

    def is_expected(digest: bytes) -> bool:
        try:
            return count_before(digest.hex().encode()) < replica_count
        except _NearTieError:
            return any(node.id == node_id for node in expected_holders(digest.hex(), live, replica_count))

    return is_expected


_Candidate = tuple[bytes, float]
"""What is hashed behind a digest, and the weight."""


class _NearTieError(Exception):
    """Two scores are too close to each other for floating point."""


@lru_cache(maxsize=1024)
def _candidate(node_id: str, capacity_bytes: int) -> _Candidate:
    return f"/{node_id}".encode(), float(placement_weight(capacity_bytes) << _FRACTION_BITS)


def _count_before(own: _Candidate, others: Sequence[_Candidate], limit: int, name: bytes) -> int:
    """How many of `others` come before `own` by score, where zones make no difference; those beyond `limit` do not matter."""
    score = _float_score(name, own)
    low, high = score * (1 - _NEAR), score * (1 + _NEAR)
    before = 0
    for candidate in others:
        other = _float_score(name, candidate)
        if other > high:
            before += 1
            if before == limit:
                break
        elif other > low:
            raise _NearTieError
    return before


def _count_before_by_zone(
    own: _Candidate, mates: Sequence[_Candidate], zones: Sequence[Sequence[_Candidate]], name: bytes
) -> int:
    """As `_count_before`, zones first: those of a better rank in their zones, and those of the same rank that score higher.

    `mates` are the others of the own zone, `zones` those of the other zones.
    """
    score = _float_score(name, own)
    rank = sum(_is_before(_float_score(name, mate), score) for mate in mates)
    before = rank
    for zone in zones:
        before += min(rank, len(zone))
        if rank < len(zone):
            rival = sorted((_float_score(name, candidate) for candidate in zone), reverse=True)[rank]
            before += _is_before(rival, score)
    return before


def _is_before(score: float, other: float) -> bool:
    if abs(score - other) <= _NEAR * other:
        raise _NearTieError
    return score > other


def _float_score(name: bytes, candidate: _Candidate) -> float:
    """`_score` over 2^32, within `_NEAR` / 2 of it.

    The difference is in the distance, a whole number there: less than 1 of at least `_MIN_DISTANCE`.

    Raises:
        _NearTieError: the distance is less than that.
    """
    suffix, weight = candidate
    raw = _int_from_bytes(blake3(name + suffix).digest(_HASH_BYTES))
    distance = _MAX_LOG - math.log2(raw + 1) * _ONE
    if distance < _MIN_DISTANCE:
        raise _NearTieError
    return weight / distance


_kept_score: Final = lru_cache(maxsize=65536)(_float_score)
"""A request ranks the holders of its chunks more than once."""


def placement_weight(capacity_bytes: int) -> int:
    """Whole GiB, at least one: small changes of a file system's size must not move chunks."""
    return max(1, capacity_bytes // GIB)


def _score(digest: str, node_id: str, weight: int) -> int:
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
