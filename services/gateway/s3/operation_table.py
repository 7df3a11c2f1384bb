"""Every operation of S3 that is known here: how a request is told to be one, what it needs, and who answers it.

The one place that knows them. An operation without a handler is answered 501 `NotImplemented`. `docs/s3.md` is made from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from services.gateway.s3.requests import S3Request
from shared.contracts.access import Action

Handler = Callable[[S3Request], Awaitable[None]]
Level = Literal["service", "bucket", "object"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One row.

    Attributes:
        name: as S3's documentation and its error messages have it, such as `PutObject`.
        iam_action: such as `s3:PutObject`; what policies will name.
        action: what the caller needs on what the target names; None where the commands and queries decide.
        subresource: the parameter of the query that picks it, such as `uploads`; None for the plain one.
        needs: further parameters or headers without which it is another operation, such as `x-amz-copy-source`.
        takes_body: bytes are read; all others refuse to wait for any.
    """

    name: str
    iam_action: str
    method: str
    level: Level
    action: Action | None = None
    subresource: str | None = None
    needs: tuple[str, ...] = ()
    takes_body: bool = False
    handler: Handler | None = None
