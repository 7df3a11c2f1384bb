"""Conditions as S3 clients write them."""

from __future__ import annotations

import pytest

from services.gateway.s3.conditions import COPY_SOURCE, plain_etag, read_conditions, write_conditions
from services.gateway.s3.errors import S3Error
from services.gateway.semantics.conditions import UNCONDITIONAL, ConditionTarget
from shared.errors import PreconditionFailedError

ETAG = "0123456789abcdef" * 2
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
DATE_NS = 1_700_000_000 * 10**9


@pytest.mark.parametrize("value", [ETAG, f'"{ETAG}"', f' "{ETAG}" ', f'"x", "{ETAG}"', f"x,{ETAG}"])
def test_entity_tags_come_with_quotes_or_without(value) -> None:
    assert ETAG in (write_conditions({"if-match": value}).if_match or [])
    assert ETAG in (write_conditions({"if-none-match": value}).if_none_match or [])


@pytest.mark.parametrize("value", ["*", ' "*" ', '"a", *'])
def test_any_is_any_in_quotes_too(value) -> None:
    assert write_conditions({"if-none-match": value}).if_none_match == ["*"]


def test_a_weak_tag_matches_only_where_weak_ones_do() -> None:
    assert write_conditions({"if-match": f'W/"{ETAG}"'}).if_match == []
    assert write_conditions({"if-none-match": f'W/"{ETAG}"'}).if_none_match == [ETAG]


@pytest.mark.parametrize("value", ["", " ", ",", '""', ",".join("a" * 65)])
def test_a_condition_without_a_tag_is_refused(value) -> None:
    for name in ("if-match", "if-none-match"):
        with pytest.raises(S3Error) as refused:
            write_conditions({name: value})
        assert refused.value.code == "InvalidArgument"


def test_without_conditions_there_is_none() -> None:
    assert write_conditions({"if-modified-since": DATE, "if-unmodified-since": DATE}) is UNCONDITIONAL
    assert read_conditions({}).is_unconditional
    assert read_conditions({"if-modified-since": "yesterday"}).is_unconditional


def holds(headers: dict[str, str], prefix: str = "") -> int:
    """The status of the answer to a GET."""
    try:
        return 304 if read_conditions(headers, prefix).is_not_modified(ConditionTarget(1, ETAG, DATE_NS)) else 200
    except PreconditionFailedError:
        return 412


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-match": ETAG}, 200),
        ({"if-match": "other"}, 412),
        ({"if-match": "*"}, 200),
        ({"if-none-match": f'"{ETAG}"'}, 304),
        ({"if-none-match": "other"}, 200),
        ({"if-modified-since": DATE}, 304),
        ({"if-modified-since": "Tue, 14 Nov 2023 22:13:19 GMT"}, 200),
        ({"if-unmodified-since": DATE}, 200),
        ({"if-unmodified-since": "Tue, 14 Nov 2023 22:13:19 GMT"}, 412),
        # Of a pair the entity tag counts (RFC 9110 section 13.2.2).
        ({"if-match": ETAG, "if-unmodified-since": "Tue, 14 Nov 2023 22:13:19 GMT"}, 200),
        ({"if-none-match": "other", "if-modified-since": DATE}, 200),
        ({"if-none-match": ETAG, "if-modified-since": "Tue, 14 Nov 2023 22:13:19 GMT"}, 304),
        ({"if-match": ETAG, "if-none-match": ETAG}, 304),
    ],
)
def test_a_read_is_answered_as_its_conditions_say(headers, status) -> None:
    assert holds(headers) == status
    assert holds({COPY_SOURCE + name: value for name, value in headers.items()}, COPY_SOURCE) == status
    assert holds({COPY_SOURCE + name: value for name, value in headers.items()}) == 200


def test_an_etag_without_quotes_is_itself() -> None:
    assert plain_etag(f'"{ETAG}-3"') == plain_etag(f"{ETAG}-3") == f"{ETAG}-3"
