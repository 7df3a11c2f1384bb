"""Every row of the table is reached by its request, and by no other."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import pytest

from services.gateway.s3 import operation_table
from services.gateway.s3.errors import S3Error
from services.gateway.s3.operation_table import OPERATIONS, SUBRESOURCES, Operation, find
from services.gateway.s3.requests import RequestTarget
from tests.unit.gateway.access.scene import Running
from tests.unit.gateway.s3.asking import S3Client, ask

_NAMES = {"service": ("", ""), "bucket": ("photos", ""), "object": ("photos", "cat.jpg")}


def _request_of(row: Operation, *further: tuple[str, str]) -> tuple[RequestTarget, dict[str, str]]:
    headers = {name: "/photos/dog.jpg" for name in row.needs if name.startswith("x-amz-")}
    query = [(name, "1") for name in row.needs if not name.startswith("x-amz-")]
    if row.subresource is not None:
        query.append((row.subresource, ""))
    return RequestTarget(*_NAMES[row.level], (*query, *further)), headers


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row.name)
def test_a_row_is_found_by_its_request(row: Operation) -> None:
    """Whatever else is in the query that names no operation."""
    for further in ((), (("x-id", row.name), ("versionId", "x"), ("prefix", "uploads"))):
        target, headers = _request_of(row, *further)
        assert find(row.method, target, headers) is row


def test_no_two_rows_are_one() -> None:
    """A name says one operation, and a request too."""
    assert max(Counter(row.name for row in OPERATIONS).values()) == 1
    ways = Counter((row.method, row.level, row.subresource, row.needs) for row in OPERATIONS)
    assert max(ways.values()) == 1


def test_a_name_of_a_sub_resource_makes_a_request_that_operation_or_none() -> None:
    """A client that asks for something that a method has not must not get, put or delete the thing itself."""
    rows = {(row.method, row.level, row.subresource) for row in OPERATIONS}
    methods = {row.method for row in OPERATIONS} | {"PATCH", "TRACE"}
    for method, (level, names), subresource in itertools.product(methods, _NAMES.items(), SUBRESOURCES):
        if (method, level, subresource) not in rows:
            with pytest.raises(S3Error, match="MethodNotAllowed") as caught:
                find(method, RequestTarget(*names, ((subresource, ""),)), {})
            allowed = set(filter(None, caught.value.headers["allow"].split(", ")))
            assert allowed == {each for each, *where in rows if where == [level, subresource]}


def test_two_sub_resources_are_none() -> None:
    """Whichever was signed or authorized, another one could be served."""
    for two in itertools.combinations(sorted(SUBRESOURCES), 2):
        with pytest.raises(S3Error, match="InvalidArgument"):
            find("GET", RequestTarget("photos", "cat.jpg", tuple((name, "") for name in two)), {})


def test_a_part_needs_its_number() -> None:
    """Otherwise it could be taken for the whole object."""
    with pytest.raises(S3Error, match="InvalidArgument"):
        find("PUT", RequestTarget("photos", "cat.jpg", (("uploadId", "x"),)), {})


async def test_a_refused_operation_reads_no_body(here: Running) -> None:
    """So that nothing is sent to a server that will not have it; a HEAD is told by its status alone."""
    for row in OPERATIONS:
        if row.is_open or row.has_form:
            continue
        target, headers = _request_of(row)
        path = f"/{target.bucket}/{target.key}" if target.key else f"/{target.bucket}"
        query = "&".join(f"{name}={value}" for name, value in target.query)
        answer = await ask(here.s3, row.method, f"{path}?{query}", headers, b"x" if row.takes_body else b"")
        assert (answer.status, answer.has_read) == (403, False), row.name
        assert answer.body == b"" if row.method == "HEAD" else answer.code == "AccessDenied", row.name


async def test_an_operation_that_is_not_built_says_so(s3: S3Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """501, and no body is read."""
    for row in OPERATIONS:
        if row.has_form:
            continue
        bare = dataclasses.replace(row, handler=None)
        monkeypatch.setitem(operation_table._ROWS, (row.method, row.level, row.subresource), [bare])
        target, headers = _request_of(row)
        answer = await s3(row.method, target.bucket, target.key, query=target.query, headers=headers)
        assert (answer.status, answer.has_read) == (501, False), row.name
        assert answer.body == b"" if row.method == "HEAD" else answer.code == "NotImplemented", row.name
