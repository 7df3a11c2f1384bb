"""Which changes of a node's capacity raise the epoch: those of whole GiB, and not all the time."""

from __future__ import annotations

import pytest

from services.consensus.duties.capacity_changes import MIN_INTERVAL_S, CapacityChanges
from shared.units import GIB, MIB


@pytest.mark.parametrize(
    ("known_bytes", "told_bytes", "followed_bytes"),
    [
        (0, 10 * MIB, 10 * MIB),
        (10 * GIB, 10 * GIB + 1, 10 * GIB),
        (10 * GIB, 11 * GIB - 1, 10 * GIB),
        (10 * GIB, 11 * GIB, 11 * GIB),
        (10 * GIB, 10 * GIB - 1, 10 * GIB - 1),
        (10 * MIB, GIB, 10 * MIB),
        (10 * MIB, 2 * GIB, 2 * GIB),
    ],
)
def test_a_change_below_a_whole_gib_is_left_out(known_bytes, told_bytes, followed_bytes) -> None:
    """Weights are whole GiB, at least one; the first announcement is always followed."""
    assert CapacityChanges().follow("storage-1", known_bytes, told_bytes, 0.0) == followed_bytes


def test_a_capacity_that_changes_with_every_heartbeat_is_followed_now_and_then() -> None:
    """Each change would move chunks: of one node per interval, of another node as ever."""
    changes, known_bytes, followed = CapacityChanges(), 10 * GIB, []
    for beat in range(40):
        at_s = 30.0 * beat
        now_bytes = changes.follow("storage-1", known_bytes, (20 + beat) * GIB, at_s)
        if now_bytes != known_bytes:
            followed.append(at_s)
        known_bytes = now_bytes
    assert followed == [0.0, MIN_INTERVAL_S]
    assert changes.follow("storage-2", GIB, 5 * GIB, 30.0) == 5 * GIB


def test_a_removed_node_is_forgotten() -> None:
    """Memory is bounded by the nodes that exist."""
    changes = CapacityChanges()
    changes.follow("storage-1", GIB, 5 * GIB, 0.0)
    changes.keep({"storage-2"})
    assert changes.follow("storage-1", GIB, 5 * GIB, 1.0) == 5 * GIB
