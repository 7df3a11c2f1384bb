"""`shared.placement`: every process computes the same order, and a change of the node map moves as little as it can."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from shared import placement
from shared.contracts.cluster import NodeMap, NodeState, StorageNode
from shared.placement import (
    _FRACTION_BITS,
    _candidate,
    _exact_log2,
    _float_score,
    _log2,
    _NearTieError,
    _score,
    expected_holder_filter,
    expected_holders,
    is_expected_holder,
    live_nodes,
    preference_list,
    read_order,
    write_order,
)
from shared.units import GIB


def node(
    node_id: str, *, zone: str = "", gib: int = 100, state: NodeState = NodeState.ACTIVE, url: str = "http://n"
) -> StorageNode:
    """A storage node; its own zone unless one is given."""
    return StorageNode(id=node_id, url=url, zone=zone or node_id, state=state, capacity_bytes=gib * GIB)


def digest(number: int) -> str:
    """A digest that is the same in every run."""
    return blake3(number.to_bytes(8)).hexdigest()


def ids(nodes: list[StorageNode]) -> list[str]:
    return [each.id for each in nodes]


digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
node_maps = st.lists(
    st.tuples(st.integers(0, 999), st.integers(0, 5), st.integers(1, 2000)),
    min_size=1,
    max_size=12,
    unique_by=lambda drawn: drawn[0],
).map(lambda drawn: [node(f"storage-{number}", zone=f"zone-{zone}", gib=gib) for number, zone, gib in drawn])


def test_golden_orders_never_change() -> None:
    """A release that placed chunks differently would make every node look for its chunks in the wrong places."""
    nodes = [node(f"storage-{number}", zone=f"zone-{number % 3}", gib=50 * number) for number in range(1, 7)]
    assert [ids(preference_list(digest(number), nodes)) for number in range(4)] == GOLDEN


@given(digests, node_maps, st.randoms(use_true_random=False))
def test_the_order_depends_on_the_set_of_nodes_and_not_on_how_it_was_listed(digest, nodes, random) -> None:
    """Two processes that learnt of the nodes in different orders agree."""
    shuffled = random.sample(nodes, len(nodes))
    assert ids(preference_list(digest, shuffled)) == ids(preference_list(digest, nodes))
    assert sorted(ids(preference_list(digest, nodes))) == sorted(ids(nodes))


@given(digests, node_maps)
def test_the_first_nodes_lie_in_different_zones(digest, nodes) -> None:
    """No two replicas share a zone while there is a zone without one."""
    zone_count = len({each.zone for each in nodes})
    first = preference_list(digest, nodes)[:zone_count]
    assert len({each.zone for each in first}) == zone_count


@given(digests, node_maps, st.integers(1, 6), st.integers(1, 2000))
def test_a_joining_node_takes_chunks_and_moves_none_between_the_others(digest, nodes, replica_count, gib) -> None:
    """The replicas after a join are those before it, but for the newcomer."""
    zone_count = len({each.zone for each in nodes})
    replica_count = min(replica_count, zone_count)
    before = set(ids(preference_list(digest, nodes)[:replica_count]))
    after = set(ids(preference_list(digest, [*nodes, node("newcomer", zone="zone-0", gib=gib)])[:replica_count]))
    assert after - before <= {"newcomer"}


@given(digests, node_maps, st.data())
def test_a_leaving_node_moves_only_its_own_chunks(digest, nodes, data) -> None:
    """Nodes that keep their zone to themselves keep their order when another one leaves."""
    alone = [each.model_copy(update={"zone": each.id}) for each in nodes]
    leaver = data.draw(st.sampled_from(alone))
    stayed = [each for each in preference_list(digest, alone) if each.id != leaver.id]
    assert ids(preference_list(digest, [each for each in alone if each.id != leaver.id])) == ids(stayed)


def test_chunks_are_shared_out_by_capacity() -> None:
    """A node of four times the size is first choice for four times the chunks, within five standard deviations."""
    count = 7000
    nodes = [node("storage-1", gib=100), node("storage-2", gib=200), node("storage-3", gib=400)]
    first = Counter(preference_list(digest(number), nodes)[0].id for number in range(count))
    for each, share in (("storage-1", 1 / 7), ("storage-2", 2 / 7), ("storage-3", 4 / 7)):
        deviation = math.sqrt(count * share * (1 - share))
        assert abs(first[each] - count * share) < 5 * deviation, (each, first)


def test_nodes_of_less_than_a_gibibyte_share_their_chunks_out() -> None:
    """Small disks count as equal ones; none is last for every chunk, or first."""
    small = [node(f"storage-{number}").model_copy(update={"capacity_bytes": GIB // 2}) for number in (1, 2)]
    first = Counter(preference_list(digest(number), small)[0].id for number in range(1000))
    assert all(400 < first[each.id] < 600 for each in small), first


def test_a_node_that_is_away_keeps_its_place_in_the_preference_list() -> None:
    """State is no part of placement: a node that returns gets its own chunks back."""
    nodes = [node(f"storage-{number}") for number in range(1, 6)]
    away = [each.model_copy(update={"state": NodeState.INACTIVE}) for each in nodes]
    assert ids(preference_list(digest(1), away)) == ids(preference_list(digest(1), nodes))


def test_writes_avoid_draining_nodes_and_try_those_believed_away_last() -> None:
    """A node that was never reachable has no address and is left out."""
    nodes = [
        node("active-1"),
        node("active-2"),
        node("away", state=NodeState.INACTIVE),
        node("draining", state=NodeState.DRAINING),
        node("unseen", url=""),
    ]
    for number in range(50):
        order = ids(write_order(digest(number), NodeMap(epoch=1, nodes=nodes)))
        assert sorted(order[:2]) == ["active-1", "active-2"]
        assert order[2:] == ["away"]


def test_writes_turn_to_suspect_full_and_absent_nodes_in_this_order() -> None:
    """A suspect node may take the chunk, a full one refuses it, an absent one does not answer; reads mind no full node."""
    nodes = [
        node("away", state=NodeState.INACTIVE),
        node("full").model_copy(update={"is_full": True}),
        node("suspect", state=NodeState.SUSPECT),
        node("full-suspect", state=NodeState.SUSPECT).model_copy(update={"is_full": True}),
        node("well").model_copy(update={"is_full": False}),
    ]
    for number in range(20):
        order = ids(write_order(digest(number), NodeMap(epoch=1, nodes=nodes)))
        assert order[:2] == ["well", "suspect"]
        assert set(order[2:4]) == {"full", "full-suspect"}
        assert order[4] == "away"
        reads = ids(read_order(digest(number), NodeMap(epoch=1, nodes=nodes)))
        assert set(reads[:2]) == {"well", "full"}
        assert set(reads[2:4]) == {"suspect", "full-suspect"}
        assert reads[4] == "away"


def test_reads_use_draining_nodes_and_try_those_believed_away_last() -> None:
    """A draining node still has its chunks."""
    nodes = [
        node("active"),
        node("away", state=NodeState.INACTIVE),
        node("draining", state=NodeState.DRAINING),
        node("unseen", url=""),
    ]
    for number in range(50):
        order = ids(read_order(digest(number), NodeMap(epoch=1, nodes=nodes)))
        assert sorted(order[:2]) == ["active", "draining"]
        assert order[2:] == ["away"]


@given(st.integers(1, (1 << 64)))
def test_the_fixed_point_logarithm_is_a_logarithm(value: int) -> None:
    """Within the precision of a double, which is what placement must not depend on."""
    assert abs(_log2(value) / (1 << _FRACTION_BITS) - math.log2(value)) < 1e-9


@given(st.integers(1, (1 << 64)))
def test_the_quick_logarithm_is_the_exact_one(value: int) -> None:
    """No bit of placement depends on the C library's logarithm."""
    assert _log2(value) == _exact_log2(value)


@given(st.integers(0, 63), st.integers(0, (1 << _FRACTION_BITS) - 1), st.integers(-2, 2))
def test_the_quick_logarithm_is_the_exact_one_at_the_edges(exponent: int, fraction: int, offset: int) -> None:
    """Where the logarithm passes from one fixed-point value to the next, a wrong last bit would show."""
    value = max(1, min(1 << 64, math.floor(2.0 ** (exponent + fraction / (1 << _FRACTION_BITS))) + offset))
    assert _log2(value) == _exact_log2(value)


@pytest.mark.parametrize("error", [-(2.0**-50), 2.0**-50])
def test_a_logarithm_that_errs_in_its_last_bits_changes_nothing(error: float, monkeypatch) -> None:
    """Beside an edge a C library that errs eight times as much as others, up or down, would give the next integer."""
    monkeypatch.setattr(placement, "math", SimpleNamespace(log2=lambda value: math.log2(value) + error))
    for fraction in range(1, 1 << _FRACTION_BITS, (1 << _FRACTION_BITS) // 1000):
        value = math.floor(2.0 ** (63 + fraction / (1 << _FRACTION_BITS)))
        assert _log2(value) == _exact_log2(value)


GOLDEN = [
    ["storage-6", "storage-1", "storage-5", "storage-3", "storage-4", "storage-2"],
    ["storage-6", "storage-5", "storage-1", "storage-3", "storage-4", "storage-2"],
    ["storage-4", "storage-6", "storage-2", "storage-3", "storage-5", "storage-1"],
    ["storage-5", "storage-3", "storage-4", "storage-1", "storage-6", "storage-2"],
]


def test_only_live_nodes_with_an_address_are_expected_to_hold_chunks() -> None:
    """One that is away or draining, or has never dialled in, is no place for a replica; suspect ones are."""
    nodes = [
        node("a"),
        node("b", state=NodeState.INACTIVE),
        node("c", state=NodeState.DRAINING),
        node("d", url=""),
        node("e"),
    ]
    assert ids(live_nodes(NodeMap(epoch=1, nodes=nodes))) == ["a", "e"]


@given(digests, node_maps, st.integers(1, 5))
def test_the_next_in_order_stands_in_for_a_node_that_is_away(name: str, nodes: list[StorageNode], count: int) -> None:
    """The others stay: a node that goes away moves only what it held."""
    before = ids(expected_holders(name, nodes, count))
    assert before == ids(preference_list(name, nodes))[:count]
    after = ids(expected_holders(name, nodes[1:], count))
    if len({each.zone for each in nodes}) in {1, len(nodes)}:
        assert set(before) - {nodes[0].id} <= set(after)
    assert len(after) == min(count, len(nodes) - 1)


@pytest.mark.parametrize("near", [placement._NEAR, 2.0**-3, 2.0])
@given(name=digests, nodes=node_maps, count=st.integers(1, 5))
def test_the_fast_question_has_the_same_answer(near: float, name: str, nodes: list[StorageNode], count: int) -> None:
    """In one zone, in several, in one each, with enough nodes or too few, also for a node that is none of them, and however
    many scores are compared exactly: few, some or all."""
    flat = [each.model_copy(update={"zone": "one"}) for each in nodes]
    alone = [each.model_copy(update={"zone": each.id}) for each in nodes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "_NEAR", near)
        for live in (nodes, flat, alone):
            expected = set(ids(expected_holders(name, live, count)))
            for asked in [*ids(live), "stranger"]:
                assert is_expected_holder(bytes.fromhex(name), asked, live, count) is (asked in expected)


def test_the_fast_question_has_the_same_answer_for_thousands_of_digests() -> None:
    """Among them are some whose scores are too close for floating point."""
    live = [node(f"storage-{number}", zone=f"zone-{number % 3}", gib=50 * number) for number in range(1, 7)]
    filters = {each.id: expected_holder_filter(each.id, live, 3) for each in live}
    for number in range(5000):
        expected = set(ids(expected_holders(digest(number), live, 3)))
        assert {name for name, is_expected in filters.items() if is_expected(bytes.fromhex(digest(number)))} == expected


@given(digests, st.integers(1, 1 << 24))
def test_a_score_in_floating_point_is_as_near_as_the_comparison_assumes(name: str, gib: int) -> None:
    """Two of them err by less than what is compared exactly."""
    each = node("storage-1", gib=gib)
    exact = _score(name, each.id, gib) / (1 << _FRACTION_BITS)
    try:
        found = _float_score(name.encode(), _candidate(each.id, each.capacity_bytes))
    except _NearTieError:
        return
    assert abs(found - exact) * 2 < placement._NEAR * min(found, exact)


@pytest.mark.parametrize("near", [placement._NEAR, 2.0**-3, 2.0])
def test_floating_point_ranks_nodes_as_whole_numbers_do(near: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many digests are compared exactly: few, some or all."""
    monkeypatch.setattr(placement, "_NEAR", near)
    nodes = [node(f"storage-{number}", zone="one", gib=50 * number) for number in range(1, 7)]
    for number in range(5000):
        name = digest(number)
        scores = {each.id: _score(name, each.id, each.capacity_bytes // GIB) for each in nodes}
        assert ids(preference_list(name, nodes)) == sorted(scores, key=lambda each: (-scores[each], each))


def test_two_nodes_of_one_zone_share_what_falls_to_the_zone() -> None:
    """Two nodes on one host never hold the same chunk while other zones have nodes. They share by capacity, one stands in for
    the other without moving anything else, and with too few zones both hold what they must."""
    pair = [node("storage-1", zone="host-1", gib=100), node("storage-2", zone="host-1", gib=300)]
    others = [node("storage-3", zone="host-2"), node("storage-4", zone="host-3")]
    held: Counter[str] = Counter()
    for number in range(4000):
        before = ids(expected_holders(digest(number), [*pair, *others], 3))
        assert len({"storage-1", "storage-2"}.intersection(before)) == 1
        held.update(before)
        after = set(ids(expected_holders(digest(number), [pair[1], *others], 3)))
        assert after == {"storage-2", "storage-3", "storage-4"}
        assert set(ids(expected_holders(digest(number), [*pair, others[0]], 3))) == {
            "storage-1",
            "storage-2",
            "storage-3",
        }
    assert 850 < held["storage-1"] < 1150
    assert held["storage-3"] == held["storage-4"] == 4000
