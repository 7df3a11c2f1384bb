"""Which entries may be proposed: those that the member of the oldest version can apply."""

from __future__ import annotations

import pytest

from services.consensus.duties.upgrades import common_version


@pytest.mark.parametrize(
    ("announced", "members", "expected"),
    [
        ({"m1": 3, "m2": 2, "m3": 3}, ["m1", "m2", "m3"], 2),
        ({"m1": 3, "m2": 3}, ["m1", "m2", "m3"], 1),
        ({"m1": 3, "gone": 1}, ["m1"], 3),
        ({}, [], 1),
    ],
    ids=["the oldest counts", "silence is the first version", "who has left does not count", "nobody"],
)
def test_the_oldest_member_decides(announced, members, expected):
    """A learner too: it may vote tomorrow."""
    assert common_version(announced, members) == expected
