"""The one place that makes HTTP clients: signed, bounded, with typed errors.

Calls go over connections of our own (`connection_pool`, `http_connection`). httpx stays for answers that are larger than
memory (`PeerClient.download`), where the cost of a call does not count.

Whatever a peer answers, or a stranger at its address, ends as a typed error here and nowhere else (`_typed_error`): a call
succeeds only with an answer of 2xx that the destination has authenticated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx
from blake3 import blake3

from shared.cluster_keys import PeerKeys
from shared.contracts.base import WireModel
from shared.errors import PeerAnswerInvalidError, PeerUnreachableError, TrivetError, error_from_problem
from shared.peer_address import PeerAddress
from shared.peer_calls.connection_pool import ConnectionPool
from shared.peer_calls.http_connection import (
    Body,
    Content,
    MalformedAnswerError,
    NeverConnectedError,
    PeerAnswer,
    StaleConnectionError,
)
from shared.peer_calls.request_signing import (
    ANSWER_MAC_HEADER,
    BODY_DIGEST_HEADER,
    COVERED_PREFIX,
    EMPTY_BODY_DIGEST,
    AnswerFacts,
    RequestSigner,
    SignedRequest,
    parse_challenge,
)
from shared.request_trace import TRACE_HEADER, current_trace
from shared.reused_buffers import ReusedBuffers
from shared.units import KIB

_RECEIVE_BUFFER_BYTES: Final = 16 * KIB
"""Enough for a head and a small body. What more it took of a large body would be copied twice."""

_MAX_POOLS: Final = 256
_UNAUTHORIZED: Final = 401
_BEFORE_THE_SIGNATURE: Final = frozenset({_UNAUTHORIZED, 408, 413, 431, 500, 503})
"""What a service answers when it has not got as far as the signature, or failed."""
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "PUT", "DELETE"})

_NEVER_CONNECTED: Final = (NeverConnectedError, httpx.ConnectError, httpx.ConnectTimeout)
_BROKEN_OFF: Final = (OSError, httpx.TransportError)
"""No answer, or half of one. TimeoutError is an OSError."""
_MALFORMED: Final = (
    httpx.HTTPError,
    httpx.StreamError,
    ValueError,  # of HTTP, decoding, JSON and pydantic
    RecursionError,  # JSON that is nested without end
)

ModelT = TypeVar("ModelT", bound=WireModel)


class _SignedAuth(httpx.Auth):
    """Signs a GET for one destination; learns the destination's boot id from a 401 and signs once more."""

    def __init__(self, signer: RequestSigner, peer: PeerAddress) -> None:
        self._signer = signer
        self._peer = peer
        self.signed: SignedRequest | None = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        response = yield self._sign(request)
        boot_id = parse_challenge(response.headers.get("www-authenticate"))
        if response.status_code == _UNAUTHORIZED and boot_id is not None:
            self._signer.learn(self._peer.id, boot_id)
            yield self._sign(request)

    def _sign(self, request: httpx.Request) -> httpx.Request:
        target = request.url.raw_path.decode("ascii")
        request.headers[BODY_DIGEST_HEADER] = EMPTY_BODY_DIGEST
        self.signed = self._signer.sign(request.method, target, self._peer, EMPTY_BODY_DIGEST)
        request.headers["authorization"] = self.signed.authorization
        return request


@dataclass(frozen=True, slots=True)
class _Request:
    """A request but for its signature. `headers` are lines, each with its end; the body's digest is among them."""

    method: str
    target: str
    digest: str
    headers: str
    content: Content
    is_idempotent: bool


class PeerClient:
    """Calls other services of the cluster.

    Every call has a deadline, raises the typed error that the peer answered with, and signs for exactly one peer.
    """

    def __init__(
        self, keys: PeerKeys, *, connect_timeout_s: float = 1.0, max_connections: int = 256, local_address: str = ""
    ) -> None:
        """`max_connections`: to each peer."""
        self._signer = RequestSigner(keys)
        self._connect_timeout_s = connect_timeout_s
        self._max_connections = max_connections
        self._local_address = local_address
        self._pools: dict[str, ConnectionPool] = {}
        self._receive_buffer = memoryview(bytearray(_RECEIVE_BUFFER_BYTES))
        self._bodies = ReusedBuffers(bytearray)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    async def request(
        self,
        peer: PeerAddress,
        method: str,
        path: str,
        *,
        timeout_s: float,
        content: Body | Content | None = None,
        headers: dict[str, str] | None = None,
        is_public: bool = False,
        is_idempotent: bool | None = None,
        covered: Callable[[Body], str] | None = None,
    ) -> PeerAnswer:
        """One call, its answer read to the end.

        Args:
            peer: whom to call; the request is signed for `peer.id`.
            path: with query, already percent-encoded.
            timeout_s: for every wait for bytes; callers bound the whole with `asyncio.timeout`.
            is_public: of a port that takes unsigned requests and authenticates no answer: nothing is signed.
            content: the body, or its pieces. A header `x-trivet-body-digest` given by the caller is trusted to be its
                BLAKE3; without one `content` is one piece.
            is_idempotent: whether it is sent once more when the peer was just closing the connection; by default GET, PUT
                and DELETE are.
            covered: the digest of a successful answer's body that its MAC is over, in hex, computed from the content:
                `proved_by_name` for a chunk, by default that of all of it. It raises ValueError for a content that is wrong.

        Raises:
            TrivetError: the peer's own typed error.
            PeerUnreachableError: no answer; definite only when the connection was never made.
            PeerAnswerInvalidError: what came is no answer of that peer; not definite.
        """
        try:
            pool = self._pool(peer.url)
            if is_idempotent is None:
                is_idempotent = method in _IDEMPOTENT
            request = _prepare(method, pool.path_prefix + path, content, headers or {}, is_idempotent=is_idempotent)
            signed, answer = await self._send(pool, peer, request, timeout_s, is_public=is_public)
            if answer.status_code == _UNAUTHORIZED and signed is not None:
                boot_id = parse_challenge(answer.headers.get("www-authenticate"))
                if boot_id is not None:
                    self._signer.learn(peer.id, boot_id)
                    signed, answer = await self._send(pool, peer, request, timeout_s, is_public=False)
            if signed is not None and not _is_authentic(signed, answer, covered if answer.is_success else None):
                raise _unauthenticated(peer, answer)
            if not answer.is_success:
                raise _error_of(peer, answer)
        except (*_BROKEN_OFF, *_MALFORMED) as error:
            raise _typed_error(peer, error) from error
        return answer

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
        content = None if body is None else body.model_dump_json().encode()
        headers = None if body is None else {"content-type": "application/json"}
        given = await self.request(peer, method, path, timeout_s=timeout_s, content=content, headers=headers)
        return parse_answer(peer, answer, given.content)

    async def download(
        self, peer: PeerAddress, path: str, take: Callable[[bytes], None], *, timeout_s: float
    ) -> httpx.Headers:
        """GET an answer that may be larger than memory: `take` gets its bytes piece by piece. Returns the headers.

        The headers are authentic: one of them has the digest by which the caller checks the bytes.

        Raises:
            TrivetError: the peer's own typed error; nothing was taken.
            PeerUnreachableError, PeerAnswerInvalidError: no answer, or a broken one; what was taken is of no use.
        """
        async with self._streamed(peer, path, timeout_s) as response:
            try:
                async for piece in response.aiter_raw():
                    take(piece)
            except (*_BROKEN_OFF, *_MALFORMED) as error:
                raise _typed_error(peer, error) from error
            return response.headers

    @asynccontextmanager
    async def _streamed(self, peer: PeerAddress, path: str, timeout_s: float) -> AsyncIterator[httpx.Response]:
        """A successful answer, its body not yet read. Raises as `request`."""
        timeout = httpx.Timeout(timeout_s, connect=min(self._connect_timeout_s, timeout_s))
        transport = httpx.AsyncHTTPTransport(local_address=self._local_address or None, trust_env=False)
        # The one client factory.
        async with httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False) as client:  # noqa: TID251
            request = client.build_request("GET", peer.url + path)
            try:
                auth = _SignedAuth(self._signer, peer)
                response = await client.send(request, stream=True, auth=auth)
                if not response.is_success:
                    await response.aread()
            except (*_BROKEN_OFF, *_MALFORMED) as error:
                raise _typed_error(peer, error) from error
            try:
                headers = {name.lower(): value for name, value in response.headers.items()}
                answer = PeerAnswer(response.status_code, headers, b"" if response.is_success else response.content)
                if auth.signed is None or not _is_authentic(auth.signed, answer, _proved_by_header(answer)):
                    raise _unauthenticated(peer, answer)
                if not answer.is_success:
                    raise _error_of(peer, answer)
                yield response
            finally:
                await response.aclose()

    async def _send(
        self, pool: ConnectionPool, peer: PeerAddress, request: _Request, timeout_s: float, *, is_public: bool
    ) -> tuple[SignedRequest | None, PeerAnswer]:
        """Sign, unless it is public, and send; the signature, and the answer whatever its status."""
        try:
            return await self._send_once(pool, peer, request, timeout_s, is_public=is_public)
        except StaleConnectionError:
            if not request.is_idempotent:
                raise
        try:
            return await self._send_once(pool, peer, request, timeout_s, is_public=is_public)
        except NeverConnectedError as error:
            # The peer may have done what was sent the first time.
            raise ConnectionError(f"it closed the connection, and no other one could be made: {error}") from error

    async def _send_once(
        self, pool: ConnectionPool, peer: PeerAddress, request: _Request, timeout_s: float, *, is_public: bool
    ) -> tuple[SignedRequest | None, PeerAnswer]:
        signed = None if is_public else self._signer.sign(request.method, request.target, peer, request.digest)
        signature = "" if signed is None else f"authorization: {signed.authorization}\r\n"
        head = (
            f"{request.method} {request.target} HTTP/1.1\r\nhost: {pool.host_header}\r\n"
            f"{signature}{request.headers}\r\n"
        )
        answer = await pool.exchange(
            head.encode("latin-1"),
            request.content,
            timeout_s=timeout_s,
            connect_timeout_s=min(self._connect_timeout_s, timeout_s),
        )
        return signed, answer

    def _pool(self, url: str) -> ConnectionPool:
        pool = self._pools.get(url)
        if pool is None:
            if len(self._pools) >= _MAX_POOLS:
                self._pools = {url: pool for url, pool in self._pools.items() if not pool.is_unused}
            pool = self._pools[url] = ConnectionPool(
                url,
                limit=self._max_connections,
                local_address=self._local_address,
                receive_buffer=self._receive_buffer,
                bodies=self._bodies,
            )
        return pool


def parse_answer(peer: PeerAddress, answer: type[ModelT], content: Body) -> ModelT:
    """The model in an answer of `peer`. Raises PeerAnswerInvalidError."""
    try:
        return answer.parse_answer(content)
    except _MALFORMED as error:
        raise _typed_error(peer, error) from error


def proved_by_name(_: Body) -> str:
    """For an answer that is a chunk, which the request has named by its digest: its bytes are not hashed for the MAC."""
    return ""


def _proved_by_header(answer: PeerAnswer) -> Callable[[Body], str] | None:
    """Of a stream, whose bytes have not come yet; a refusal is no stream."""
    return proved_by_name if answer.is_success else None


def _is_authentic(signed: SignedRequest, answer: PeerAnswer, covered: Callable[[Body], str] | None) -> bool:
    """Whether the service that the request was signed for gave this answer. Raises as `covered`."""
    if covered is not None:
        digest = covered(answer.content)
    else:
        digest = blake3(answer.content).hexdigest() if answer.content else EMPTY_BODY_DIGEST
    headers = [
        (name, value)
        for name, value in answer.headers.items()
        if name.startswith(COVERED_PREFIX) and name != ANSWER_MAC_HEADER
    ]
    return signed.is_answered_by(
        AnswerFacts(answer.status_code, digest, headers), answer.headers.get(ANSWER_MAC_HEADER)
    )


def _unauthenticated(peer: PeerAddress, answer: PeerAnswer) -> TrivetError:
    """The error behind an answer that somebody else may have given, so that nothing in it is certain."""
    if answer.status_code not in _BEFORE_THE_SIGNATURE:
        return invalid_answer(peer, f"an answer {answer.status_code} that it has not authenticated")
    error = _error_of(peer, answer)
    error.definite = False
    return error


def invalid_answer(peer: PeerAddress, what: str) -> PeerAnswerInvalidError:
    """The error for an answer that is well formed and cannot be right, told as `what`."""
    return PeerAnswerInvalidError(f"{peer.id} did not answer as a service of this cluster does: {what}.", peer=peer.id)


def _prepare(
    method: str, target: str, content: Body | Content | None, headers: dict[str, str], *, is_idempotent: bool
) -> _Request:
    sent = {name.lower(): value for name, value in headers.items()}
    if trace := current_trace.get():
        sent[TRACE_HEADER] = trace
    pieces: Content = () if content is None else (content,) if isinstance(content, Body) else content
    if BODY_DIGEST_HEADER not in sent:
        sent[BODY_DIGEST_HEADER] = blake3(pieces[0]).hexdigest() if pieces else EMPTY_BODY_DIGEST
    if content is not None or method in {"POST", "PUT"}:
        sent["content-length"] = str(sum(map(len, pieces)))
    lines = "".join([f"{name}: {value}\r\n" for name, value in sent.items()])
    if not target.isprintable() or " " in target or lines.count("\n") != len(sent):
        raise ValueError("a target or a header that would break the request")
    return _Request(method, target, sent[BODY_DIGEST_HEADER], lines, pieces, is_idempotent)


def _typed_error(peer: PeerAddress, error: Exception) -> TrivetError:
    """The one place where what a peer does, or fails to do, becomes a typed error."""
    if isinstance(error, _NEVER_CONNECTED):
        return PeerUnreachableError(f"{peer.id} cannot be connected to.", definite=True, peer=peer.id)
    if isinstance(error, _BROKEN_OFF):
        reason = str(error) or type(error).__name__
        return PeerUnreachableError(f"{peer.id} did not answer: {reason}", peer=peer.id)
    return invalid_answer(peer, str(error) if isinstance(error, MalformedAnswerError) else type(error).__name__)


def _error_of(peer: PeerAddress, answer: PeerAnswer) -> TrivetError:
    if answer.headers.get("content-type", "").startswith("application/problem+json"):
        try:
            return error_from_problem(answer.json())
        except (ValueError, TypeError, AttributeError, RecursionError):
            pass
    return invalid_answer(peer, f"{answer.status_code} without a problem document")
