"""`services.gateway.semantics.parameters`: what is read is what is described."""

from __future__ import annotations

import pytest

from services.gateway.semantics.parameters import (
    Header,
    Parameter,
    QueryParameters,
    described,
    flag,
    number,
    query_values,
    string,
)
from shared.errors import InvalidRequestError


def test_a_query_is_strict_utf_8_and_each_parameter_comes_once() -> None:
    """A `+` is a blank there, as forms write it."""
    known = frozenset({"prefix", "limit"})
    assert query_values(b"prefix=a%2Fb+%C3%A4&limit=", known) == {"prefix": "a/b ä", "limit": ""}
    assert query_values(b"", known) == {}
    for bad in (
        b"prefix=%ff",
        b"prefix=a&prefix=b",
        b"unknown=1",
        b"prefix=%4",
        b"prefix=\xff",
        b"&".join([b"a=1"] * 99),
    ):
        with pytest.raises(InvalidRequestError):
            query_values(bad, known)


def test_the_bounds_of_a_number_are_those_of_its_description() -> None:
    """Both of them belong to it. A text that is no number in ASCII digits is refused."""
    limit = number("limit", "Rows.", 1, 1000, default=7)
    (said,) = limit.describe()
    assert said["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 7}
    assert [limit.of(values) for values in ({}, {"limit": "1"}, {"limit": "1000"})] == [7, 1, 1000]
    for bad in ("0", "1001", "", "+1", " 1", "1_0", "-1", "1.0", "\u0661", "00001", "9" * 5000):
        with pytest.raises(InvalidRequestError) as refused:
            limit.of({"limit": bad})
        assert refused.value.facts["parameter"] == "limit"


def test_a_bound_that_readers_of_json_round_is_not_described() -> None:
    """It would be another number in many of them."""
    (said,) = number("after", "", 0, 2**63 - 1, default=None).describe()
    assert said["schema"] == {"type": "integer", "minimum": 0}


def test_a_flag_is_true_or_false() -> None:
    """And false where it is left out."""
    lost = flag("lost", "Gone.")
    assert [lost.of(values) for values in ({}, {"lost": "false"}, {"lost": "true"})] == [False, False, True]
    for bad in ("", "1", "True"):
        with pytest.raises(InvalidRequestError):
            lost.of({"lost": bad})


def test_a_string_is_measured_in_bytes() -> None:
    """And may be empty, unless it has to be filled."""
    prefix, delimiter = string("prefix", "", max_bytes=4), string("delimiter", "", max_bytes=4, is_filled=True)
    assert (prefix.of({}), prefix.of({"prefix": ""}), prefix.of({"prefix": "\u00e4\u00e4"})) == (
        None,
        "",
        "\u00e4\u00e4",
    )
    for bad in ("\u00e4\u00e4a", "a\0"):
        with pytest.raises(InvalidRequestError):
            prefix.of({"prefix": bad})
    with pytest.raises(InvalidRequestError):
        delimiter.of({"delimiter": ""})
    assert delimiter.describe()[0]["schema"]["minLength"] == 1


def test_what_is_required_is_not_left_out() -> None:
    """In a path nothing is."""
    bucket = Parameter("bucket", "", {"type": "string"}, str, default="", is_required=True)
    with pytest.raises(InvalidRequestError):
        bucket.of({})
    in_path = Parameter("bucket", "", {"type": "string"}, str, default=None, place="path")
    assert [each["required"] for each in (*bucket.describe(), *in_path.describe())] == [True, True]


def test_a_route_describes_its_parameters_in_order() -> None:
    """Those of a query together; nothing else may be in the query."""
    query = QueryParameters(number("limit", "", 1, 2, default=2), flag("details", ""))
    names = [each["name"] for each in described(query, Header("If-Match", "Only if.", "x"))["parameters"]]
    assert names == ["limit", "details", "If-Match"]
    assert query.values(b"limit=1&details=x") == {"limit": "1", "details": "x"}
    with pytest.raises(InvalidRequestError):
        query.values(b"if-match=x")
