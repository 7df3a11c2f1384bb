"""`shared.errors`: an error means the same on both ends of a wire."""

from __future__ import annotations

import re

import pytest

import shared.errors
from shared.errors import (
    ERRORS_BY_CODE,
    InternalError,
    OutcomeUnknownError,
    PeerUnreachableError,
    QuorumNotReachedError,
    TrivetError,
    error_from_problem,
)


def every_class(root: type[TrivetError] = TrivetError) -> list[type[TrivetError]]:
    return [root, *(found for child in root.__subclasses__() for found in every_class(child))]


@pytest.mark.parametrize("kind", every_class(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("definite", [True, False, None])
def test_every_error_survives_the_wire(kind: type[TrivetError], definite: bool | None) -> None:
    """Class, sentence, definiteness, retry time and facts come out as they went in."""
    sent = kind("It went wrong.", definite=definite, retry_after_s=7, needed=2, outcomes={"storage-1": "timeout"})
    received = error_from_problem(sent.to_problem())
    assert type(received) is kind
    assert (received.message, received.definite, received.retry_after_s) == ("It went wrong.", sent.definite, 7)
    assert received.facts == {"needed": 2, "outcomes": {"storage-1": "timeout"}}


@pytest.mark.parametrize("kind", every_class(), ids=lambda kind: kind.__name__)
def test_every_code_belongs_to_one_class(kind: type[TrivetError]) -> None:
    """Otherwise an error would come back as another one."""
    assert ERRORS_BY_CODE[kind.code] is kind
    assert re.fullmatch(r"[a-z][a-z_]*", kind.code)
    assert 400 <= kind.status < 600


@pytest.mark.parametrize("kind", [kind for kind in every_class() if kind.status < 500], ids=lambda kind: kind.__name__)
def test_a_refusal_is_definite(kind: type[TrivetError]) -> None:
    """A 4xx says that what was asked for certainly did not happen."""
    assert kind("No.").definite


@pytest.mark.parametrize("kind", [InternalError, OutcomeUnknownError, PeerUnreachableError])
def test_what_may_have_happened_is_not_definite_by_default(kind: type[TrivetError]) -> None:
    """A defect, a lost outcome and a silent peer may all have done it."""
    assert not kind("?").definite


def test_an_unknown_code_is_an_internal_error_that_may_have_happened() -> None:
    """A newer peer's error is never mistaken for a definite one."""
    error = error_from_problem({"code": "from_the_future", "status": 409, "definite": True, "detail": "?"})
    assert type(error) is InternalError


@pytest.mark.parametrize("problem", [{}, {"code": None}, {"code": "quorum_not_reached"}])
def test_a_problem_without_definite_is_not_definite(problem: dict[str, object]) -> None:
    """Silence about whether it happened is no promise that it did not."""
    assert not error_from_problem(problem).definite


def test_unavailable_errors_say_when_to_try_again() -> None:
    """And facts stand beside the standard fields."""
    problem = QuorumNotReachedError("One of two.", needed=2, acknowledged=1).to_problem()
    assert problem["status"] == 503
    assert problem["retry_after_s"] == 1
    assert (problem["needed"], problem["acknowledged"]) == (2, 1)


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    """The drawing is what people read first."""
    drawn = re.findall(r"^    [│ ]*(?:[├└]── )?(\w+Error)(?: (\d{3}))?$", str(shared.errors.__doc__), re.MULTILINE)
    assert [name for name, _ in drawn] == [kind.__name__ for kind in every_class()]
    by_name = {kind.__name__: kind for kind in every_class()}
    assert all(by_name[name].status == int(status) for name, status in drawn if status)
