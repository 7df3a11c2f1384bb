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

from services.gateway.access.principal import ITSELF, Principal
from shared.contracts.access import Action, Requester
from shared.errors import InternalError


@dataclass(slots=True)
class AccessContext:
    """Of one request.

    Attributes:
        principal: as it is at `access_index`; replaced when newer rows are known.
        address: of the client, as the gateway sees it.
        request_id: by which the request is found in logs and in the trail.
        operation: what the route does, where that is one action; None where the command or query decides.
        bucket, key: what the path names.
        access_index: of the rows that `principal` was made from.
    """

    principal: Principal
    address: str = ""
    request_id: str = ""
    operation: Action | None = None
    bucket: str | None = None
    key: str | None = None
    access_index: int = 0

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
_context: ContextVar[AccessContext | None] = ContextVar("access_context", default=None)


def current_access() -> AccessContext:
    """Whom the running task acts for.

    Raises:
        InternalError: nobody was named: a defect of ours, which must not read or change anything.
    """
    context = _context.get()
    if context is None:
        raise InternalError("Nothing says whom this is done for.")
    return context


@contextmanager
def acting_for(context: AccessContext) -> Iterator[None]:
    """What runs inside, and its tasks, acts for that principal."""
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)


def as_system() -> AbstractContextManager[None]:
    """What runs inside is done by Trivet itself: the policy is not asked. Only where no client decides what is done."""
    return acting_for(_SYSTEM)
