"""Idempotency-Key: a request that is sent again happens once and gets the same answer (DESIGN.md section 12).

The key becomes the request id under which the change is proposed, so the one mechanism that makes internal proposals
happen once serves clients too, over all gateways and across their deaths. What is kept here is only which keys are being
worked on now: a twin is told to come back instead of moving the same gigabytes in parallel. A twin at another gateway
moves them and is then given the first one's receipt by the log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from blake3 import blake3

from services.gateway.ports import Metadata
from shared.contracts.metadata import Command, GetRequest, Preconditions, ProposalResult, RequestAnswer
from shared.errors import (
    IdempotencyKeyReusedError,
    InternalError,
    InvalidRequestError,
    RequestInProgressError,
    error_from_problem,
)

RETENTION_S: Final = 24 * 3600
ANYBODY: Final = "public"
"""The principal of every request, until there are several."""

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_TWIN_RETRY_AFTER_S: Final = 1


@dataclass(frozen=True, slots=True)
class OnceOnly:
    """A request under an Idempotency-Key.

    Attributes:
        request_id: derived from the scope: principal, method, bucket, key of the file, and the Idempotency-Key.
        asked: digest of what was asked for, but for the body, which is not known yet.
    """

    request_id: str
    asked: str

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
    ) -> OnceOnly | None:
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
        asked = [None if preconditions is None else preconditions.model_dump(), content]
        return cls(f"once-{_digest([ANYBODY, method, bucket, key, value])}", _digest(asked)[:32])

    def fingerprint(self, body_digest: str = "") -> str:
        """What the log compares; `body_digest` is 64 hex digits, or nothing where there is no body."""
        return f"{self.asked}-{body_digest}"

    def check(self, fingerprint: str | None, body_digest: str) -> None:
        """Raises IdempotencyKeyReusedError unless the remembered request asked for the same."""
        if fingerprint != self.fingerprint(body_digest):
            raise IdempotencyKeyReusedError("This Idempotency-Key was used for a different request; use a new one.")


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the log knows of a request that was made before."""

    result: ProposalResult
    fingerprint: str | None

    def replay(self) -> ProposalResult:
        """The first answer again; raises what was raised then."""
        if self.result.problem is not None:
            raise error_from_problem(self.result.problem)
        return self.result


class OnceKeeper:
    """Makes requests with an Idempotency-Key happen once. Invariant: `_running` holds what this gateway works on now."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._running: set[str] = set()

    def running(self, once: OnceOnly | None) -> AbstractContextManager[None]:
        """A context in which `once` is being worked on; nothing to enter without a key.

        Raises:
            RequestInProgressError: this gateway works on it already; definite for the twin.
        """
        return nullcontext() if once is None else self._hold(once.request_id)

    async def recall(self, once: OnceOnly) -> Remembered | None:
        """The request's first answer, if there was one.

        Raises:
            LeaderUnavailableError: it cannot be found out now.
        """
        answer, _ = await self._metadata.read(GetRequest(request_id=once.request_id))
        if not isinstance(answer, RequestAnswer):
            raise InternalError("Consensus answered another question than was asked.", definite=True)
        return None if answer.result is None else Remembered(answer.result, answer.fingerprint)

    async def propose(self, command: Command, once: OnceOnly | None, *, body_digest: str = "") -> ProposalResult:
        """Have `command` ordered: under the key's request id for a day, or under a random one without a key.

        Raises:
            IdempotencyKeyReusedError: the key was used for something else; definite.
            TrivetError: as `Metadata.propose`, or as the first time.
        """
        if once is None:
            return await self._metadata.propose(command)
        return await self._metadata.propose(
            command, request_id=once.request_id, retain_s=RETENTION_S, fingerprint=once.fingerprint(body_digest)
        )

    @contextmanager
    def _hold(self, request_id: str) -> Iterator[None]:
        if request_id in self._running:
            raise RequestInProgressError(
                "A request with this Idempotency-Key is still running.", retry_after_s=_TWIN_RETRY_AFTER_S
            )
        self._running.add(request_id)
        try:
            yield
        finally:
            self._running.discard(request_id)


def _digest(identity: list[Any]) -> str:
    return blake3(json.dumps(identity, separators=(",", ":"), sort_keys=True).encode()).hexdigest()
