"""Signature Version 4 as a client makes it: for the importer, and for the load of benchmarks.

The body is not signed: a client that wants it proved sends a checksum.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final
from urllib.parse import quote

ALGORITHM: Final = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD: Final = "UNSIGNED-PAYLOAD"

Query = Sequence[tuple[str, str]]

_UNRESERVED: Final = "-._~"


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """What is signed of a request. `path`, `query`: decoded; `headers`: by lower-case names, all of them are signed."""

    method: str
    path: str
    query: Query = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """Path and query as they are sent."""
        return escaped_path(self.path) + (f"?{escaped_query(self.query)}" if self.query else "")


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs with one access key for one host (`name:port`)."""

    key: str
    secret: str = field(repr=False)
    region: str
    host: str

    def headers(self, request: ClientRequest, payload: str, now: datetime) -> dict[str, str]:
        """All that the request sends. `payload`: of x-amz-content-sha256; `now`: in UTC."""
        sent = {
            "host": self.host,
            "x-amz-content-sha256": payload,
            "x-amz-date": _moment(now),
            **{name: " ".join(value.split()) for name, value in request.headers.items()},
        }
        signature = self._sign(replace(request, headers=sent), payload, now)
        names = ";".join(sorted(sent))
        credential = f"{self.key}/{self._scope(now)}"
        sent["authorization"] = f"{ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}"
        return sent

    def presigned(self, request: ClientRequest, expires_s: int, now: datetime) -> str:
        """Path and query of a link for anybody, for a request that needs no headers."""
        signed = [
            *request.query,
            ("X-Amz-Algorithm", ALGORITHM),
            ("X-Amz-Credential", f"{self.key}/{self._scope(now)}"),
            ("X-Amz-Date", _moment(now)),
            ("X-Amz-Expires", str(expires_s)),
            ("X-Amz-SignedHeaders", "host"),
        ]
        link = replace(request, query=signed, headers={"host": self.host})
        return f"{link.target}&X-Amz-Signature={self._sign(link, UNSIGNED_PAYLOAD, now)}"

    def _sign(self, request: ClientRequest, payload: str, now: datetime) -> str:
        names = sorted(request.headers)
        lines = "".join(f"{name}:{request.headers[name]}\n" for name in names)
        parts = (
            request.method,
            escaped_path(request.path),
            escaped_query(request.query),
            lines,
            ";".join(names),
            payload,
        )
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        text = f"{ALGORITHM}\n{_moment(now)}\n{self._scope(now)}\n{digest}"
        key = signing_key(self.secret, f"{now:%Y%m%d}", self.region)
        return hmac.digest(key, text.encode(), "sha256").hex()

    def _scope(self, now: datetime) -> str:
        return f"{now:%Y%m%d}/{self.region}/s3/aws4_request"


def escaped_path(path: str) -> str:
    """As it is signed and sent."""
    return quote(path, safe="/" + _UNRESERVED)


def escaped_query(query: Query) -> str:
    """As it is signed and sent, without the question mark."""
    return "&".join(
        f"{quote(name, safe=_UNRESERVED)}={quote(value, safe=_UNRESERVED)}" for name, value in sorted(query)
    )


def signing_key(secret: str, date: str, region: str) -> bytes:
    """What an access key signs with on one day (`20260131`) in one region."""
    key = ("AWS4" + secret).encode()
    for part in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _moment(now: datetime) -> str:
    return f"{now:%Y%m%dT%H%M%SZ}"
