"""Conditional requests and ranges, by the rules of RFC 9110."""

from __future__ import annotations

import time

import pytest

from services.consensus.metadata.rows import FileRow
from services.gateway.semantics.conditions import ConditionTarget, ReadConditions, write_preconditions
from shared.contracts.conditions import check_preconditions
from shared.errors import InvalidRequestError, PreconditionFailedError

SECOND_NS = 1_000_000_000
MODIFIED_NS = 1_795_000_000 * SECOND_NS + 999_999_999
DATE = "Wed, 18 Nov 2026 11:06:40 GMT"
BEFORE = "Wed, 18 Nov 2026 11:06:39 GMT"
PRESENT = ConditionTarget(7, "e", MODIFIED_NS)


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        ("*", ["*"]),
        (' "a" ', ["a"]),
        ('"a", "b,c" ,"d"', ["a", "b,c", "d"]),
        (', ,"a",,', ["a"]),
        ('W/"a", "b"', ["b"]),
        ('W/"a"', []),
        ('""', [""]),
    ],
)
def test_if_match_is_read_as_a_list_of_strong_tags(value, tags) -> None:
    """Weak tags never match strongly, so they are dropped."""
    assert write_preconditions({"if-match": value}).if_match == tags


def test_if_none_match_compares_weakly() -> None:
    """W/"a" names the same as "a" there."""
    assert write_preconditions({"if-none-match": 'W/"a"'}).if_none_match == ["a"]


@pytest.mark.parametrize("value", ["", "a", '"a', 'a"', '"a" "b"x', '"a"b', "*, *", "w/'a'", "W/a", " , "])
def test_a_malformed_list_is_refused(value) -> None:
    """A condition that cannot be understood must not be ignored."""
    with pytest.raises(InvalidRequestError):
        write_preconditions({"if-match": value})


def test_a_list_of_tags_has_an_exact_edge() -> None:
    """64 tags are read, one more is refused."""
    assert write_preconditions({"if-match": ", ".join(['"a"'] * 64)}).if_match == ["a"] * 64
    with pytest.raises(InvalidRequestError):
        write_preconditions({"if-match": ", ".join(['"a"'] * 65)})


def test_a_hostile_list_costs_little() -> None:
    """30 KiB of commas and blanks, and too many tags, end at once."""
    began = time.perf_counter()
    with pytest.raises(InvalidRequestError):
        write_preconditions({"if-match": " ,  \t" * 6000 + "x"})
    with pytest.raises(InvalidRequestError):
        write_preconditions({"if-match": '"a",' * 5000})
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize(
    ("headers", "etag", "holds"),
    [
        ({}, None, True),
        ({"if-match": "*"}, "e", True),
        ({"if-match": "*"}, None, False),
        ({"if-match": '"e"'}, "e", True),
        ({"if-match": '"x"'}, "e", False),
        ({"if-match": 'W/"e"'}, "e", False),
        ({"if-none-match": "*"}, None, True),
        ({"if-none-match": "*"}, "e", False),
        ({"if-none-match": '"x"'}, "e", True),
        ({"if-none-match": '"e"'}, "e", False),
        # Quoted, it is a tag like any other, and one that nothing has.
        ({"if-match": '"*"'}, "e", False),
        ({"if-none-match": '"*"'}, "e", True),
        ({"if-unmodified-since": DATE}, "e", True),
        ({"if-unmodified-since": BEFORE}, "e", False),
        ({"if-unmodified-since": BEFORE}, None, True),
        ({"if-unmodified-since": "yesterday"}, "e", True),
        ({"if-unmodified-since": BEFORE, "if-match": '"e"'}, "e", True),
        # Defined for reads alone (section 13.1.3).
        ({"if-modified-since": DATE}, "e", True),
    ],
)
def test_a_write_is_refused_early_exactly_when_its_condition_fails(headers, etag, holds) -> None:
    """And the log decides by the same table, with the same facts."""
    conditions = write_preconditions(headers)
    found = None if etag is None else PRESENT
    row = None if etag is None else FileRow(b"k", 7, 1, etag, "text/plain", MODIFIED_NS)
    if holds:
        check_preconditions(conditions, found, 5)
        check_preconditions(conditions, row, 5)
        return
    with pytest.raises(PreconditionFailedError) as early:
        check_preconditions(conditions, found, 5)
    with pytest.raises(PreconditionFailedError) as late:
        check_preconditions(conditions, row, 5)
    assert early.value.to_problem() == late.value.to_problem()
    assert early.value.facts["version"] == (5 if etag is None else 7)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, False),
        ({"if-none-match": '"e"'}, True),
        ({"if-none-match": 'W/"e"'}, True),
        ({"if-none-match": '"x"'}, False),
        ({"if-modified-since": DATE}, True),
        ({"if-modified-since": BEFORE}, False),
        ({"if-modified-since": "nonsense"}, False),
        ({"if-modified-since": DATE, "if-none-match": '"x"'}, False),
        ({"if-unmodified-since": DATE}, False),
        ({"if-match": '"e"', "if-unmodified-since": BEFORE}, False),
    ],
)
def test_304_follows_the_order_of_rfc_9110(headers, expected) -> None:
    """Section 13.2.2: If-None-Match shadows If-Modified-Since, If-Match shadows If-Unmodified-Since."""
    assert ReadConditions.of(headers).is_not_modified(PRESENT) == expected


@pytest.mark.parametrize("headers", [{"if-match": '"x"'}, {"if-unmodified-since": BEFORE}])
def test_412_when_a_read_condition_fails(headers) -> None:
    """A read may carry the conditions of writes."""
    with pytest.raises(PreconditionFailedError):
        ReadConditions.of(headers).is_not_modified(PRESENT)
