"""With `ready_when_in_sync` a rollout waits for a node until it holds what it should."""

from __future__ import annotations

import pytest

from services.storage.node import reasons_out_of_sync
from shared.contracts.reconcile import ReconcileReport


def report(missing_chunks: int | None) -> ReconcileReport:
    return ReconcileReport(
        epoch=1,
        log_index=7,
        expected_chunks=9,
        expected_bytes=9,
        missing_chunks=missing_chunks,
        missing_bytes=missing_chunks,
        surplus_chunks=0,
        orphan_chunks=0,
        bytes_per_s=0,
        is_listing=False,
    )


@pytest.mark.parametrize("told", [None, report(None)])
def test_a_node_that_has_not_compared_yet_is_not_in_sync(told) -> None:
    """What is not known is not nothing."""
    assert "not compared" in reasons_out_of_sync(told)[0]


def test_a_node_is_in_sync_when_nothing_is_missing() -> None:
    """One chunk is enough to wait for."""
    assert reasons_out_of_sync(report(1)) == ["1 chunks are still to be fetched"]
    assert reasons_out_of_sync(report(0)) == []
