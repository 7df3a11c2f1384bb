"""One S3 server as the importer asks it: signed requests, lists of versions, and what an object carries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx

from trivet.import_s3.histories import Version
from trivet.import_s3.signing import UNSIGNED_PAYLOAD, ClientRequest, Query, Signer
from trivet.import_s3.units import MIB
from trivet.import_s3.xml_documents import Element, MalformedError, parse

PAGE: Final = 500
"""Versions per page: a thousand of the longest keys would be more XML than is parsed at once."""

_LIST_LIMIT_BYTES: Final = 4 * MIB
_TIMEOUT: Final = httpx.Timeout(60.0, pool=600.0)
_SUCCESS: Final = frozenset({200, 204, 206})
_NO_TAGS: Final = frozenset({"NoSuchTagSet", "NotImplemented"})


class StoreError(Exception):
    """A server refused. Attributes: `status`, and the `code` of its document, empty where there was none."""

    def __init__(self, what: str, status: int, code: str, message: str) -> None:
        super().__init__(f"{what}: {status} {code} {message}".strip())
        self.status = status
        self.code = code

    @property
    def may_pass(self) -> bool:
        """Whether another attempt may succeed."""
        return self.status >= 500 or self.status in {408, 429}


class Store:
    """A server with one access key. Threads may share it. Every call raises StoreError or httpx.HTTPError."""

    def __init__(self, url: str, key: str, secret: str, region: str, connections: int) -> None:
        place = urlsplit(url)
        self.url = f"{place.scheme}://{place.netloc}"
        self._signer = Signer(key, secret, region, place.netloc)
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = httpx.Client(
            # What is stored under a Content-Encoding comes as it is.
            headers={"accept-encoding": "identity"},
            timeout=_TIMEOUT,
            limits=limits,
            trust_env=False,
        )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    @contextmanager
    def stream(
        self, request: ClientRequest, body: bytes | Iterable[bytes] = b"", payload: str = UNSIGNED_PAYLOAD
    ) -> Iterator[httpx.Response]:
        """A request whose answer's body is read by the caller."""
        signed = request
        if isinstance(body, bytes) and (body or request.method in {"PUT", "POST"}):
            signed = replace(request, headers={**request.headers, "content-length": str(len(body))})
        headers = httpx.Headers(self._signer.headers(signed, payload, datetime.now(UTC)), encoding="utf-8")
        # Past httpx' own idea of a path, which has no `..` and no `//`: keys may.
        extensions = {"target": request.target.encode()}
        asked = self._client.build_request(
            request.method, self.url, headers=headers, content=body, extensions=extensions
        )
        answer = self._client.send(asked, stream=True)
        try:
            if answer.status_code not in _SUCCESS:
                raise _error(f"{request.method} {request.path}", answer.status_code, answer.read())
            yield answer
        finally:
            answer.close()

    def call(self, method: str, path: str, query: Query = (), body: bytes = b"") -> httpx.Response:
        """A request with a short answer. Arguments as of `ClientRequest`."""
        return self.send(ClientRequest(method, path, query), body)

    def send(self, request: ClientRequest, body: bytes = b"") -> httpx.Response:
        """As `call`, for a request with headers."""
        with self.stream(request, body) as answer:
            answer.read()
            return answer

    def document(self, path: str, query: Query, root: str) -> Element:
        """The XML that a GET gives."""
        return parse(self.call("GET", path, query).content, root, limit_bytes=_LIST_LIMIT_BYTES)

    def buckets(self) -> list[str]:
        """Names of all that are shown to this key."""
        found = self.document("/", (), "ListAllMyBucketsResult").iterfind("Buckets/Bucket/Name")
        return [name.text or "" for name in found]

    def versioning(self, bucket: str) -> str:
        """`Enabled`, `Suspended`, or empty."""
        return _text(self.document(f"/{bucket}", [("versioning", "")], "VersioningConfiguration"), "Status")

    def keys(self, bucket: str, *, has_versions: bool) -> Iterator[tuple[str, list[Version]]]:
        """Every key with its history, as `history`; page by page, in the server's order."""
        rows = self._versions(bucket, "") if has_versions else self._current(bucket, "")
        for key, versions in groupby(rows, key=lambda row: row[0]):
            yield key, [version for _, version in versions][::-1]

    def history(self, bucket: str, key: str, *, has_versions: bool) -> list[Version]:
        """What there is under one key, oldest first; of a bucket without versions at most one."""
        rows = self._versions(bucket, key) if has_versions else self._current(bucket, key)
        found: list[Version] = []
        for other, version in rows:
            # The key itself comes before every other one that begins with it.
            if other != key:
                break
            found.append(version)
        return found[::-1]

    def tags(self, bucket: str, key: str, version: Version) -> dict[str, str]:
        """Of one version."""
        try:
            found = self.document(f"/{bucket}/{key}", [("tagging", ""), *version_query(version)], "Tagging")
        except StoreError as error:
            if error.code in _NO_TAGS:
                return {}
            raise
        return {_text(tag, "Key"): _text(tag, "Value") for tag in found.iterfind("TagSet/Tag")}

    def _versions(self, bucket: str, prefix: str) -> Iterator[tuple[str, Version]]:
        marker: list[tuple[str, str]] = []
        while True:
            query = [("versions", ""), ("max-keys", str(PAGE)), ("prefix", prefix), ("encoding-type", "url"), *marker]
            page = self.document(f"/{bucket}", query, "ListVersionsResult")
            for row in page:
                if row.tag in {"Version", "DeleteMarker"}:
                    yield unquote(_text(row, "Key")), _version(row, is_marker=row.tag == "DeleteMarker")
            if _text(page, "IsTruncated") != "true":
                return
            marker = [
                ("key-marker", unquote(_text(page, "NextKeyMarker"))),
                ("version-id-marker", _text(page, "NextVersionIdMarker")),
            ]

    def _current(self, bucket: str, prefix: str) -> Iterator[tuple[str, Version]]:
        token: list[tuple[str, str]] = []
        while True:
            query = [("list-type", "2"), ("max-keys", str(PAGE)), ("prefix", prefix), ("encoding-type", "url"), *token]
            page = self.document(f"/{bucket}", query, "ListBucketResult")
            for row in page.iterfind("Contents"):
                yield unquote(_text(row, "Key")), _version(row, is_marker=False)
            if _text(page, "IsTruncated") != "true":
                return
            token = [("continuation-token", _text(page, "NextContinuationToken"))]


def version_query(version: Version) -> list[tuple[str, str]]:
    """What names it in a query."""
    return [] if version.id is None else [("versionId", version.id)]


def _version(row: Element, *, is_marker: bool) -> Version:
    identifier = _text(row, "VersionId") or None
    return Version(identifier, is_marker, int(_text(row, "Size") or 0), _text(row, "ETag").strip('"'))


def _text(parent: Element, name: str) -> str:
    found = parent.find(name)
    return "" if found is None else found.text or ""


def _error(what: str, status: int, body: bytes) -> StoreError:
    try:
        document = parse(body, "Error")
    except MalformedError:
        return StoreError(what, status, "", "")
    return StoreError(what, status, _text(document, "Code"), _text(document, "Message"))
