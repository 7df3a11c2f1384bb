"""What the program ends with."""

from __future__ import annotations

import pytest

from trivet import errors
from trivet.cli.exit_codes import ExitCode, exit_code_of
from trivet.cli.failures import explain
from trivet.errors import error_of


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "invalid_request", ExitCode.USAGE),
        (401, "unauthenticated", ExitCode.NOT_ALLOWED),
        (403, "access_denied", ExitCode.NOT_ALLOWED),
        (403, "quota_exceeded", ExitCode.REFUSED),
        (404, "file_not_found", ExitCode.NOT_FOUND),
        (404, "bucket_not_found", ExitCode.NOT_FOUND),
        (409, "bucket_not_empty", ExitCode.REFUSED),
        (412, "precondition_failed", ExitCode.REFUSED),
        (429, "too_many_requests", ExitCode.UNAVAILABLE),
        (500, "internal_error", ExitCode.FAILED),
        (503, "quorum_not_reached", ExitCode.UNAVAILABLE),
        (507, "disk_full", ExitCode.FULL),
    ],
)
def test_each_answer_of_the_store_has_its_code(status, code, expected) -> None:
    assert exit_code_of(error_of(status, {"status": status, "code": code})) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.ConnectionFailed("x", definite=True), ExitCode.UNAVAILABLE),
        (errors.BrokenDownload("x"), ExitCode.UNAVAILABLE),
        (errors.DigestMismatch("x"), ExitCode.DAMAGED),
        (errors.ConfigError("x"), ExitCode.USAGE),
        (errors.TransferInProgress("x"), ExitCode.REFUSED),
        (FileNotFoundError(2, "x"), ExitCode.NOT_FOUND),
        (PermissionError(13, "x"), ExitCode.FAILED),
    ],
)
def test_each_other_error_has_its_code(error, expected) -> None:
    assert exit_code_of(error) is expected


def test_every_error_of_the_client_has_a_code_of_its_own_or_is_a_failure() -> None:
    """A new class of error must not fall through to 1 unseen."""
    unknown = {
        kind.__name__
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.TrivetError)
        if exit_code_of(kind.__new__(kind)) is ExitCode.FAILED
    }
    assert unknown == {"TrivetError", "ProblemError", "ServerError", "SourceChanged"}


def test_an_explanation_says_what_to_do_in_terms_of_the_program() -> None:
    problem = {"status": 404, "code": "bucket_not_found", "detail": "There is no such bucket.", "bucket": "phots"}
    assert explain(error_of(404, problem)).endswith("trivet mb phots makes it.")
    gone = {
        "status": 404,
        "code": "file_not_found",
        "detail": "There is no such file.",
        "instance": "/v1/files/b/a%20b",
    }
    assert explain(error_of(404, gone)).startswith("b/a b: There is no such file.")
    unsure = {"status": 503, "code": "outcome_unknown", "detail": "No answer came.", "definite": False}
    assert "look before you repeat it" in explain(error_of(503, unsure))
