"""Counts what was refused, and has it written without a secret: whoever guesses is seen."""

from __future__ import annotations

from collections import Counter

from services.gateway.access.context import AccessContext
from services.gateway.access_log import About, AccessLog, Caller


class Refusals:
    """Of one gateway, by the code of the error."""

    def __init__(self, access_log: AccessLog) -> None:
        self._access_log = access_log
        self._counts: Counter[str] = Counter()

    def statistics(self) -> dict[str, int]:
        """How many so far, by code."""
        return dict(self._counts)

    def refused(self, code: str, context: AccessContext, about: About) -> None:
        """The request of `context` was refused with the error of that code."""
        self._counts[code] += 1
        self._access_log.denied(caller_of(context), code, about)


def caller_of(context: AccessContext) -> Caller:
    """As the access log shows it."""
    principal = context.principal
    return Caller(principal.id, principal.key or "", context.request_id, context.address)
