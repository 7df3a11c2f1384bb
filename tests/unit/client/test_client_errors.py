"""Problem documents become typed errors; the store's own errors are the oracle."""

from __future__ import annotations

import pickle

import pytest

from shared.errors import ERRORS_BY_CODE, FileNotFoundInBucketError, OutcomeUnknownError, QuotaExceededError
from trivet import errors


@pytest.mark.parametrize("kind", ERRORS_BY_CODE.values(), ids=ERRORS_BY_CODE)
def test_every_error_of_the_store_has_a_type_that_says_the_same(kind) -> None:
    """Code, status, definite and Retry-After arrive, and only a defect of the store is a ServerError."""
    sent = kind("Something is so.", retry_after_s=3)

    error = errors.error_of(sent.status, sent.to_problem())

    assert (error.status, error.code, error.definite) == (sent.status, sent.code, sent.definite)
    assert error.retry_after_s == 3
    assert "Something is so." in str(error)
    assert (type(error) is errors.ServerError) == (sent.status == 500)


def test_facts_of_an_error_are_in_its_document() -> None:
    """A program that decides by the limit reads no message."""
    sent = QuotaExceededError("Too much.", limit=10, used=8, needed=3, of="bucket")
    error = errors.error_of(403, sent.to_problem())
    assert isinstance(error, errors.QuotaExceeded)
    assert (error.problem["limit"], error.problem["of"]) == (10, "bucket")


def test_an_unknown_outcome_says_that_it_may_have_happened() -> None:
    """The message says what is safe to do next."""
    error = errors.error_of(503, OutcomeUnknownError("Not learnt.").to_problem())
    assert not error.definite
    assert "idempotency key" in str(error)


@pytest.mark.parametrize(
    ("status", "kind", "definite"),
    [
        (404, errors.NotFound, True),
        (502, errors.Unavailable, False),
        (504, errors.Unavailable, False),
        (418, errors.ServerError, True),
    ],
)
def test_an_answer_without_a_document_is_judged_by_its_status(status, kind, definite) -> None:
    """As of a proxy in between: 5xx may have happened."""
    error = errors.error_of(status, {}, retry_after_s=2.0)
    assert (type(error), error.definite, error.retry_after_s, error.code) == (kind, definite, 2.0, f"http_{status}")


@pytest.mark.parametrize(
    "problem", [{"code": 7, "definite": "yes", "title": None}, {"status": "x"}, {"retry_after_s": "soon"}]
)
def test_a_malformed_document_is_an_error_too(problem) -> None:
    """And never another exception."""
    assert isinstance(errors.error_of(503, problem), errors.Unavailable)
    assert isinstance(errors.error_of_problem(problem), errors.ProblemError)


def test_errors_are_pickled_whole() -> None:
    """They cross processes, as those of a pool of workers do."""
    error = errors.error_of(404, FileNotFoundInBucketError("No such file.", bucket="b", horizon=3).to_problem())
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.problem["horizon"], copy.definite) == (errors.FileNotFound, str(error), 3, True)
    lost = pickle.loads(pickle.dumps(errors.ConnectionFailed("gone", definite=False)))
    assert (lost.message, lost.definite) == ("gone", False)
    assert str(pickle.loads(pickle.dumps(errors.DigestMismatch("other bytes")))) == "other bytes"


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Every class stands in it, and nothing else."""
    words = {line.split("── ")[-1].split()[0] for line in (errors.__doc__ or "").splitlines() if "──" in line}
    classes = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and kind.__module__ == errors.__name__
    }
    assert words == classes - {"TrivetError"}
