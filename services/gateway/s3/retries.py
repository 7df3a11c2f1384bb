"""Retries of SDKs: all attempts of one call carry one id, which serves as an Idempotency-Key where it is signed.

So a conditional PUT whose answer was lost gets its success again, and not the 412 that its own first attempt has brought about.
"""

from __future__ import annotations

import re
from typing import Final

from services.gateway.s3.requests import S3Request
from services.gateway.transfers.idempotency import IdempotencyKey
from shared.contracts.calls import Command, ResultT
from shared.contracts.files import Preconditions

INVOCATION_ID: Final = "amz-sdk-invocation-id"
_ID: Final = re.compile(r"[0-9A-Za-z_-]{16,64}")
"""As random as a UUID; what is shorter may well be used twice."""


def retry_key(
    request: S3Request, content: object = None, *, preconditions: Preconditions | None = None
) -> IdempotencyKey | None:
    """Under which the change of `request` happens once; None where its client has no such id, or has not signed it.

    `content`: all else that it asks for, its body excepted.
    """
    invocation = request.headers.get(INVOCATION_ID)
    if invocation is None or INVOCATION_ID not in request.signed_headers or not _ID.fullmatch(invocation):
        return None
    return IdempotencyKey.of(
        {"idempotency-key": invocation},
        method=f"s3 {request.operation.name}",
        bucket=request.bucket,
        key=request.key,
        preconditions=preconditions,
        content=content,
    )


async def propose_once(request: S3Request, command: Command[ResultT], key: IdempotencyKey | None) -> ResultT:
    """Have `command` ordered for `request`, once under `key`: what all attempts of one call get is the result of the first.

    Raises:
        RequestInProgressError: another attempt of it is under way; definite.
        TrivetError: as `Metadata.propose`, or as the first time.
    """
    idempotency = request.services.idempotency
    with idempotency.running(key):
        return (await idempotency.propose(command, key)).result
