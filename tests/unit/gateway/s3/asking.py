"""Asks S3's application in this process, byte for byte, and signs with botocore's own signer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from lxml import etree
from starlette.types import ASGIApp, Message

from services.gateway.s3.xml_documents import NAMESPACE
from tests.unit.gateway.access.scene import LOOPBACK, Holder

HOST = "localhost:9000"

Query = Mapping[str, str] | Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """Of one request. `has_read`: whether the application asked for the body."""

    status: int
    headers: dict[str, str]
    body: bytes
    has_read: bool

    @property
    def xml(self) -> Any:
        """The document, without namespaces."""
        root = etree.fromstring(self.body)
        for node in root.iter():
            node.tag = node.tag.removeprefix(f"{{{NAMESPACE}}}")
        return root

    @property
    def code(self) -> str | None:
        """Of an error."""
        return self.xml.findtext("Code") if self.body else None

    def text(self, path: str) -> str | None:
        """Of the element at `path`."""
        return self.xml.findtext(path)

    def texts(self, path: str) -> list[str]:
        """Of all elements at `path`."""
        return [node.text or "" for node in self.xml.findall(path)]


async def ask(
    app: ASGIApp,
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | list[bytes] = b"",
    *,
    address: str = LOOPBACK,
) -> Answer:
    """One request with its raw `target`, such as `/bucket/a%20b?acl`; the pieces of `body` come one by one."""
    raw_path, _, query = target.partition("?")
    pieces = [body] if isinstance(body, bytes) else body
    fields = {"host": HOST, **{name.lower(): value for name, value in (headers or {}).items()}}
    if body and "content-length" not in fields and "transfer-encoding" not in fields:
        fields["content-length"] = str(sum(map(len, pieces)))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": raw_path,
        "raw_path": raw_path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()],
        "client": (address, 1),
        "server": (LOOPBACK, 9000),
    }
    waiting, sent, has_read = list(pieces), [], False

    async def receive() -> Message:
        nonlocal has_read
        has_read = True
        if not waiting:
            if sum(map(len, pieces)) >= int(fields.get("content-length", 0)):
                await asyncio.Event().wait()  # a client that has said everything waits for the answer
            return {"type": "http.disconnect"}
        piece = waiting.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(waiting)}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start = sent[0]
    assert start["type"] == "http.response.start"
    assert not sent[-1].get("more_body", False)
    answered = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
    return Answer(start["status"], answered, b"".join(message.get("body", b"") for message in sent[1:]), has_read)


def target_of(bucket: str = "", key: str = "", query: Query = ()) -> str:
    """The raw target as boto3 writes it."""
    path = "/" + quote(bucket) + ("/" + quote(key, safe="/~") if key else "")
    pairs = list(query.items() if isinstance(query, Mapping) else query)
    return f"{path}?{urlencode(pairs, quote_via=quote)}" if pairs else path


def signed_headers(
    holder: Holder,
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    *,
    region: str = "us-east-1",
) -> dict[str, str]:
    """The headers of a request, those of the signature included; x-amz-content-sha256 is signed as given, else computed."""
    request = AWSRequest(method, f"http://{HOST}{target}", headers=dict(headers or {}), data=body)
    S3SigV4Auth(Credentials(holder.key, holder.secret), "s3", region).add_auth(request)
    return dict(request.headers.items())


def presigned_target(
    holder: Holder,
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    *,
    expires_s: int = 600,
    region: str = "us-east-1",
) -> str:
    """The target with a signature in its query."""
    request = AWSRequest(method, f"http://{HOST}{target}", headers=dict(headers or {}))
    S3SigV4QueryAuth(Credentials(holder.key, holder.secret), "s3", region, expires_s).add_auth(request)
    return request.url.removeprefix(f"http://{HOST}")


@dataclass(frozen=True)
class S3Client:
    """Asks for a holder of a key; signs every request."""

    app: ASGIApp
    holder: Holder

    async def __call__(
        self,
        method: str,
        bucket: str = "",
        key: str = "",
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        target = target_of(bucket, key, query)
        return await ask(self.app, method, target, signed_headers(self.holder, method, target, headers, body), body)
