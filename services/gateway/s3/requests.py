"""One request on S3's port, after its operation was decided and its body's framing is known."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from starlette.types import Receive, Scope, Send

from services.gateway.access_log import About
from services.gateway.api.services import Services
from services.gateway.s3.rules import S3Rules
from services.gateway.transfers.admission import Transfer

if TYPE_CHECKING:
    from services.gateway.s3.operation_table import Operation


class S3Body(Protocol):
    """The bytes that a client means, without any framing of S3's: what is stored. Proved as far as its form allows.

    Attributes are those of the head; `trailers` are there when the iteration has ended.
    """

    @property
    def size_bytes(self) -> int | None:
        """How many bytes there will be; None where the client did not say so."""

    @property
    def sha256(self) -> bytes | None:
        """What all of it must hash to, if the head says so; whoever takes the bytes compares it."""

    @property
    def announced_trailer(self) -> str | None:
        """The header that will follow the bytes, such as `x-amz-checksum-crc32`; lower case."""

    @property
    def trailers(self) -> Mapping[str, str]:
        """What followed the bytes, by lower-case names."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Pieces as they come. Raises S3Error: malformed, broken off, or a signature of it is wrong."""

    async def read(self, limit_bytes: int, transfer: Transfer | None = None) -> bytes:
        """All of it, compared with `sha256`.

        `transfer`: whose client is waited for, at the pace of its principal (`PacedBody`).

        Raises:
            S3Error: EntityTooLarge where there is more than `limit_bytes`.
        """


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """What the first line and the Host name, decoded once.

    Attributes:
        bucket, key: empty where none is named.
        query: names and values as sent, decoded; repeated names stay.
    """

    bucket: str
    key: str
    query: Sequence[tuple[str, str]]

    def value(self, name: str) -> str | None:
        """The first value of a parameter; empty for one without `=`."""
        return next((value for each, value in self.query if each == name), None)

    def __contains__(self, name: str) -> bool:
        """Whether the query has that parameter."""
        return any(each == name for each, _ in self.query)


@dataclass(slots=True)
class S3Request:
    """What a handler gets. It sends the answer itself (`answers`), or raises S3Error or TrivetError before it sent anything.

    Attributes:
        headers: by lower-case names, repeated ones joined by a comma and a space.
        request_id: 16 hex; also in the log, the trail and the answer.
        rules: what the settings say.
        body: proved; None before authentication.
        signed_headers: names of those that its signature covers.
        answer_headers: that every answer to it carries: `x-amz-request-id`, CORS, and what a handler adds.
    """

    scope: Scope
    receive: Receive
    send: Send
    operation: Operation
    target: RequestTarget
    headers: Mapping[str, str]
    request_id: str
    services: Services
    rules: S3Rules
    body: S3Body | None = None
    signed_headers: Sequence[str] = ()
    answer_headers: dict[str, str] = field(default_factory=dict)

    @property
    def bucket(self) -> str:
        """Of the target."""
        return self.target.bucket

    @property
    def key(self) -> str:
        """Of the target."""
        return self.target.key

    def about(self) -> About:
        """What was asked for, as the access log shows it."""
        action = f"s3:{self.operation.name}"
        return About(self.scope["method"], self.scope["path"], action, self.bucket, self.key)


Handler = Callable[[S3Request], Awaitable[None]]
"""Answers one request; see `S3Request`."""
