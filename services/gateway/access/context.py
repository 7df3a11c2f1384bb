"""Carries who a request is made by from the door to wherever data is touched.

A context variable and not an argument: what forgets to pass an argument would act for nobody, and a default would act for
everybody. A task of a request inherits its context; work that outlives the request begins without one
(`shared.background_tasks`), so it can neither act for a principal that has gone nor by chance for the wrong one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from services.gateway.access.policy import is_allowed, may_somewhere, refusal
from services.gateway.access.principal import ITSELF, NOBODY, Principal
from services.gateway.access.rate_limits import BodyPace
from shared.contracts.access import ANONYMOUS, Action, Requester
from shared.errors import InternalError, TrivetError, UnauthenticatedError


@dataclass(slots=True)
class AccessContext:
    """Of one request.

    Attributes:
        principal: as it is at `access_index`; replaced when newer rows are known.
        address: of the client, as the gateway sees it.
        request_id: by which the request is found in logs and in the trail.
        operation: what the route does, where that is one action; None where the command or query decides.
        bucket, key: what the path names; decided for `operation` at the door, and again with newer rows.
        access_index, edition: of the rows that `principal` was made from.
        is_by_link: only `operation` on `bucket` and `key` may be done, whatever else the principal may do.
        pace: that the bodies of the principal keep; None where it has none.
    """

    principal: Principal
    address: str = ""
    request_id: str = ""
    operation: Action | None = None
    bucket: str | None = None
    key: str | None = None
    access_index: int = 0
    edition: int = -1
    is_by_link: bool = False
    pace: BodyPace | None = None

    def require(self, action: Action, bucket: str, key: str = "", version: int | None = None) -> None:
        """Return when the principal may do it.

        Raises:
            UnauthenticatedError: it may not, and has shown no credential; definite.
            AccessDeniedError: it may not; definite.
        """
        is_for_this = not self.is_by_link or (action, bucket, key) == (self.operation, self.bucket, self.key)
        if not is_for_this or not is_allowed(self.principal, action, bucket, key, version=version):
            raise self.refusal(action, bucket)

    def refusal(self, action: Action, bucket: str = "") -> TrivetError:
        """Why the principal may not do it."""
        if self.principal.id == ANONYMOUS:
            return UnauthenticatedError("This needs a key: 'Authorization: Bearer <id>.<secret>', or a signed link.")
        return refusal(action, bucket)

    def require_anybody(self) -> None:
        """Return for every principal. Raises UnauthenticatedError: nobody is known who may do anything; definite."""
        if self.principal is NOBODY:
            raise self.refusal(Action.LIST)

    def require_target(self) -> None:
        """Return when the principal may do what the route does with what the path names, so far as that is known.

        Raises:
            UnauthenticatedError, AccessDeniedError: as `require`.
        """
        if self.operation is Action.CLUSTER_ADMIN:
            self.require(self.operation, "")
        elif self.operation is None or self.bucket is None:
            return
        elif self.key is not None:
            self.require(self.operation, self.bucket, self.key)
        elif not may_somewhere(self.principal, self.operation, self.bucket):
            raise self.refusal(self.operation, self.bucket)

    def requester(self) -> Requester:
        """Whom a change is made for, as the log is told."""
        return Requester(
            principal=self.principal.id,
            key=self.principal.key,
            access_index=self.access_index,
            request=self.request_id,
            address=self.address,
        )


_SYSTEM: Final = AccessContext(ITSELF)
access_context: ContextVar[AccessContext | None] = ContextVar("access_context", default=None)
"""Of the running task; see `current_access` and `acting_for`."""


def current_access() -> AccessContext:
    """Whom the running task acts for.

    Raises:
        InternalError: nobody was named: a defect of ours, which must not read or change anything.
    """
    context = access_context.get()
    if context is None:
        raise InternalError("Nothing says whom this is done for.")
    return context


def acting_principal() -> str:
    """The id of the principal that the running task acts for: what is stored under its name is nobody else's.

    `anonymous` where nobody was named, as where the gateway knows no keys.
    """
    context = access_context.get()
    return ANONYMOUS if context is None else context.principal.id


def known_access() -> AccessContext | None:
    """The same, or None where nobody was named: for what decides nothing about what may be read or changed."""
    return access_context.get()


@contextmanager
def acting_for(context: AccessContext) -> Iterator[None]:
    """What runs inside, and its tasks, acts for that principal."""
    token = access_context.set(context)
    try:
        yield
    finally:
        access_context.reset(token)


def as_system() -> AbstractContextManager[None]:
    """What runs inside is done by Trivet itself: the policy is not asked. Only where no client decides what is done."""
    return acting_for(_SYSTEM)
