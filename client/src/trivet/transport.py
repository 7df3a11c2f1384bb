"""The one module that speaks HTTP: aiohttp (D-270), whose errors do not get out of here."""

from __future__ import annotations

import asyncio
import os
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from trivet.bodies import Body, BytesBody
from trivet.errors import BrokenDownload, ConfigError, ConnectionFailed

CONNECT_TIMEOUT_S: Final = 10.0
IN_ONE_PIECE_BYTES: Final = 1 << 18
"""A body of so many bytes is handed over as a whole."""

_RECEIVE_BUFFER_BYTES: Final = 1 << 20
_CONNECTIONS_MAX: Final = 100
_KEEPALIVE_S: Final = 15.0
"""Less than a gateway keeps a connection that is not used, so that it is rarely closed under a request."""

_SKIPPED: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class Answer:
    """The head of an answer, and its body to be read once. `release` it when it was not read to its end."""

    __slots__ = ("_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self, bytes_max: int) -> bytes:
        """The whole body; no more of it than one byte beyond `bytes_max`. Raises ConnectionFailed, BrokenDownload."""
        chunks, size_bytes = [], 0
        async for chunk in self.chunks():
            chunks.append(chunk)
            size_bytes += len(chunk)
            if size_bytes > bytes_max:
                break
        return b"".join(chunks)[: bytes_max + 1]

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises ConnectionFailed, BrokenDownload."""
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise _broken(error) from error

    def release(self) -> None:
        """Give the connection back, or end it when bytes are left: of the answer, or of a request that was answered meanwhile.

        At once: a server that has refused a body need not take the rest of it, and `close` would wait for that.
        """
        connection = self._response.connection  # None when it is free again
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        self._response.close()


class Transport:
    """Connections to one address. Made inside the event loop that uses it.

    Args:
        headers: of every request. They are no defaults of the session, which aiohttp sends to a proxy in CONNECT, too: in the
            clear, and the access key is one of them.
    """

    def __init__(self, url: str, headers: Mapping[str, str], *, timeout_s: float) -> None:
        self._base = url
        self._headers = dict(headers)
        proxy, self._proxy_headers = _proxy_of(url)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=_CONNECTIONS_MAX, keepalive_timeout=_KEEPALIVE_S, ssl=_trust(url, proxy)
            ),
            skip_auto_headers=_SKIPPED,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_RECEIVE_BUFFER_BYTES,
            proxy=proxy,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s), sock_read=timeout_s
            ),
        )

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: Body | None, limit: ProgressLimit
    ) -> Answer:
        """Send one request, and give what answered it, whatever the status.

        Raises:
            ConnectionFailed: no answer came. Definite where there was no connection.
            ConfigError: the certificate of the store is not to be trusted.
        """
        data, headers = _payload(body, headers, limit)
        try:
            response = await self._session.request(
                method,
                URL(self._base + target, encoded=True),
                headers={**self._headers, **headers},
                proxy_headers=self._proxy_headers,
                data=data,
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise ConfigError(f"{self._base} cannot be trusted: {error}") from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise ConnectionFailed(
                f"{self._base} cannot be reached: {_reason(error)}. Is it running, and is this its address? That comes from an "
                "argument, TRIVET_URL or a profile; `make run` prints the one of a cluster on this machine.",
                definite=True,
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            if body is not None and body.error is not None:
                raise body.error from None
            raise ConnectionFailed(
                f"The connection to {self._base} was lost before an answer came: {error or type(error).__name__}.",
                definite=False,
            ) from error
        return Answer(response)

    async def close(self) -> None:
        """End every connection."""
        await self._session.close()


class ProgressLimit:
    """A deadline that moves on with every piece that is sent."""

    __slots__ = ("_loop", "_timeout", "_timeout_s")

    def __init__(self, timeout: asyncio.Timeout, timeout_s: float) -> None:
        self._timeout = timeout
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()

    def progressed(self) -> None:
        """Count anew from here."""
        if not self._timeout.expired():
            self._timeout.reschedule(self._loop.time() + self._timeout_s)


def _payload(
    body: Body | None, headers: Mapping[str, str], limit: ProgressLimit
) -> tuple[bytes | memoryview | AsyncIterator[bytes | memoryview] | None, Mapping[str, str]]:
    if body is None:
        return None, headers
    if isinstance(body, BytesBody) and body.size_bytes is not None and body.size_bytes <= IN_ONE_PIECE_BYTES:
        return bytes(body.whole), headers
    if body.size_bytes is not None:
        headers = {**headers, "Content-Length": str(body.size_bytes)}
    return _watched(body, limit), headers


async def _watched(body: Body, limit: ProgressLimit) -> AsyncIterator[bytes | memoryview]:
    async for piece in body.pieces():
        limit.progressed()
        yield piece


def _reason(error: aiohttp.ClientError) -> str:
    """What the system says of it, without what aiohttp puts around that."""
    cause = getattr(error, "os_error", None)
    if not isinstance(cause, OSError):
        return str(error)
    # asyncio writes its own words into `strerror`; numbers below zero are those of the resolver.
    if cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)
    return cause.strerror or str(error)


def _broken(error: BaseException) -> BrokenDownload | ConnectionFailed:
    if isinstance(error, TimeoutError):
        return ConnectionFailed("The answer stopped coming.", definite=False)
    return BrokenDownload(f"The answer broke off before its end: {error or type(error).__name__}.")


def _trust(url: str, proxy: URL | None) -> ssl.SSLContext | bool:
    """Whose certificates are taken: those that this machine trusts now. That of aiohttp is as old as its import."""
    if not url.startswith("https:") and (proxy is None or proxy.scheme != "https"):
        return True
    context = ssl.create_default_context()
    context.set_alpn_protocols(("http/1.1",))
    return context


def _proxy_of(url: str) -> tuple[URL | None, Mapping[str, str] | None]:
    """As the variables `http_proxy`, `https_proxy` and `no_proxy` say; name and password apart, for errors show the address.

    Raises:
        ConfigError: it is none of HTTP.
    """
    parts = urlsplit(url)
    if parts.hostname in {"127.0.0.1", "localhost", "::1"} or proxy_bypass(parts.netloc):
        return None, None
    said = getproxies().get(parts.scheme)
    if not said:
        return None, None
    try:
        proxy = URL(said if "://" in said else f"http://{said}")
    except ValueError:
        proxy = URL()
    if proxy.scheme not in {"http", "https"} or not proxy.host:
        raise ConfigError(f"The proxy in {parts.scheme}_proxy is not like http://host:port.")
    if proxy.user is None:
        return proxy, None
    credential = b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
    # aiohttp makes it Proxy-Authorization.
    return proxy.with_user(None), {"Authorization": f"Basic {credential}"}
