"""A transport that answers as it is told, and a store of files in memory: for tests of what stands above HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import msgspec

from trivet.bodies import Body
from trivet.caller import Caller
from trivet.retry import RetryPolicy
from trivet.transport import ProgressLimit

AT_ONCE = RetryPolicy(attempts=4, first_delay_s=0.0)


class ScriptedAnswer:
    """An answer. `body` may hold exceptions between its chunks."""

    def __init__(
        self, status: int, body: bytes | list[bytes | Exception], headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.headers: Mapping[str, str] = httpx.Headers(dict(headers or {}))
        self._body = [body] if isinstance(body, bytes) else body
        self.releases = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self._body:
            if isinstance(chunk, Exception):
                raise chunk
            if chunk:
                yield chunk

    async def read(self, bytes_max: int) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])[: bytes_max + 1]

    def release(self) -> None:
        self.releases += 1


Respond = Callable[[str, str, Mapping[str, str], bytes | None], ScriptedAnswer]


class ScriptedTransport:
    """Gives what the script says, in turn; exceptions are raised. `requests` are what was sent: method, target, headers, body."""

    def __init__(self, *script: ScriptedAnswer | Exception | Respond) -> None:
        self._script = list(script)
        self.requests: list[tuple[str, str, dict[str, str], bytes | None]] = []

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: Body | None, limit: ProgressLimit
    ) -> Any:
        sent = None
        if body is not None:
            sent = b"".join([bytes(piece) async for piece in body.pieces()])
            limit.progressed()
        self.requests.append((method, target, dict(headers), sent))
        step = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(step, Exception):
            raise step
        return step if isinstance(step, ScriptedAnswer) else step(method, target, headers, sent)

    async def close(self) -> None:
        """Nothing to end."""


def caller_over(transport: ScriptedTransport, *, retry: RetryPolicy = AT_ONCE, timeout_s: float = 5.0) -> Caller:
    """A caller of that transport."""
    caller = Caller("http://store.test", None, timeout_s=timeout_s, retry=retry)
    caller._transport = transport  # type: ignore[assignment]
    return caller


def problem(status: int, code: str, *, definite: bool = True) -> ScriptedAnswer:
    """An answer with a problem document."""
    document = {"status": status, "code": code, "definite": definite, "detail": "So it is."}
    return ScriptedAnswer(status, msgspec.json.encode(document), {"Content-Type": "application/problem+json"})
