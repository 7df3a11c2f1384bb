"""The one place that makes HTTP clients: httpx on aiohttp's transport, signed, bounded, with typed errors.

httpx's own transport costs 1.3-1.6 ms of CPU per call, aiohttp's under the same interface 0.25 ms (DESIGN.md section 5).
Bytes (`PeerClient.request`, every chunk) go to aiohttp directly: httpx around it doubles the cost of a call, also of one
with 1 MiB. Both ways share one pool of connections, one signer and the same errors.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

import aiohttp
import httpx
from blake3 import blake3
from httpx_aiohttp import AiohttpTransport
from httpx_aiohttp.transport import AiohttpResponseStream
from pydantic import BaseModel
from yarl import URL

from shared.cluster_keys import ClusterKeys
from shared.errors import InternalError, PeerUnreachableError, TrivetError, error_from_problem
from shared.peer_address import PeerAddress
from shared.peer_calls.loopback import make_socket
from shared.peer_calls.request_signing import BODY_DIGEST_HEADER, EMPTY_BODY_DIGEST, RequestSigner, parse_challenge
from shared.units import MIB

KEEPALIVE_EXPIRY_S: Final = 30.0
"""Shorter than the servers' own (`service_app`), so that a connection is not reused while its server closes it."""

_NEVER_CONNECTED: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)

ModelT = TypeVar("ModelT", bound=BaseModel)


class _Transport(AiohttpTransport):
    """Hands a response over in large pieces: the default of 16 KiB costs 64 awaits per chunk."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if isinstance(response.stream, AiohttpResponseStream):
            response.stream.CHUNK_SIZE = MIB
        return response


class _SignedAuth(httpx.Auth):
    """Signs a request for one destination; learns the destination's boot id from a 401 and signs once more."""

    def __init__(self, signer: RequestSigner, destination: str) -> None:
        self._signer = signer
        self._destination = destination

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        digest = request.headers.get(BODY_DIGEST_HEADER)
        if digest is None:
            digest = blake3(request.content).hexdigest() if request.content else EMPTY_BODY_DIGEST
            request.headers[BODY_DIGEST_HEADER] = digest
        response = yield self._sign(request, digest)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            boot = parse_challenge(response.headers.get("www-authenticate"))
            if boot is not None:
                self._signer.learn_boot(self._destination, boot)
                yield self._sign(request, digest)

    def _sign(self, request: httpx.Request, digest: str) -> httpx.Request:
        # aiohttp writes a URL in its own normal form (%2F in a query becomes /), and that is what the peer verifies.
        target = URL(str(request.url)).raw_path_qs
        request.headers["authorization"] = self._signer.authorization(request.method, target, self._destination, digest)
        return request


@dataclass(frozen=True, slots=True)
class _BytesOut:
    """A request but for its signature; header names in lower case, the body's digest among them."""

    method: str
    url: URL
    content: bytes | None
    headers: dict[str, str]


class PeerClient:
    """Calls other services of the cluster.

    Every call has a deadline, raises the typed error that the peer answered with, and signs for exactly one peer.
    """

    def __init__(
        self, keys: ClusterKeys, *, connect_timeout_s: float = 1.0, max_connections: int = 256, local_address: str = ""
    ) -> None:
        self._signer = RequestSigner(keys)
        self._connect_timeout_s = connect_timeout_s
        self._max_connections = max_connections
        self._local_address = local_address
        self._session: aiohttp.ClientSession | None = None
        transport = _Transport(client=self._open_session, trust_env=False)
        # The one client factory (STYLE.md).
        self._client = httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False)  # noqa: TID251

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        peer: PeerAddress,
        method: str,
        path: str,
        *,
        timeout_s: float,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """One call, its answer read to the end.

        Args:
            peer: whom to call; the request is signed for `peer.id`.
            path: with query, already percent-encoded.
            timeout_s: for every wait for bytes; callers bound the whole with `asyncio.timeout`.
            content: the body. A header `x-trivet-body-digest` given by the caller is trusted to be its BLAKE3.

        Raises:
            TrivetError: the peer's own typed error.
            PeerUnreachableError: no answer; definite only when the connection was never made.
        """
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        if BODY_DIGEST_HEADER not in sent:
            sent[BODY_DIGEST_HEADER] = blake3(content).hexdigest() if content else EMPTY_BODY_DIGEST
        bytes_out = _BytesOut(method, URL(peer.url + path, encoded=True), content, sent)
        response = await self._send(peer, bytes_out, timeout_s)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            boot = parse_challenge(response.headers.get("www-authenticate"))
            if boot is not None:
                self._signer.learn_boot(peer.id, boot)
                response = await self._send(peer, bytes_out, timeout_s)
        raise_for_problem(response)
        return response

    async def call(
        self,
        peer: PeerAddress,
        method: str,
        path: str,
        answer: type[ModelT],
        *,
        body: BaseModel | None = None,
        timeout_s: float,
    ) -> ModelT:
        """One call with wire models in and out. Raises what `request` raises."""
        timeout = httpx.Timeout(timeout_s, connect=min(self._connect_timeout_s, timeout_s), pool=timeout_s)
        try:
            response = await self._client.request(
                method,
                peer.url + path,
                content=None if body is None else body.model_dump_json().encode(),
                headers=None if body is None else {"content-type": "application/json"},
                timeout=timeout,
                auth=_SignedAuth(self._signer, peer.id),
            )
        except httpx.TransportError as error:
            # The transport calls every lost connection a ConnectTimeout; aiohttp's own error says what happened.
            raise _unreachable(peer, error.__cause__ or error) from error
        raise_for_problem(response)
        return answer.model_validate_json(response.content)

    async def download(
        self, peer: PeerAddress, path: str, take: Callable[[bytes], None], *, timeout_s: float
    ) -> httpx.Headers:
        """GET an answer that may be larger than memory: `take` gets its bytes piece by piece. Returns the headers.

        Raises:
            TrivetError: the peer's own typed error; nothing was taken.
            PeerUnreachableError: no answer, or one that broke off; what was taken is of no use.
        """
        timeout = httpx.Timeout(timeout_s, connect=min(self._connect_timeout_s, timeout_s), pool=timeout_s)
        try:
            async with self._client.stream(
                "GET", peer.url + path, timeout=timeout, auth=_SignedAuth(self._signer, peer.id)
            ) as response:
                if response.status_code >= httpx.codes.BAD_REQUEST:
                    await response.aread()
                    raise_for_problem(response)
                async for piece in response.aiter_raw():
                    take(piece)
                return response.headers
        except httpx.TransportError as error:
            raise _unreachable(peer, error.__cause__ or error) from error

    async def _send(self, peer: PeerAddress, out: _BytesOut, timeout_s: float) -> httpx.Response:
        """Sign and send once; the answer, whatever its status. Raises PeerUnreachableError."""
        digest = out.headers[BODY_DIGEST_HEADER]
        signature = self._signer.authorization(out.method, out.url.raw_path_qs, peer.id, digest)
        headers = {**out.headers, "authorization": signature}
        connect_s = min(self._connect_timeout_s, timeout_s)
        timeout = aiohttp.ClientTimeout(total=None, connect=timeout_s, sock_connect=connect_s, sock_read=timeout_s)
        try:
            async with self._open_session().request(
                out.method, out.url, data=out.content, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                return httpx.Response(answer.status, headers=answer.raw_headers, content=await answer.read())
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise _unreachable(peer, error) from error

    def _open_session(self) -> aiohttp.ClientSession:
        """The pool of connections; made at the first call, because it belongs to the running loop."""
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._max_connections,
                keepalive_timeout=KEEPALIVE_EXPIRY_S,
                local_addr=(self._local_address, 0) if self._local_address else None,
                socket_factory=make_socket,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            )
        return self._session


def _unreachable(peer: PeerAddress, error: BaseException) -> PeerUnreachableError:
    if isinstance(error, _NEVER_CONNECTED):
        return PeerUnreachableError(f"{peer.id} cannot be connected to.", definite=True, peer=peer.id)
    return PeerUnreachableError(f"{peer.id} did not answer: {error or type(error).__name__}", peer=peer.id)


def raise_for_problem(response: httpx.Response) -> None:
    """Raise the typed error behind an answer of 400 and above; the answer has been read."""
    if response.status_code < httpx.codes.BAD_REQUEST:
        return
    raise _problem_error(response)


def _problem_error(response: httpx.Response) -> TrivetError:
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        try:
            return error_from_problem(response.json())
        except (ValueError, TypeError, AttributeError):
            pass
    return InternalError(f"A peer answered {response.status_code} without a problem document.")
