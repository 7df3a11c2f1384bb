"""What a call reads of its path, query and headers is what OpenAPI says that it takes: no more and no less."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from tests.unit.gateway.api.local_gateway import make_app

UPLOAD_ID = f"{1:016x}-{'0' * 32}"
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nbody\r\n--x--\r\n',
    "multipart/form-data; boundary=x",
)
WELL_FORMED = {
    "If-Match": "*",
    "If-None-Match": '"another"',
    "Idempotency-Key": "once",
    "X-Trivet-Write-Quorum": "2",
    "X-Trivet-Read-Quorum": "1",
    "Content-MD5": "XUFAKrxLKna5cZ2REBfFkg==",
    "Content-Digest": "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:",
}
"""Headers of which a malformed value is refused where it is read; dates and ranges are ignored then."""


@dataclass(frozen=True)
class Operation:
    """One operation of the description, with a request that it would take."""

    method: str
    path: str
    parameters: list[dict[str, Any]]
    body: bytes | None
    content_type: str

    def names(self, place: str) -> set[str]:
        return {each["name"] for each in self.parameters if each["in"] == place}

    def ask(self, client: httpx.Client, *, header: tuple[str, str] | None = None, query: str = "") -> httpx.Response:
        path = self.path.format(bucket="default", key="a", upload_id=UPLOAD_ID, number=1)
        required = {"bucket": "default"} if "bucket" in self.names("query") else {}
        headers = {"Content-Type": self.content_type} | dict([] if header is None else [header])
        target = (
            httpx.URL(path, params=required | ({query: "malformed"} if query else {})) if required or query else path
        )
        return client.request(self.method, target, content=self.body, headers=headers)


def operations(schema: dict[str, Any]) -> Iterator[Operation]:
    """Those under /v1, each with the first example of its body."""
    for path, methods in schema["paths"].items():
        if not path.startswith("/v1/"):
            continue
        for method, operation in methods.items():
            body, content_type = None, "application/octet-stream"
            for kind, document in operation.get("requestBody", {}).get("content", {}).items():
                content_type = kind
                if kind == "application/json":
                    body = httpx.Request("POST", "http://x", json=document["schema"]["examples"][0]).content
                elif kind == FORM[1].partition(";")[0]:
                    body, content_type = FORM
                else:
                    body = b"body"
            yield Operation(method.upper(), path, operation.get("parameters", []), body, content_type)


def refused(answer: httpx.Response, kind: str, name: str) -> bool:
    """Whether this parameter was refused, and not something else."""
    if answer.status_code != 400 or answer.request.method == "HEAD":
        return answer.status_code == 400
    return str(answer.json().get(kind, "")).lower() == name.lower()


def test_every_header_is_described_exactly_where_it_is_read(serve_app, tmp_path) -> None:
    """A malformed value is refused there. A header that is refused whatever its value is none that a call takes."""
    app, _ = make_app(tmp_path)
    count = 0
    with httpx.Client(base_url=serve_app(app)) as client:
        for operation in operations(app.openapi()):
            for name, value in WELL_FORMED.items():
                malformed = refused(operation.ask(client, header=(name, "mal formed!")), "header", name)
                is_read = malformed and not refused(operation.ask(client, header=(name, value)), "header", name)
                where = f"{operation.method} {operation.path}: {name}"
                if name in operation.names("header"):
                    assert malformed, where
                    count += 1
                else:
                    assert not is_read, where
    assert count > 40


def test_every_parameter_of_a_query_is_described_and_no_other_is_taken(serve_app, tmp_path) -> None:
    """What is not described is refused by its name, or with the whole query."""
    app, _ = make_app(tmp_path)
    count = 0
    with httpx.Client(base_url=serve_app(app)) as client:
        for operation in operations(app.openapi()):
            where = f"{operation.method} {operation.path}"
            if operation.path in {"/v1/links", "/v1/identity"}:
                continue  # a caller without a key is refused before
            assert operation.ask(client, query="unknown").status_code == 400, where
            for each in operation.parameters:
                if each["in"] == "query" and each["schema"]["type"] != "string":
                    assert refused(operation.ask(client, query=each["name"]), "parameter", each["name"]), (where, each)
                    count += 1
    assert count > 8
