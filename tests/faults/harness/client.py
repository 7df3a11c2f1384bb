"""The HTTP client of all workloads: every answer is kept for the judge of honesty, and says what became of the request."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.faults.checkers.history import Outcome
from tests.faults.checkers.honesty import Answer

GIVE_UP_S = 60.0
"""Above every deadline of a gateway, so that breaking one is seen."""

PASS_ON_S = 20.0
"""A client of a stopped gateway stands still with it; after this it goes on. It is above the deadline of small requests."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, read to its end. `status` 0: there was none."""

    status: int
    body: bytes
    headers: dict[str, str]
    problem: dict[str, Any]
    called: float
    returned: float
    gateway: str

    @property
    def outcome(self) -> Outcome:
        """Of a change that was asked for: every 2xx is done, what is definite certainly is not, the rest is unknown."""
        if 200 <= self.status < 300:
            return Outcome.OK
        if self.status and (self.problem.get("definite") is True or self.status == 412):
            return Outcome.FAILED
        return Outcome.UNKNOWN

    @property
    def version(self) -> int | None:
        """X-Trivet-Version."""
        value = self.headers.get("x-trivet-version")
        return None if value is None else int(value)

    @property
    def etag(self) -> str | None:
        """Without its quotes."""
        value = self.headers.get("etag")
        return None if value is None else value.strip('"')

    def __str__(self) -> str:
        return f"{self.gateway} {self.status} {self.problem.get('code', '')}"


class Client:
    """Calls gateways by name."""

    def __init__(
        self,
        urls: dict[str, str],
        bearer: Mapping[str, str],
        bucket: str,
        is_disturbed: Callable[[str, float, float], bool],
    ) -> None:
        self.gateways = list(urls)
        self.bucket = bucket
        self.answers: list[Answer] = []
        self._urls = urls
        self._bearer = bearer
        self._is_disturbed = is_disturbed
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the pool of connections."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers=self._bearer,
            timeout=aiohttp.ClientTimeout(total=GIVE_UP_S),
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        gateway: str,
        method: str,
        key: str = "",
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        query: str = "",
        path: str = "",
        give_up_s: float | None = None,
    ) -> Reply:
        """One request, about `key` or to `path`. It never raises for what a gateway or the network does."""
        assert self._session is not None
        path = path or f"/v1/files/{self.bucket}" + (f"/{key}" if key else "") + query
        called = time.monotonic_ns()
        status, content, received, error = 0, b"", {}, ""
        limit_s = give_up_s or (PASS_ON_S if len(body or b"") < 1 << 20 else GIVE_UP_S)
        try:
            async with self._session.request(
                method,
                self._urls[gateway] + path,
                # aiohttp warns of large bodies that are plain bytes.
                data=io.BytesIO(body) if body and len(body) >= 1 << 20 else body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=limit_s),
            ) as answer:
                received = {name.lower(): value for name, value in answer.headers.items()}
                content = await answer.read()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        returned = time.monotonic_ns()
        problem = _problem(received, content) if status >= 400 else {}
        self.answers.append(
            Answer(
                gateway=gateway,
                request=f"{method} {path}",
                status=status,
                called=called,
                returned=returned,
                size_bytes=max(len(body or b""), len(content)),
                error=error,
                is_disturbed=self._is_disturbed(gateway, called / 1e9, returned / 1e9),
                retry_after=received.get("retry-after"),
                problem=problem,
            )
        )
        return Reply(status, content, received, problem, called, returned, gateway)


def _problem(headers: dict[str, str], content: bytes) -> dict[str, Any]:
    if headers.get("content-type") != "application/problem+json":
        return {}
    try:
        parsed = json.loads(content)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
