"""When a replica may be deleted: both sides of every edge."""

from __future__ import annotations

from typing import Any

import pytest

from services.storage.reconcile.rules import (
    counts_as_confirmation,
    is_orphan_candidate,
    may_delete_condemned,
    may_drop_surplus,
    pulled_start_index,
)


def test_condemned_chunk_is_deleted_only_below_its_condemnation() -> None:
    """An upload that recorded the index of the condemnation, or a later one, keeps the chunk."""
    assert may_delete_condemned(19, 20)
    assert not may_delete_condemned(20, 20)
    assert not may_delete_condemned(21, 20)


def test_pulled_replica_outlives_condemnations_from_before_its_reference() -> None:
    """It records the higher of what the source had and the index of the reference."""
    assert pulled_start_index(10, 30) == 30
    assert pulled_start_index(40, 30) == 40
    assert not may_delete_condemned(pulled_start_index(10, 30), 20)


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ({}, True),
        ({"answerer_epoch": 8}, False),
        ({"answerer_epoch": 6}, False),
        ({"is_expected_holder": False}, False),
        ({"is_verified": False}, False),
    ],
)
def test_confirmation_counts_from_a_verified_expected_holder_of_the_same_epoch(
    changed: dict[str, Any], counts: bool
) -> None:
    """Each condition alone makes it void."""
    given: dict[str, Any] = {"asker_epoch": 7, "answerer_epoch": 7, "is_expected_holder": True, "is_verified": True}
    assert counts_as_confirmation(**(given | changed)) is counts


@pytest.mark.parametrize(
    ("changed", "may_drop"),
    [
        ({}, True),
        ({"recorded_start_index": 9}, True),
        ({"recorded_start_index": 11}, False),
        ({"current_epoch": 8}, False),
        ({"current_epoch": 6}, False),
        ({"confirmed_by": {"a", "b"}}, False),
        ({"confirmed_by": {"a", "b", "d"}}, False),
        ({"confirmed_by": {"a", "b", "c", "d"}}, True),
        ({"expected": ["a", "b"], "confirmed_by": {"a", "b"}}, False),
        ({"expected": [], "confirmed_by": set()}, False),
    ],
)
def test_surplus_is_dropped_when_every_expected_holder_confirmed_what_it_has(
    changed: dict[str, Any], may_drop: bool
) -> None:
    """Each condition alone keeps the replica."""
    given: dict[str, Any] = {
        "recorded_start_index": 10,
        "sent_start_index": 10,
        "decision_epoch": 7,
        "current_epoch": 7,
        "confirmed_by": {"a", "b", "c"},
        "expected": ["a", "b", "c"],
        "replica_count": 3,
    }
    assert may_drop_surplus(**(given | changed)) is may_drop


def test_orphan_is_old_and_was_looked_for_in_references_of_its_own_time() -> None:
    """A young chunk, or references from before it was recorded, make no orphan."""
    assert is_orphan_candidate(10, aged_index=10, reference_check_index=10)
    assert not is_orphan_candidate(11, aged_index=10, reference_check_index=12)
    assert not is_orphan_candidate(10, aged_index=12, reference_check_index=9)
