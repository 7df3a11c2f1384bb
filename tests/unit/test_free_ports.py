"""A port that a test is given is one that a service can start with."""

from __future__ import annotations

from shared.settings import MAX_PORT, ServiceSettings
from tests.free_ports import SINGLE


def test_a_port_leaves_room_for_the_operations_port_above_it() -> None:
    """One service in a hundred starts refused its settings, because the port above its own was no port."""
    assert SINGLE[-1] + ServiceSettings.OPERATIONS_DISTANCE <= MAX_PORT
