"""What a handler decides about whoever asks, behind the door; every refusal is counted and written, as those at the door are."""

from __future__ import annotations

from services.gateway.access.context import AccessContext, current_access
from services.gateway.access.control import Decision
from services.gateway.s3.requests import S3Request
from services.gateway.semantics.raw_names import FileName
from shared.contracts.access import Action
from shared.contracts.files import Preconditions
from shared.errors import AccessDeniedError, TrivetError, UnauthenticatedError


async def require(request: S3Request, action: Action, name: FileName, version: int | None = None) -> None:
    """Return when the caller may do it. Raises AccessDeniedError, UnauthenticatedError; definite."""
    await _decide(request, name, lambda context: context.require(action, name.bucket, name.key, version))


async def require_sight(request: S3Request, name: FileName, conditions: Preconditions | None) -> None:
    """Return when the caller may have those conditions of a change of `name` looked at.

    Raises:
        AccessDeniedError, UnauthenticatedError: it may not; definite.
    """
    if tells_of(conditions):
        await _decide(request, name, lambda context: see(context, name))


def tells_of(conditions: Preconditions | None) -> bool:
    """Whether conditions of a change ask what is there, not only that nothing be there."""
    return conditions is not None and (
        conditions.if_match is not None or conditions.size_bytes is not None or conditions.stored_s is not None
    )


def see(context: AccessContext, name: FileName) -> None:
    """Return for those who may read or list the file: to others, whether a condition holds would tell that it is there.

    Raises:
        AccessDeniedError, UnauthenticatedError: neither; definite.
    """
    try:
        context.require(Action.READ, name.bucket, name.key)
    except (AccessDeniedError, UnauthenticatedError):
        context.require(Action.LIST, name.bucket, name.key)


async def _decide(request: S3Request, name: FileName, decision: Decision) -> None:
    try:
        await request.services.access.decide(current_access(), decision)
    except (AccessDeniedError, UnauthenticatedError) as error:
        count_refusal(request, error, name)
        raise


def count_refusal(request: S3Request, error: TrivetError, name: FileName) -> None:
    """A handler refuses the request, or a part of it, because of `name`. What the log is asked for counts by itself."""
    about = request.about()._replace(bucket=name.bucket, key=name.key)
    request.services.access.refusals.refused(error.code, current_access(), about)
