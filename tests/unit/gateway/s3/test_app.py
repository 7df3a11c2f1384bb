"""What every request to S3's port goes through, whatever it asks for."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json

import pytest
from prometheus_client import REGISTRY

from services.gateway.s3 import operation_table
from services.gateway.s3.operation_table import Handler
from services.gateway.s3.requests import S3Request
from shared.contracts.access import Action
from shared.errors import (
    BucketNotFoundError,
    DiskFullError,
    LeaderUnavailableError,
    OutcomeUnknownError,
    OverloadedError,
    PreconditionFailedError,
    TooManyRequestsError,
    TrivetError,
)
from tests.unit.gateway.access.scene import Running, Scene, may
from tests.unit.gateway.s3.asking import S3Client, ask

_DOMAIN = "s3.example.org"


def _answered_by(monkeypatch: pytest.MonkeyPatch, name: str, handler: Handler) -> None:
    row = next(row for row in operation_table.OPERATIONS if row.name == name)
    rows = [dataclasses.replace(row, handler=handler)]
    monkeypatch.setitem(operation_table._ROWS, (row.method, row.level, row.subresource), rows)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OverloadedError("Too many."), 503, "SlowDown"),
        (TooManyRequestsError("Too often.", retry_after_s=2), 503, "SlowDown"),
        (LeaderUnavailableError("No leader.", definite=True), 503, "ServiceUnavailable"),
        (LeaderUnavailableError("No leader.", definite=False), 500, "InternalError"),
        (OutcomeUnknownError("Nobody knows."), 500, "InternalError"),
        (DiskFullError("Full.", needed=2, acknowledged=0), 507, "InsufficientStorage"),
        (BucketNotFoundError("None.", bucket="photos"), 404, "NoSuchBucket"),
        (PreconditionFailedError("No.", precondition="If-Match"), 412, "PreconditionFailed"),
        (RuntimeError("secret detail"), 500, "InternalError"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_an_error_is_what_clients_of_s3_know(
    s3: S3Client, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    """Whether something may have happened decides between 503 and 500; a defect says nothing of itself."""

    async def fail(request: S3Request) -> None:
        raise error

    _answered_by(monkeypatch, "GetBucketLocation", fail)
    answer = await s3("GET", "photos", query={"location": ""})
    assert (answer.status, answer.code) == (status, code)
    assert b"secret detail" not in answer.body
    retry_after_s = error.retry_after_s if isinstance(error, TrivetError) else None
    assert answer.headers.get("retry-after") == (None if retry_after_s is None else str(retry_after_s))


def _count(handler: str, status: str) -> float:
    labels = {"method": "GET", "status": status, "handler": handler}
    return REGISTRY.get_sample_value("http_requests_total", labels) or 0


async def test_requests_are_counted_by_operation(s3: S3Client, here: Running) -> None:
    """And together where they are none."""
    listed, refused = _count("s3:ListBuckets", "2xx"), _count("none", "4xx")
    await s3("GET")
    await ask(here.s3, "GET", "//x")
    assert (_count("s3:ListBuckets", "2xx"), _count("none", "4xx")) == (listed + 1, refused + 1)


async def test_what_is_refused_and_what_is_read_is_written(scene: Scene) -> None:
    """With the operation, the code of S3 and the id that the client was told."""
    reader = await scene.holder(may("default", Action.READ))
    async with scene.gateway(audit_reads="all") as running:
        denied = await S3Client(running.s3, reader)("DELETE", "default")
        read = await S3Client(running.s3, scene.root)("GET")
        nobody = await ask(running.s3, "GET", "/default")
    lines = [json.loads(line)["row"] for text in running.gateway.written for line in text.splitlines()]
    found = {line.get("request"): line for line in lines}
    line = found[denied.headers["x-amz-request-id"]]
    assert (line["event"], line["code"], line["action"]) == ("denied", "access_denied", "s3:DeleteBucket")
    assert (line["bucket"], line["access_key"]) == ("default", reader.key)
    line = found[read.headers["x-amz-request-id"]]
    assert (line["event"], line["action"], line["access_key"]) == ("read", "s3:ListBuckets", scene.root.key)
    assert found[nobody.headers["x-amz-request-id"]]["event"] == "denied"


async def test_what_a_handler_refuses_is_written_once(scene: Scene) -> None:
    """What only the handler knows of leaves the same trace as what is refused at the door."""
    blind = await scene.holder(may("default", Action.READ, Action.WRITE), may("default", Action.DELETE, prefix="mine/"))
    body = b"<Delete><Object><Key>a</Key></Object><Object><Key>b</Key></Object></Delete>"
    md5 = {"content-md5": base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()}
    async with scene.gateway(anonymous="read") as running:
        s3 = S3Client(running.s3, blind)
        answers = {
            "s3:GetObject": await s3("GET", "default", "absent"),
            "s3:CopyObject": await s3("PUT", "default", "new", headers={"x-amz-copy-source": "default/absent"}),
            "s3:DeleteObjects": await s3("POST", "default", query={"delete": ""}, headers=md5, body=body),
            "s3:ListBuckets": await ask(running.s3, "GET", "/"),
        }
        counted = running.gateway.services.access.refusals.statistics()
    lines = [json.loads(line)["row"] for text in running.gateway.written for line in text.splitlines()]
    denied = {line["action"]: line for line in lines if line["event"] == "denied"}
    assert [answer.status for answer in answers.values()] == [403, 403, 200, 403]
    assert {action: line["request"] for action, line in denied.items()} == {
        action: answer.headers["x-amz-request-id"] for action, answer in answers.items()
    }
    assert {action: line.get("key") for action, line in denied.items()} == {
        "s3:GetObject": "absent",
        "s3:CopyObject": "absent",
        "s3:DeleteObjects": "a",
        "s3:ListBuckets": None,
    }
    assert counted == {"access_denied": 3, "unauthenticated": 1}


async def test_a_host_names_the_bucket(scene: Scene) -> None:
    """Below a domain of ours; the bucket in the path is a key there."""
    async with scene.gateway(anonymous="read", s3_domains=_DOMAIN) as running:
        answer = await ask(running.s3, "GET", "/?location", {"host": f"default.{_DOMAIN}:9000"})
        assert answer.status == 200
        answer = await ask(running.s3, "GET", "/default?location", {"host": f"missing.{_DOMAIN}"})
        assert answer.status == 405
        answer = await ask(running.s3, "GET", "/default?location", {"host": _DOMAIN})
        assert answer.status == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"origin": "https://evil.example"}, "AccessForbidden"),
        ({"sec-fetch-site": "cross-site"}, "AccessForbidden"),
        ({"host": "evil.example"}, "InvalidRequest"),
    ],
)
async def test_a_foreign_page_changes_nothing_where_no_key_is_needed(
    scene: Scene, headers: dict[str, str], code: str
) -> None:
    """A browser reaches what its user reaches; whoever signs is no page."""
    async with scene.gateway(anonymous="write", s3_domains=_DOMAIN) as running:
        answer = await ask(running.s3, "PUT", "/default/x", headers, b"x")
        assert (answer.code, answer.has_read) == (code, False)
        if "host" not in headers:
            answer = await ask(running.s3, "PUT", "/x", {"host": f"default.{_DOMAIN}:9000"} | headers, b"x")
            assert (answer.code, answer.has_read) == (code, False), "a host of the port's own is no excuse"


async def test_requests_are_slowed_by_the_limits_of_whoever_asks(scene: Scene) -> None:
    """As at the other door."""
    async with scene.gateway(anonymous="read", anonymous_requests_per_s=1) as running:
        codes = {(await ask(running.s3, "GET", "/default?location")).status for _ in range(50)}
    assert codes == {200, 503}
