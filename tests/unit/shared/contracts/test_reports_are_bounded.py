"""What a storage node says of itself goes into sums and metrics of the cluster: it is bounded where it is read."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.contracts.reconcile import ReconcileReport, VerifyReport, VerifyState
from tests.unit.reconcile_reports import report

_NUMBERS = sorted(name for name in ReconcileReport.model_fields if name != "is_listing")


@pytest.mark.parametrize("name", _NUMBERS)
def test_a_report_of_reconcile_takes_no_number_that_is_none(name: str) -> None:
    """A float of 10^400 would end every scrape of the leader."""
    assert getattr(report(**{name: 2**63 - 1}), name) == 2**63 - 1
    for wrong in (-1, 2**63, 10**400):
        with pytest.raises(ValidationError):
            report(**{name: wrong})


@pytest.mark.parametrize("name", ["expected_chunks", "checked_chunks", "checked_bytes", "bad_chunks", "eta_s"])
def test_a_report_of_verify_takes_no_number_that_is_none(name: str) -> None:
    """One node could take chunks off the sum of all, or fail the answer."""
    assert getattr(VerifyReport(state=VerifyState.RUNNING, **{name: 0}), name) == 0
    for wrong in (-1, 2**63, 10**400):
        with pytest.raises(ValidationError):
            VerifyReport(state=VerifyState.RUNNING, **{name: wrong})
