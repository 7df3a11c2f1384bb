"""The one place that makes HTTP clients: httpx on aiohttp's transport, signed, bounded, with typed errors.

httpx's own transport costs 1.3-1.6 ms of CPU per call, aiohttp's under the same interface 0.25 ms (DESIGN.md section 5).
Bytes (`PeerClient.request`, every chunk) go to aiohttp directly: httpx around it doubles the cost of a call, also of one
with 1 MiB. Both ways share one pool of connections, one signer and the same errors.

Whatever a peer answers, or a stranger at its address, ends as a typed error here and nowhere else (`_typed_errors`): a call
succeeds only with an answer of 2xx that the destination has authenticated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

import aiohttp
import httpx
from blake3 import blake3
from httpx_aiohttp import AiohttpTransport
from httpx_aiohttp.transport import AiohttpResponseStream
from yarl import URL

from shared.cluster_keys import ClusterKeys
from shared.contracts.base import WireModel
from shared.errors import PeerAnswerInvalidError, PeerUnreachableError, TrivetError, error_from_problem
from shared.peer_address import PeerAddress
from shared.peer_calls.loopback import make_socket
from shared.peer_calls.request_signing import (
    ANSWER_MAC_HEADER,
    BODY_DIGEST_HEADER,
    EMPTY_BODY_DIGEST,
    RequestSigner,
    parse_challenge,
)
from shared.units import MIB

KEEPALIVE_EXPIRY_S: Final = 30.0
"""Shorter than the servers' own (`service_app`), so that a connection is not reused while its server closes it."""

MAX_ANSWER_BYTES: Final = 32 * MIB
"""More than any answer of ours that is not streamed: a page of chunk lists of consensus is the longest."""

_NEVER_CONNECTED: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_BROKEN_OFF: Final = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, httpx.TransportError, OSError)
"""No answer, or half of one. TimeoutError is an OSError."""
_MALFORMED: Final = (
    aiohttp.ClientError,
    aiohttp.http_exceptions.HttpProcessingError,
    httpx.HTTPError,
    httpx.StreamError,
    ValueError,  # of decoding, JSON and pydantic
    RecursionError,  # JSON that is nested without end
)

ModelT = TypeVar("ModelT", bound=WireModel)


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
        is_public: bool = False,
    ) -> httpx.Response:
        """One call, its answer read to the end.

        Args:
            peer: whom to call; the request is signed for `peer.id`.
            path: with query, already percent-encoded.
            timeout_s: for every wait for bytes; callers bound the whole with `asyncio.timeout`.
            is_public: of the public port of a gateway, which authenticates no answer.
            content: the body. A header `x-trivet-body-digest` given by the caller is trusted to be its BLAKE3.

        Raises:
            TrivetError: the peer's own typed error.
            PeerUnreachableError: no answer; definite only when the connection was never made.
            PeerAnswerInvalidError: what came is no answer of that peer; not definite.
        """
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        if BODY_DIGEST_HEADER not in sent:
            sent[BODY_DIGEST_HEADER] = blake3(content).hexdigest() if content else EMPTY_BODY_DIGEST
        with _typed_errors(peer):
            bytes_out = _BytesOut(method, URL(peer.url + path, encoded=True), content, sent)
            signature, response = await self._send(peer, bytes_out, timeout_s)
            if response.status_code == httpx.codes.UNAUTHORIZED:
                boot = parse_challenge(response.headers.get("www-authenticate"))
                if boot is not None:
                    self._signer.learn_boot(peer.id, boot)
                    signature, response = await self._send(peer, bytes_out, timeout_s)
            if is_public and response.is_success:
                return response
            self._require_authentic(peer, signature, response)
            return response

    async def call(
        self,
        peer: PeerAddress,
        method: str,
        path: str,
        answer: type[ModelT],
        *,
        body: WireModel | None = None,
        timeout_s: float,
    ) -> ModelT:
        """One call with wire models in and out. Raises what `request` raises."""
        async with self._answer(peer, method, path, body, timeout_s) as response:
            content = bytearray()
            async for piece in _pieces(peer, response):
                content += piece
                if len(content) > MAX_ANSWER_BYTES:
                    raise invalid_answer(peer, "an answer without end")
        return parse_answer(peer, answer, bytes(content))

    async def download(
        self, peer: PeerAddress, path: str, take: Callable[[bytes], None], *, timeout_s: float
    ) -> httpx.Headers:
        """GET an answer that may be larger than memory: `take` gets its bytes piece by piece. Returns the headers.

        Raises:
            TrivetError: the peer's own typed error; nothing was taken.
            PeerUnreachableError, PeerAnswerInvalidError: no answer, or a broken one; what was taken is of no use.
        """
        async with self._answer(peer, "GET", path, None, timeout_s) as response:
            async for piece in _pieces(peer, response):
                take(piece)
            return response.headers

    @asynccontextmanager
    async def _answer(
        self, peer: PeerAddress, method: str, path: str, body: WireModel | None, timeout_s: float
    ) -> AsyncIterator[httpx.Response]:
        """A successful answer, its body not yet read. Raises as `request`."""
        timeout = httpx.Timeout(timeout_s, connect=min(self._connect_timeout_s, timeout_s), pool=timeout_s)
        async with AsyncExitStack() as stack:
            with _typed_errors(peer):
                streaming = self._client.stream(
                    method,
                    peer.url + path,
                    content=None if body is None else body.model_dump_json().encode(),
                    headers=None if body is None else {"content-type": "application/json"},
                    timeout=timeout,
                    auth=_SignedAuth(self._signer, peer.id),
                )
                response = await stack.enter_async_context(streaming)
                if not response.is_success:
                    await response.aread()
                self._require_authentic(peer, response.request.headers["authorization"], response)
            yield response

    async def _send(self, peer: PeerAddress, out: _BytesOut, timeout_s: float) -> tuple[str, httpx.Response]:
        """Sign and send once; the signature, and the answer whatever its status."""
        digest = out.headers[BODY_DIGEST_HEADER]
        signature = self._signer.authorization(out.method, out.url.raw_path_qs, peer.id, digest)
        headers = {**out.headers, "authorization": signature}
        connect_s = min(self._connect_timeout_s, timeout_s)
        timeout = aiohttp.ClientTimeout(total=None, connect=timeout_s, sock_connect=connect_s, sock_read=timeout_s)
        async with self._open_session().request(
            out.method, out.url, data=out.content, headers=headers, timeout=timeout, allow_redirects=False
        ) as answer:
            if (answer.content_length or 0) > MAX_ANSWER_BYTES:
                raise ValueError(f"an answer of {answer.content_length} bytes")
            content = await answer.read()
        return signature, httpx.Response(answer.status, headers=answer.raw_headers, content=content)

    def _require_authentic(self, peer: PeerAddress, signature: str, response: httpx.Response) -> None:
        """Raise the typed error behind an answer that is no success, or that `peer` did not give."""
        if not response.is_success:
            raise _error_of(peer, response)
        mac = response.headers.get(ANSWER_MAC_HEADER)
        if not self._signer.is_answer_of_destination(signature, response.status_code, mac):
            raise invalid_answer(peer, "an answer that it has not authenticated")

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


def parse_answer(peer: PeerAddress, answer: type[ModelT], content: bytes) -> ModelT:
    """The model in an answer of `peer`. Raises PeerAnswerInvalidError."""
    with _typed_errors(peer):
        return answer.parse_answer(content)


def invalid_answer(peer: PeerAddress, what: str) -> PeerAnswerInvalidError:
    """The error for an answer that is well formed and cannot be right, told as `what`."""
    return PeerAnswerInvalidError(f"{peer.id} did not answer as a service of this cluster does: {what}.", peer=peer.id)


async def _pieces(peer: PeerAddress, response: httpx.Response) -> AsyncIterator[bytes]:
    with _typed_errors(peer):
        async for piece in response.aiter_raw():
            yield piece


@contextmanager
def _typed_errors(peer: PeerAddress) -> Iterator[None]:
    """The one place where what a peer does, or fails to do, becomes a typed error."""
    try:
        yield
    except (*_BROKEN_OFF, *_MALFORMED) as error:
        # The transport calls every lost connection a ConnectTimeout; aiohttp's own error says what happened.
        cause = error.__cause__ if isinstance(error, httpx.TransportError) and error.__cause__ else error
        if isinstance(cause, _NEVER_CONNECTED):
            raise PeerUnreachableError(f"{peer.id} cannot be connected to.", definite=True, peer=peer.id) from error
        if isinstance(cause, _BROKEN_OFF):
            reason = str(cause) or type(cause).__name__
            raise PeerUnreachableError(f"{peer.id} did not answer: {reason}", peer=peer.id) from error
        raise invalid_answer(peer, type(cause).__name__) from error


def _error_of(peer: PeerAddress, response: httpx.Response) -> TrivetError:
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        try:
            return error_from_problem(response.json())
        except (ValueError, TypeError, AttributeError, RecursionError):
            pass
    return invalid_answer(peer, f"{response.status_code} without a problem document")
