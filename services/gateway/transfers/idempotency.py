"""Idempotency-Key: a request that is sent again happens once and gets the same answer (docs/promises.md, "Attempts"; G-43).

The key becomes the request id under which the change is proposed: the log stores the result of every request id, so the
mechanism that applies internal proposals once serves clients too, across gateways and their restarts. This module only
holds the keys of the requests that run here now: a duplicate request is refused with Retry-After instead of moving the
same gigabytes in parallel. A duplicate at another gateway moves them, and the log then answers it with the stored result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

from blake3 import blake3

from services.gateway.access.context import acting_principal
from services.gateway.ports import Metadata
from services.gateway.semantics.parameters import Header
from shared.contracts.access import ANONYMOUS
from shared.contracts.calls import Command, Proposed, ResultT
from shared.contracts.files import Preconditions
from shared.contracts.metadata import GetRequest, ProposalResult
from shared.errors import (
    IdempotencyKeyReusedError,
    InvalidRequestError,
    RequestInProgressError,
    error_from_problem,
)

RETENTION_S: Final = 24 * 3600
ANYBODY: Final = "public"
"""Stands for the anonymous principal. Logs written before there were others have it; with another word a duplicate across an
upgrade would not be seen."""

IDEMPOTENCY_KEY: Final = Header(
    "Idempotency-Key",
    (
        "1-255 visible ASCII characters. For 24 hours, a repeat with the same key happens once: once the change succeeded, or "
        "the log refused it for good (404, 409, 412), the repeat gets that answer again. What was refused before it reached "
        "the log, or may succeed at the next try, is tried again. A repeat that asks for something else is 422, and one while "
        "the first is still running is 409."
    ),
    "order-17",
)
"""What `IdempotencyKey.of` reads."""

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_LATER_PRECONDITIONS: Final = frozenset({"size_bytes", "stored_s"})
_DUPLICATE_RETRY_AFTER_S: Final = 1


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A request under an Idempotency-Key.

    Attributes:
        request_id: derived from the scope: principal, method, bucket, key of the file, and the Idempotency-Key.
        parameters_digest: digest of everything that was asked for but the body, which is not known yet.
    """

    request_id: str
    parameters_digest: str

    @classmethod
    def of(
        cls,
        headers: Mapping[str, str],
        *,
        method: str,
        bucket: str,
        key: str = "",
        preconditions: Preconditions | None = None,
        content: object = None,
    ) -> IdempotencyKey | None:
        """From the header, or None without one. `content` is what describes the body: its type and user metadata.

        Raises:
            InvalidRequestError: the key is not 1-255 visible ASCII characters; definite.
        """
        value = headers.get("idempotency-key")
        if value is None:
            return None
        if not _KEY.fullmatch(value):
            raise InvalidRequestError(
                "Idempotency-Key has 1-255 visible ASCII characters and is given once.", header="Idempotency-Key"
            )
        parameters = [None if preconditions is None else _described(preconditions), content]
        principal = acting_principal()
        owner = ANYBODY if principal == ANONYMOUS else principal
        # The prefix stands in logs written before; with another one a duplicate across an upgrade would not be seen.
        return cls(f"once-{_digest([owner, method, bucket, key, value])}", _digest(parameters)[:32])

    def of_entry(self, number: int) -> IdempotencyKey:
        """Of one entry of a request that takes several, the first of which is 0: each happens once."""
        return self if number == 0 else replace(self, request_id=f"{self.request_id}-{number}")

    def fingerprint(self, body_digest: str = "") -> str:
        """What the log compares; `body_digest` is 64 hex digits, or nothing where there is no body."""
        return f"{self.parameters_digest}-{body_digest}"

    def check(self, fingerprint: str | None, body_digest: str) -> None:
        """Raises IdempotencyKeyReusedError unless the first request asked for the same."""
        if fingerprint != self.fingerprint(body_digest):
            raise IdempotencyKeyReusedError("This Idempotency-Key was used for a different request; use a new one.")


def _described(preconditions: Preconditions) -> dict[str, object]:
    """Those that came later are left out where there are none: else a duplicate across an upgrade would be another request."""
    fields = preconditions.model_dump()
    return {name: value for name, value in fields.items() if value is not None or name not in _LATER_PRECONDITIONS}


@dataclass(frozen=True, slots=True)
class StoredResult:
    """What the log stores about a request that was made before."""

    result: ProposalResult
    fingerprint: str | None

    def replay(self, kind: type[Command[ResultT]]) -> Proposed[ResultT]:
        """The first answer again, to a command of that `kind`; raises what was raised then."""
        if self.result.problem is not None:
            raise error_from_problem(self.result.problem)
        return Proposed.of(kind, self.result.log_index, self.result.term, self.result.result)


class IdempotencyStore:
    """Results by Idempotency-Key, which the log stores. Invariant: `_running` holds the request ids in progress here."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._running: set[str] = set()

    def running(self, key: IdempotencyKey | None) -> AbstractContextManager[None]:
        """Marks the request as in progress while the context lasts; does nothing without a key.

        Raises:
            RequestInProgressError: the same request is in progress here; definite for the duplicate.
        """
        return nullcontext() if key is None else self._mark_running(key.request_id)

    async def stored_result(self, key: IdempotencyKey) -> StoredResult | None:
        """The stored result of an earlier request with this key, or None.

        Raises:
            LeaderUnavailableError: it cannot be found out now.
        """
        answer, _ = await self._metadata.read(GetRequest(request_id=key.request_id))
        return None if answer.result is None else StoredResult(answer.result, answer.fingerprint)

    async def propose(
        self, command: Command[ResultT], key: IdempotencyKey | None, *, body_digest: str = ""
    ) -> Proposed[ResultT]:
        """Have `command` ordered: under the key's request id for a day, or under a random one without a key.

        Raises:
            IdempotencyKeyReusedError: the key was used for something else; definite.
            TrivetError: as `Metadata.propose`, or as the first time.
        """
        if key is None:
            return await self._metadata.propose(command)
        return await self._metadata.propose(
            command, request_id=key.request_id, retain_s=RETENTION_S, fingerprint=key.fingerprint(body_digest)
        )

    @contextmanager
    def _mark_running(self, request_id: str) -> Iterator[None]:
        if request_id in self._running:
            raise RequestInProgressError(
                "A request with this Idempotency-Key is still running.", retry_after_s=_DUPLICATE_RETRY_AFTER_S
            )
        self._running.add(request_id)
        try:
            yield
        finally:
            self._running.discard(request_id)


def _digest(identity: list[Any]) -> str:
    return blake3(json.dumps(identity, separators=(",", ":"), sort_keys=True).encode()).hexdigest()
