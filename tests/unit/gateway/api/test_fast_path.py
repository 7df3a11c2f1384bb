"""`services.gateway.api.fast_path`: the short way answers, refuses and counts as the declared routes do."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from prometheus_client import REGISTRY
from starlette.types import Receive, Scope, Send

from shared.web.service_app import ServiceApp
from tests.unit.gateway.api.local_gateway import make_app
from tests.unit.gateway.conftest import CHUNK_SIZE_BYTES
from tests.waiting import block_until

FILE = "/v1/files/default/a"
LIST = "/v1/files/default"
LIMIT_BYTES = 20 * CHUNK_SIZE_BYTES
BODY = bytes(range(256)) * 40
"""Two chunks and a half."""

MD5 = base64.b64encode(hashlib.md5(BODY, usedforsecurity=False).digest()).decode()
SHA = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
CURSOR = "{cursor}"
"""In a target: the cursor of the page before."""


@dataclass(frozen=True)
class Asked:
    """One request as it goes over the wire. `body` None: no framing at all; `is_body_sent` false: only announced."""

    method: str
    target: str
    headers: tuple[str, ...] = ()
    body: bytes | None = None
    is_chunked: bool = False
    is_body_sent: bool = True
    version: str = "1.1"
    host: str = "localhost"

    def wire(self, cursor: str) -> bytes:
        lines = [f"{self.method} {self.target.replace(CURSOR, cursor)} HTTP/{self.version}"]
        lines += [f"Host: {self.host}"] if self.host else []
        lines += self.headers
        content = b""
        if self.is_chunked:
            lines.append("Transfer-Encoding: chunked")
            body = self.body or b""
            content = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        elif self.body is not None:
            lines.append(f"Content-Length: {len(self.body)}")
            content = self.body
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head + (content if self.is_body_sent else b"")


@dataclass(frozen=True)
class Reply:
    """Interim and final status, header fields in alphabetical order, and the body."""

    statuses: tuple[int, ...]
    fields: tuple[tuple[str, str], ...]
    body: bytes

    def field(self, name: str) -> str | None:
        return dict(self.fields).get(name)


def put(target: str = FILE, *headers: str, body: bytes = BODY, **changes: object) -> Asked:
    return Asked("PUT", target, headers, body, **changes)


PUTS = [
    put(),
    put(),
    put(body=b"", target="/v1/files/default/empty"),
    put("/v1/files/default/chunked", is_chunked=True),
    put("/v1/files/default/typed", "Content-Type: text/plain", "X-Trivet-Meta-Place: Rome", "x-trivet-meta-n: 1"),
    put("/v1/files/default/dir/b%2Fc"),
    put("/v1/files/default/%C3%A4%20b"),
    put("/v1/files/default/digests", f"Content-MD5: {MD5}", f"Content-Digest: sha-256=:{SHA}:"),
    put(FILE, "Content-MD5: XUFAKrxLKna5cZ2REBfFkg=="),
    put(FILE, "Content-MD5: !"),
    put(FILE, "Content-Digest: nonsense"),
    put(FILE, "Content-Range: bytes 0-1/2"),
    put(FILE, "If-None-Match: *"),
    put(FILE, 'If-Match: "nonsense"'),
    put(FILE, "If-Match: nonsense"),
    put(FILE, "If-Match: *"),
    put(FILE, "If-Unmodified-Since: Thu, 01 Jan 2099 00:00:00 GMT"),
    put(FILE, "X-Trivet-Write-Quorum: 3"),
    put(FILE, "X-Trivet-Write-Quorum: 4"),
    put(FILE, "Content-Type: a/b", "Content-Type: c/d"),
    put(FILE, "X-Trivet-Meta-A: 1", "x-trivet-meta-a: 2"),
    put(FILE, "X-Trivet-Meta-A B: 1"),
    put("/v1/files/default/%ff"),
    put("/v1/files/default/%zz"),
    put("/v1/files/default/a%00b"),
    put("/v1/files/default/a%0Ab"),
    put("/v1/files/default/a/../b"),
    put("/v1/files/default/"),
    put("/v1/files/Default/k"),
    put("/v1/files//k"),
    put("/v1/files/" + "b" * 64 + "/k"),
    put("/v1/files/default/" + "k" * 1025),
    put("/v1/files/nowhere/k"),
    put("/v1/files%2Fdefault/k"),
    put("/v1/%66iles/default/k"),
    put(FILE + "?x=1"),
    put(FILE + "?"),
    put(FILE, "Expect: 100-continue"),
    put(FILE, "Expect: 100-continue", "If-None-Match: *", is_body_sent=False),
    put(FILE, body=b"x" * (LIMIT_BYTES + 1), is_body_sent=False),
    put(FILE, body=b"x" * (LIMIT_BYTES + 1), is_chunked=True),
    put("/v1/files/default/once", "Idempotency-Key: k1"),
    put("/v1/files/default/once", "Idempotency-Key: k1"),
    put("/v1/files/default/once", "Idempotency-Key: k1", body=b"another"),
    put("/v1/files/default/once", "Idempotency-Key: k 1"),
    put("/v1/files/default/once", "Idempotency-Key: k2", "If-None-Match: *"),
    put(FILE, "Origin: http://elsewhere.example"),
    put(FILE, "Origin: http://friend.example"),
    put(FILE, "Origin: http://localhost"),
    put(FILE, "Origin: null"),
    put(FILE, "Sec-Fetch-Site: cross-site"),
    put(FILE, host="elsewhere.example"),
    put(FILE, "Host: localhost"),
    put(FILE, host=""),
    put(FILE, host="", version="1.0"),
]

_CONDITIONS = [
    (),
    ("If-None-Match: *",),
    ('If-None-Match: "x", "y"',),
    ("If-None-Match: x",),
    ('If-Match: "x"',),
    ("If-Match: *",),
    ("If-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT",),
    ("If-Modified-Since: Thu, 01 Jan 1960 00:00:00 GMT",),
    ("If-Modified-Since: nonsense",),
    ("If-Unmodified-Since: Thu, 01 Jan 1960 00:00:00 GMT",),
    ("X-Trivet-Read-Quorum: 2",),
    ("X-Trivet-Read-Quorum: 3",),
    ("X-Trivet-Read-Quorum: 0",),
    ("Origin: http://elsewhere.example",),
    ("Origin: http://friend.example",),
]
_RANGES = [
    "bytes=0-0",
    "bytes=5-99999999",
    "bytes=-7",
    "bytes=4000-4200",
    "bytes=0-0,-1",
    "bytes=0-1, 5000-5001,9000-",
    "bytes=99999999-",
    "bytes=5-4",
    "lines=1-2",
    "bytes=" + ",".join(["0-0"] * 17),
    "bytes=0-,0-",
]
_READ_TARGETS = [
    FILE,
    "/v1/files/default/empty",
    "/v1/files/default/typed",
    "/v1/files/default/dir/b/c",
    "/v1/files/default/%C3%A4%20b",
    "/v1/files/default/never",
    "/v1/files/nowhere/k",
    "/v1/files/default/%ff",
    "/v1/files/default/.",
    "/v1/files//k",
    FILE + "?x",
    FILE + "?",
    FILE + "?version=99999",
    FILE + "?version=0",
    FILE + "?version=",
    FILE + "?version=x",
    FILE + "?version=7&version=8",
    "/v1/files/nowhere/k?version=7",
]
READS = [
    *[Asked(method, FILE, headers) for method in ("GET", "HEAD") for headers in _CONDITIONS],
    *[Asked(method, FILE, (f"Range: {value}",)) for method in ("GET", "HEAD") for value in _RANGES],
    Asked("GET", FILE, ("Range: bytes=0-1", 'If-Range: "x"')),
    *[Asked(method, target) for method in ("GET", "HEAD") for target in _READ_TARGETS],
    Asked("GET", FILE, host="elsewhere.example"),
    Asked("HEAD", FILE, host="elsewhere.example"),
    Asked("GET", FILE, ("Connection: close",)),
    Asked("GET", FILE, body=b"a body that nobody reads"),
]
LISTS = [
    Asked("GET", LIST),
    Asked("GET", LIST + "?"),
    Asked("GET", LIST + "?prefix=dir/"),
    Asked("GET", LIST + "?delimiter=/"),
    Asked("GET", LIST + "?limit=2"),
    Asked("GET", f"{LIST}?limit=3&cursor={CURSOR}"),
    Asked("GET", f"{LIST}?prefix=other&cursor={CURSOR}"),
    Asked("GET", LIST + "?cursor=nonsense"),
    Asked("GET", LIST + "?limit=0"),
    Asked("GET", LIST + "?limit=1001"),
    Asked("GET", LIST + "?limit=1&limit=2"),
    Asked("GET", LIST + "?delimiter="),
    Asked("GET", LIST + "?prefix=%ff"),
    Asked("GET", LIST + "?nonsense=1"),
    Asked("GET", "/v1/files/nowhere"),
    Asked("GET", "/v1/files/No"),
    Asked("GET", "/v1/files/"),
    Asked("GET", "/v1/files/%ff"),
    Asked("GET", LIST, host="elsewhere.example"),
    Asked("GET", LIST, ("Origin: http://friend.example",)),
    Asked("HEAD", LIST),
    Asked("POST", LIST, body=b"no form"),
]
DELETIONS = [
    Asked("DELETE", FILE, ('If-Match: "x"',)),
    Asked("DELETE", FILE, ("If-None-Match: *",)),
    Asked("DELETE", FILE, ("Origin: http://elsewhere.example",)),
    Asked("DELETE", FILE + "?x=1"),
    Asked("DELETE", FILE + "?version=x"),
    Asked("DELETE", FILE + "?version=99999"),
    Asked("DELETE", FILE, ("Idempotency-Key: d1",)),
    Asked("DELETE", FILE, ("Idempotency-Key: d1",)),
    Asked("DELETE", FILE),
    Asked("GET", FILE),
    Asked("HEAD", FILE),
    Asked("DELETE", "/v1/files/default/empty"),
    Asked("DELETE", "/v1/files/nowhere/k"),
    Asked("DELETE", "/v1/files/default/%ff"),
    Asked("DELETE", "/v1/files/default"),
    Asked("PATCH", FILE),
    Asked("POST", FILE, body=b"x"),
    Asked("OPTIONS", FILE, ("Origin: http://friend.example", "Access-Control-Request-Method: PUT")),
    Asked("OPTIONS", FILE),
]


def ask(url: str, asked: Asked, cursor: str) -> Reply:
    """Send one request on a connection of its own."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as connection:
        connection.sendall(asked.wire(cursor))
        stream = connection.makefile("rb")
        statuses = [int(stream.readline().split()[1])]
        while statuses[-1] == 100:
            assert stream.readline() == b"\r\n"
            statuses.append(int(stream.readline().split()[1]))
        fields = []
        while (line := stream.readline()) != b"\r\n":
            name, _, value = line.decode("latin-1").partition(":")
            fields.append((name.lower(), value.strip()))
        has_body = asked.method != "HEAD" and statuses[-1] not in {204, 304}
        body = stream.read(int(dict(fields)["content-length"])) if has_body else b""
    return without_chance(Reply(tuple(statuses), tuple(sorted(fields)), body))


def without_chance(reply: Reply) -> Reply:
    """The reply without the second of the answer and the random boundary between ranges."""
    boundary = re.search("boundary=([0-9a-f]+)", reply.field("content-type") or "")
    fields, body = reply.fields, reply.body
    if boundary is not None:
        fields = tuple((name, value.replace(boundary[1], "BOUNDARY")) for name, value in fields)
        body = body.replace(boundary[1].encode(), b"BOUNDARY")
    named = tuple((name, "ID" if name == "x-trivet-request-id" else value) for name, value in fields)
    return Reply(reply.statuses, tuple(field for field in named if field[0] != "date"), body)


def ask_all(url: str, requests: Iterable[Asked]) -> list[Reply]:
    """Send them one after the other."""
    replies: list[Reply] = []
    cursor = ""
    for asked in requests:
        replies.append(ask(url, asked, cursor))
        if found := re.search(rb'"cursor":"([^"]+)"', replies[-1].body):
            cursor = found[1].decode()
    return replies


def counts() -> dict[str, float]:
    """The request metrics now, without what was measured."""
    return {
        f"{sample.name} {sorted(sample.labels.items())}": sample.value
        for family in REGISTRY.collect()
        if family.name.startswith("http_")
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created", "_seconds_sum"))
    }


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What was counted in between."""
    return {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}


CHANGES: dict[str, object] = {
    "max_file_bytes": LIMIT_BYTES,
    "cors_origins": "http://friend.example",
}


@pytest.mark.parametrize(
    "requests",
    [PUTS, [*PUTS, *READS], [*PUTS, *LISTS], [*PUTS, *DELETIONS]],
    ids=["puts", "reads", "lists", "deletions"],
)
def test_the_fast_path_answers_as_the_declared_routes_do(serve_app, tmp_path, requests) -> None:
    """Interim answers, status, header fields, body and metrics are equal for everything that may be asked."""
    replies: list[list[Reply]] = []
    counted: list[dict[str, float]] = []
    for name in ("fast", "routed"):
        app, gateway = make_app(tmp_path / name, has_fast_path=name == "fast", **CHANGES)
        url = serve_app(app)
        before = counts()
        replies.append(ask_all(url, requests))
        block_until(lambda gateway=gateway: gateway.under_way == 0, "the requests have ended", 10)
        counted.append(grown(before, counts()))
    fast, routed = replies
    for asked, one, other in zip(requests, fast, routed, strict=True):
        assert one == other, asked
    assert counted[0] == counted[1]
    statuses = {reply.statuses[-1] for reply in fast}
    assert {200, 201, 400, 403, 404, 412, 413, 421, 422} <= statuses, "the list lost some of its answers"


def test_these_calls_never_reach_the_framework(serve_app, tmp_path, monkeypatch) -> None:
    """Neither their answers nor their refusals: that is what the fast path is for."""

    framework = ServiceApp.answer

    async def answer(self: ServiceApp, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan", "the framework was asked"
        await framework(self, scope, receive, send)

    monkeypatch.setattr(ServiceApp, "answer", answer)
    url = serve_app(make_app(tmp_path)[0])
    requests = [
        put(),
        Asked("GET", FILE),
        Asked("HEAD", FILE),
        Asked("GET", LIST),
        Asked("DELETE", FILE),
        Asked("GET", FILE),
    ]
    assert [ask(url, asked, "").statuses[-1] for asked in requests] == [201, 200, 200, 200, 204, 404]
    assert ask(url, Asked("GET", "/v1/time"), "").statuses == (500,)
