"""The fast path: an ASGI handler in front of FastAPI for proposals and reads, which are nearly all that a member is asked.

Routing, dependency solving and generic instrumentation cost more than appending to the log or proving leadership does. `api`
declares the same calls for OpenAPI and shares their code. What is not a well-formed call is passed on, so that one place says
what is wrong with it (C-104).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.consensus.callers import check_proposals, check_queries
from services.consensus.service import ConsensusService
from shared.contracts.base import WireModel
from shared.contracts.cluster import MEMBERS_HEADER
from shared.contracts.metadata import ProposalBatch, ProposalResults, ReadBatch
from shared.errors import TrivetError
from shared.roles import Role
from shared.web.request_metrics import RequestMetrics
from shared.web.service_app import caller_of, problem_response

_JSON: Final = (b"content-type", b"application/json")
_MEMBERS: Final = MEMBERS_HEADER.encode()


async def answer_proposals(service: ConsensusService, caller: Role, batch: ProposalBatch) -> bytes:
    """`ProposalResults` as JSON. Raises TrivetError."""
    check_proposals(caller, batch.proposals)
    results = await service.propose(batch.proposals, needs_requesters=caller is Role.GATEWAY)
    return ProposalResults(results=results).model_dump_json().encode()


async def answer_reads(service: ConsensusService, caller: Role, batch: ReadBatch) -> bytes:
    """`ReadResults` as JSON. Raises TrivetError."""
    check_queries(caller, batch.queries)
    return await service.read(batch.queries)


@dataclass(frozen=True, slots=True)
class _JsonCall:
    """`answer` gets the caller's role and a parsed `body`, and gives the JSON of the answer."""

    body: type[WireModel]
    answer: Callable[[ConsensusService, Role, Any], Awaitable[bytes]]


_CALLS: Final = {
    "/v1/proposals": _JsonCall(ProposalBatch, answer_proposals),
    "/v1/reads": _JsonCall(ReadBatch, answer_reads),
}


class MemberFastPath:
    """ASGI middleware behind the signature check.

    `service` raises NotReadyError while the member starts or stops.
    """

    def __init__(self, app: ASGIApp, *, service: Callable[[], ConsensusService], metrics: RequestMetrics) -> None:
        self._app = app
        self._service = service
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request here or pass it on."""
        call = _CALLS.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if call is None or _JSON not in scope["headers"]:
            await self._app(scope, receive, send)
            return
        began_s = time.perf_counter()
        messages: list[Message] = []
        status, sent_bytes, is_passed_on = 500, 0, False
        try:
            content, members = await self._answer(call, caller_of(scope), await _read(receive, messages))
            status, sent_bytes = 200, len(content)
            await _send_json(send, content, members)
        except _NoCallError:
            is_passed_on = True
            await self._app(scope, _replay(messages, receive), send)
        except TrivetError as error:
            refusal = problem_response(error, scope["path"])
            status, sent_bytes = refusal.status_code, len(refusal.body)
            await refusal(scope, receive, send)
        finally:
            if not is_passed_on:
                duration_s, received_bytes = time.perf_counter() - began_s, _announced_bytes(scope)
                self._metrics.record(
                    "POST", scope["path"], status, duration_s, received_bytes=received_bytes, sent_bytes=sent_bytes
                )

    async def _answer(self, call: _JsonCall, caller: Role, content: bytes) -> tuple[bytes, str]:
        """The JSON of the answer, and the members in force. Raises _NoCallError, TrivetError."""
        try:
            body = call.body.model_validate_json(content)
        except ValidationError as error:
            raise _NoCallError from error
        service = self._service()
        return await call.answer(service, caller, body), service.members


class _NoCallError(Exception):
    """The body is not that of a call, or it broke off."""


async def _read(receive: Receive, messages: list[Message]) -> bytes:
    """The body; its messages are added to `messages`."""
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request":
            raise _NoCallError
        if not message.get("more_body", False):
            return b"".join(message.get("body", b"") for message in messages)


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """What was received, once more, and then what comes."""
    again: Iterator[Message] = iter(messages)

    async def replayed() -> Message:
        message = next(again, None)
        return await receive() if message is None else message

    return replayed


async def _send_json(send: Send, content: bytes, members: str) -> None:
    headers = [(b"content-length", b"%d" % len(content)), _JSON, (_MEMBERS, members.encode("latin-1"))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _announced_bytes(scope: Scope) -> int:
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)
