from __future__ import annotations

from services.storage.disk.absence_filter import AbsenceFilter
from tests.chance import random_bytes


def test_what_was_added_is_never_called_absent_and_little_else_is():
    """One probe in 2^24 bits: of a thousand others hardly one shares its bit with one of a thousand chunks."""
    added, others = ([random_bytes(32) for _ in range(1000)] for _ in range(2))
    found = AbsenceFilter()
    assert all(found.is_absent(digest.hex()) for digest in added)
    for digest in added:
        found.add(digest)
    assert not any(found.is_absent(digest.hex()) for digest in added)
    assert sum(found.is_absent(digest.hex()) for digest in others) > 990
