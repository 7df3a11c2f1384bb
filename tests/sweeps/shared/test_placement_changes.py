"""What a change of one node moves: what that node holds, and hardly anything else."""

from __future__ import annotations

import pytest
from blake3 import blake3

from shared.contracts.cluster import NodeState, StorageNode
from shared.placement import expected_holders
from shared.units import GIB

DIGESTS = 4_000
REPLICAS = 3


def make_nodes(count: int, zones: int, sizes_gib: list[int]) -> list[StorageNode]:
    return [
        StorageNode(
            id=f"storage-{number}",
            url="http://n",
            zone=f"zone-{number % zones}",
            state=NodeState.ACTIVE,
            capacity_bytes=sizes_gib[number % len(sizes_gib)] * GIB,
        )
        for number in range(count)
    ]


def holders(nodes: list[StorageNode], digest_count: int) -> list[set[str]]:
    """By digest."""
    return [
        {node.id for node in expected_holders(blake3(number.to_bytes(8)).hexdigest(), nodes, REPLICAS)}
        for number in range(digest_count)
    ]


def measure(nodes: list[StorageNode], digest_count: int = DIGESTS) -> tuple[float, float]:
    """Parts of all replicas: what the last node holds, and what moves when it joins the others, or leaves them."""
    before, after = holders(nodes[:-1], digest_count), holders(nodes, digest_count)
    replicas = digest_count * REPLICAS
    share = sum(nodes[-1].id in each for each in after) / replicas
    joined = sum(len(new - old) for old, new in zip(before, after, strict=True)) / replicas
    left = sum(len(old - new) for old, new in zip(before, after, strict=True)) / replicas
    assert joined == left  # as many replicas before as after
    return share, joined


@pytest.mark.parametrize("sizes_gib", [[100], [100, 200, 400], [50, 1000]], ids=str)
@pytest.mark.parametrize("zones", [1, 3, 100], ids=["one zone", "three zones", "zones of their own"])
@pytest.mark.parametrize("count", [4, 5, 6, 7, 10])
def test_a_change_of_one_node_moves_what_it_holds(count: int, zones: int, sizes_gib: list[int]) -> None:
    """Never more than 1.3 times that; of M equal nodes in zones of equal size it is 1/M."""
    share, moved = measure(make_nodes(count, zones, sizes_gib))
    print(f"{count} nodes: holds {share:.4f}, moves {moved:.4f}, of 1/M {moved * count:.3f}")
    assert share <= moved + 1e-9
    assert moved <= 1.3 * share
    if len(sizes_gib) == 1 and (zones != 3 or count % 3 == 0):
        assert 0.9 / count < moved < 1.3 / count
