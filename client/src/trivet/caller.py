"""The one way in which a call is made: its deadline, its attempts, its errors.

A call is given up `timeout_s` after its last progress: after it began, or after the last piece of its body was taken. Within
that it is repeated as `trivet.retry` decides.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from trivet.bodies import Body, BytesBody
from trivet.errors import BrokenDownload, ConnectionFailed, ProblemError, TrivetError, answer_invalid, error_of
from trivet.headers import retry_after_s
from trivet.retry import RetryPolicy, may_repeat
from trivet.transport import Answer, ProgressLimit, Transport

ModelT = TypeVar("ModelT")
TakenT = TypeVar("TakenT")

USER_AGENT: Final = "trivet-client"
ANSWER_BYTES_MAX: Final = 256 << 20
PROBLEM_BYTES_MAX: Final = 1 << 20
"""No answer of the store that is read as a whole is nearly as long: who sends more is not one."""

SILENCE_S: Final = 2.0
"""A call that is repeated for longer says so, once, to the logger `trivet`."""

_log: Final = logging.getLogger("trivet")
_JSON: Final = {"Content-Type": "application/json"}
_encode: Final = msgspec.json.Encoder().encode


class Request(msgspec.Struct):
    """One call.

    Attributes:
        target: path and query, encoded.
        is_repeatable: it changes nothing, or has an Idempotency-Key, or twice is as good as once.
        attempts: at most; None for those of the policy.
    """

    method: str
    target: str
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    body: Body | None = None
    is_repeatable: bool = True
    attempts: int | None = None


class Caller:
    """Makes calls to one address. Connections are opened when the first one is made, in the loop that makes it."""

    def __init__(self, url: str, key_line: str | None, *, timeout_s: float, retry: RetryPolicy) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self.retry = retry
        self._headers = {"User-Agent": USER_AGENT}
        if key_line is not None:
            self._headers["Authorization"] = f"Bearer {key_line}"
        self._transport: Transport | None = None
        self._has_warned = False
        self._random = random.Random(secrets.randbits(64))  # noqa: S311 pauses, not secrets

    async def close(self) -> None:
        """End the connections."""
        if self._transport is not None:
            await self._transport.close()
            self._transport = None

    async def model(
        self,
        kind: type[ModelT],
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: Any = None,
        is_repeatable: bool = True,
    ) -> ModelT:
        """Send `content`, where there is some, as JSON; give the answer as a `kind`.

        Raises:
            TrivetError: see `call`; or the answer is not what it should be.
        """
        request = Request(method, target, headers or {}, is_repeatable=is_repeatable)
        if content is not None:
            request.headers = {**request.headers, **_JSON}
            request.body = BytesBody(_encode(content))
        return decoded(kind, await self.call(request, whole))

    async def call(self, request: Request, take: Callable[[Answer], Awaitable[TakenT]]) -> TakenT:
        """Make the call; `take` reads the answer, and belongs to the attempt.

        Raises:
            ProblemError: the store refused it, or failed in the last attempt.
            ConnectionFailed, BrokenDownload: no answer came, or not all of one.
        """

        async def take_and_release(answer: Answer) -> TakenT:
            try:
                return await take(answer)
            finally:
                answer.release()

        return await self._attempts(request, take_and_release)

    async def open(self, request: Request) -> Answer:
        """Make the call; the answer's body is still to be read, and to be released. Raises as `call`."""
        return await self._attempts(request, _as_it_is)

    def pause_s(self, attempt: int, error: TrivetError) -> float:
        """How long to wait after the failed attempt `attempt`."""
        return self.retry.delay_s(attempt, error, self._random.random())

    async def _attempts(self, request: Request, take: Callable[[Answer], Awaitable[TakenT]]) -> TakenT:
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = began + self.timeout_s
        attempt = 1
        while True:
            limit = asyncio.timeout_at(deadline)
            try:
                async with limit:
                    return await take(await self._attempt(request, limit))
            except TimeoutError as error:
                raise ConnectionFailed(
                    f"{self.url} did not answer within {self.timeout_s:g} s.", definite=False
                ) from error
            except (ConnectionFailed, BrokenDownload, ProblemError) as error:
                deadline = limit.when() or deadline
                pause_s = self.pause_s(attempt, error)
                if not self._goes_on(request, error, attempt) or loop.time() + pause_s >= deadline:
                    raise
                if loop.time() + pause_s - began >= SILENCE_S:
                    self._warn(error)
                await asyncio.sleep(pause_s)
            attempt += 1

    async def _attempt(self, request: Request, limit: asyncio.Timeout) -> Answer:
        if self._transport is None:
            self._transport = Transport(self.url, self._headers, timeout_s=self.timeout_s)
        answer = await self._transport.send(
            request.method, request.target, request.headers, request.body, ProgressLimit(limit, self.timeout_s)
        )
        if answer.status < 300:
            self._has_warned = False
            return answer
        try:
            raise await _problem(request, answer)
        finally:
            answer.release()

    def _warn(self, error: TrivetError) -> None:
        """Once until the store is well again: calls of many tasks meet the same wall."""
        if not self._has_warned:
            self._has_warned = True
            place = "" if self.url in str(error) else f"{self.url}: "
            _log.warning("%s%s; trying again.", place, str(error).partition(". ")[0].rstrip("."))

    def _goes_on(self, request: Request, error: TrivetError, attempt: int) -> bool:
        body = request.body
        if attempt >= (request.attempts or self.retry.attempts) or (
            body is not None and body.has_begun and not body.is_rewindable
        ):
            return False
        if isinstance(error, BrokenDownload):
            return request.is_repeatable
        return may_repeat(error, is_repeatable=request.is_repeatable)


def decoded(kind: type[ModelT], text: bytes) -> ModelT:
    """The answer as a `kind`. Raises ProblemError when something else than the store answered."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise answer_invalid(str(error)) from error


def new_idempotency_key() -> str:
    """One that no other change has."""
    return secrets.token_hex(16)


async def whole(answer: Answer) -> bytes:
    """All of an answer's body. Raises ProblemError when it is longer than any of the store."""
    body = await answer.read(ANSWER_BYTES_MAX)
    if len(body) > ANSWER_BYTES_MAX:
        raise answer_invalid("it is too long")
    return body


async def _as_it_is(answer: Answer) -> Answer:
    return answer


async def _problem(request: Request, answer: Answer) -> ProblemError:
    problem: Any = {}
    if request.method == "HEAD":
        problem = _problem_of_head(request, answer)
    elif "json" in answer.headers.get("content-type", ""):
        try:
            problem = msgspec.json.decode(await answer.read(PROBLEM_BYTES_MAX))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TrivetError):
            problem = {}
    if not isinstance(problem, dict):
        problem = {}
    if (request_id := answer.headers.get("x-trivet-request-id")) is not None:
        problem["request_id"] = request_id
    return error_of(answer.status, problem, retry_after_s=retry_after_s(answer.headers.get("retry-after")))


def _problem_of_head(request: Request, answer: Answer) -> dict[str, Any]:
    """As the document would be, which an answer to HEAD has no body for: as much of it as a header says."""
    code = answer.headers.get("x-trivet-error-code")
    if code is None:
        return {}
    title = code.replace("_", " ").capitalize()
    instance = request.target.partition("?")[0]
    return {"code": code, "title": title, "detail": f"{title}.", "definite": True, "instance": instance}
