"""The client. `trivet.Client` is the same without `await`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from trivet.bucket_calls import BucketCalls
from trivet.caller import Caller
from trivet.config import Endpoint, resolve
from trivet.copy_calls import CopyCalls
from trivet.errors import ConfigError
from trivet.links import LIFETIME_MAX_S, signed_target
from trivet.models import Caller as CallerInfo
from trivet.models import Cluster, Link, TimeNow
from trivet.operations import AsyncOperations
from trivet.retry import RetryPolicy
from trivet.transfer_calls import TransferCalls

DEFAULT_RETRY: Final = RetryPolicy()


class AsyncClient(TransferCalls, CopyCalls, BucketCalls):
    """A store. Any number of calls may be under way at once; all of them in one event loop.

    What is not given comes from the environment (`TRIVET_URL`, `TRIVET_OPERATIONS_URL`, `TRIVET_KEY`), then from the profile of
    the config file (`trivet.config`), and at last is a cluster on this machine, at http://127.0.0.1:8080.

    Example:
        async with trivet.AsyncClient() as store:
            await store.put("default", "hello.txt", b"Hello")
            data = await store.get("default", "hello.txt")

    Args:
        url: of a gateway or what stands before several, like `https://files.example.org`.
        key: an access key, `TV….secret`, or the path of a file that holds one. `None` where there is none: no key is sent.
        operations_url: of the operations port; only `operations` needs it.
        profile: of the config file; goes before the environment.
        timeout_s: a call is given up so long after its last progress, all repeats included.
        retry: how often and how fast a call is repeated. Each change has an Idempotency-Key, so that it happens once.

    Attributes:
        operations: what whoever runs the cluster does.

    Raises:
        ConfigError: an address, the key or the config file cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        operations_url: str | None = None,
        profile: str | None = None,
        timeout_s: float = 30.0,
        retry: RetryPolicy = DEFAULT_RETRY,
    ) -> None:
        endpoint = resolve(url, key, operations_url=operations_url, profile=profile)
        super().__init__(endpoint, _caller(endpoint, endpoint.url, timeout_s, retry))
        self._operations_caller = (
            None if endpoint.operations_url is None else _caller(endpoint, endpoint.operations_url, timeout_s, retry)
        )
        self.operations = AsyncOperations(self._operations_caller)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._endpoint.url

    async def close(self) -> None:
        """End the connections. A later call opens new ones."""
        await self._caller.close()
        if self._operations_caller is not None:
            await self._operations_caller.close()

    def link(
        self,
        method: str,
        bucket: str,
        key: str,
        lifetime_s: int = 3600,
        headers: Mapping[str, str] | None = None,
        **query: str | int,
    ) -> Link:
        """A signed link: whoever has it may make that one request until it expires, without a key. The store is not asked.

        Args:
            method: GET, which is good for HEAD, too, PUT or DELETE.
            lifetime_s: seconds, at most 7 days. It ends with the key by which it is signed, too.
            headers: that the request must carry, such as `{"content-type": "image/png"}`. Content-Type and X-Trivet-… may be
                sent in no other way.
            query: `version=…`.

        Raises:
            ConfigError: there is no key to sign it with.
            ValueError: the method or the lifetime is none that a link may have.
        """
        access_key = self._endpoint.key
        if access_key is None:
            raise ConfigError("A link is signed with an access key: set TRIVET_KEY.")
        if not 1 <= lifetime_s <= LIFETIME_MAX_S:
            raise ValueError(f"a link lives for 1 to {LIFETIME_MAX_S} seconds")
        expires_s = int(time.time()) + lifetime_s
        named = {name.lower(): value.strip() for name, value in (headers or {}).items()}
        target = signed_target(
            access_key,
            method,
            bucket,
            key,
            expires_s=expires_s,
            headers=named,
            query={name: str(value) for name, value in query.items()},
        )
        return Link(
            method=method, url=self.url + target, headers=named, expires=datetime.fromtimestamp(expires_s, tz=UTC)
        )

    async def identity(self) -> CallerInfo:
        """Who the key stands for, and what that may do."""
        return await self._caller.model(CallerInfo, "GET", "/v1/identity")

    async def time(self) -> TimeNow:
        """What time it is, and how surely."""
        return await self._caller.model(TimeNow, "GET", "/v1/time")

    async def cluster(self) -> Cluster:
        """The members, the storage nodes, and what the cluster has to do without."""
        return await self._caller.model(Cluster, "GET", "/v1/cluster")


def _caller(endpoint: Endpoint, url: str, timeout_s: float, retry: RetryPolicy) -> Caller:
    line = None if endpoint.key is None else endpoint.key.line
    return Caller(url, line, timeout_s=timeout_s, retry=retry)
