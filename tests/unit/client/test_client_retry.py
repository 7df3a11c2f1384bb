"""What is sent again, and when."""

from __future__ import annotations

import pytest

from shared.errors import ERRORS_BY_CODE
from trivet.errors import BrokenDownload, ConnectionFailed, DigestMismatch, error_of
from trivet.retry import RetryPolicy, may_repeat


def _problem(status: int, code: str = "", *, definite: bool = True, retry_after_s: int | None = None):
    return error_of(status, {"code": code, "definite": definite, "retry_after_s": retry_after_s})


def test_what_may_have_happened_is_repeated_only_where_that_is_safe() -> None:
    """A 503 with an unknown outcome, and a connection that broke in the middle."""
    for error in (_problem(503, "outcome_unknown", definite=False), ConnectionFailed("lost", definite=False)):
        assert may_repeat(error, is_repeatable=True)
        assert not may_repeat(error, is_repeatable=False)


def test_what_certainly_did_not_happen_is_repeated() -> None:
    """Whatever the request was."""
    for error in (
        _problem(503, "overloaded"),
        _problem(429, "too_many_requests"),
        ConnectionFailed("no", definite=True),
    ):
        assert may_repeat(error, is_repeatable=False)


def test_a_final_refusal_is_not_repeated() -> None:
    """The same request would be refused again."""
    for status in (400, 401, 403, 404, 405, 409, 410, 412, 413, 416, 421, 422, 507):
        assert not may_repeat(_problem(status, "whatever"), is_repeatable=True), status
    assert not may_repeat(DigestMismatch("other bytes"), is_repeatable=True)


def test_every_conflict_that_the_store_calls_transient_is_repeated() -> None:
    """By the store's own list, and the duplicate that is still running."""
    for code, kind in ERRORS_BY_CODE.items():
        is_internal = code == "removal_not_proved"  # of the protocol between services
        if kind.status == 409 and (kind.is_transient or code == "request_in_progress") and not is_internal:
            assert may_repeat(_problem(409, code), is_repeatable=True), code


def test_a_defect_is_repeated_only_where_that_is_safe() -> None:
    """It may be of one gateway, and may have happened."""
    assert may_repeat(_problem(500, "internal_error", definite=False), is_repeatable=True)
    assert not may_repeat(_problem(500, "internal_error", definite=False), is_repeatable=False)
    assert not may_repeat(_problem(418), is_repeatable=True)


@pytest.mark.parametrize(("attempt", "bound_s"), [(1, 0.1), (2, 0.2), (4, 0.8), (50, 5.0)])
def test_pauses_double_up_to_their_bound_and_are_spread_from_zero(attempt, bound_s) -> None:
    """Full jitter."""
    policy, error = RetryPolicy(), BrokenDownload("lost")
    assert policy.delay_s(attempt, error, 0.0) == 0
    assert policy.delay_s(attempt, error, 1.0) == pytest.approx(bound_s)


def test_no_pause_is_shorter_than_the_store_asks_for() -> None:
    """Retry-After, and a little more, so that not all come back at once."""
    error = _problem(503, "overloaded", retry_after_s=7)
    assert RetryPolicy().delay_s(1, error, 0.0) == 7
    assert 7 < RetryPolicy().delay_s(1, error, 1.0) < 8
