"""The connection to this node's Redis: every call has a deadline, and a circuit breaker (S-21).

Requests never probe. Once open, the circuit is closed again only by `supervise`, after the server was inspected
(alive, ours, durable) and the tier above has recovered what it held.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError

from services.storage.metrics import StorageMetrics
from services.storage.redis_node.direct import DirectConnection
from services.storage.redis_node.inspection import claim, inspect
from shared.background_tasks import BackgroundTasks
from shared.backoff import Backoff
from shared.disk.durable_files import replace_file
from shared.errors import DiskFullError, TrivetError, UnavailableError
from shared.units import MIB

logger = structlog.get_logger(__name__)

ResultT = TypeVar("ResultT")
Work = Callable[[Redis], Awaitable[ResultT]]
Recover = Callable[[], Awaitable[None]]
"""Brings what the server holds into use again."""

_FAILURES_TO_OPEN: Final = 3
_PROBE_DEADLINE_S: Final = 1.0
_START_PATIENCE_S: Final = 4.0
_PROBE_BASE_S: Final = 0.1
_PROBE_CAP_S: Final = 2.0
_WATCH_INTERVAL_S: Final = 1.0
_MAX_CONNECTIONS: Final = 8


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where the server is, and whose it must be.

    Attributes:
        owner: `<cluster>/<node>`, written into the server.
        claim_path: a file that says that we have used this server before, so that an emptied one is noticed.
        limit_path: a file with its memory limit, because a node weighs in placement what it can hold, Redis up or not.
        username: of its ACL; None for the default user.
    """

    url: str
    password: str | None
    owner: str
    claim_path: Path
    limit_path: Path
    username: str | None = None


def connect(address: RedisAddress) -> Redis:
    """A client without hidden retries or timeouts of its own: deadlines are the caller's, around the whole call."""
    pool = BlockingConnectionPool.from_url(
        address.url,
        username=address.username,
        password=address.password,
        max_connections=_MAX_CONNECTIONS,
        timeout=None,
        socket_timeout=None,
        socket_connect_timeout=_PROBE_DEADLINE_S,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        driver_info=None,
    )
    return Redis(connection_pool=pool)


class RedisLink:
    """Invariant: while `objection` is not None, no call but those of `supervise` reaches the server."""

    def __init__(self, address: RedisAddress, *, deadline_s: float, metrics: StorageMetrics) -> None:
        self._address = address
        self._deadline_s = deadline_s
        self._metrics = metrics
        metrics.redis_is_usable.set(0)
        self._failures = 0
        self._circuit_opened = asyncio.Event()
        self.objection: str | None = "it was not asked yet"
        self.redis_id: str | None = None
        """The random id of the server that was used last in this process; None before the first."""
        self.run: tuple[str, str] | None = None
        """That id and the one of the run of the server that is recovered from or in use; None when it does not say."""
        self.limit_bytes = _read_limit(address.limit_path)
        """The server's memory limit as last seen, by an earlier process maybe; 0 when it has none, None when unknown."""
        self.was_used_before = address.claim_path.exists()
        """Whether this node ever claimed the server, in this process or an earlier one."""
        self.weakness: str | None = None
        """Why the server should be replaced by a newer version; it is used all the same."""
        self._client = connect(address)
        self._direct: list[DirectConnection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._direct:
            await connection.aclose()
        await self._client.aclose(close_connection_pool=True)

    @property
    def is_usable(self) -> bool:
        """Whether calls are let through."""
        return self.objection is None

    def make_direct_connection(self) -> DirectConnection:
        """A connection of its own, to be used inside `call`; the link closes it at its end."""
        self._direct.append(DirectConnection(self._client.connection_pool, lambda: self.redis_id))
        return self._direct[-1]

    async def call(self, work: Work[ResultT], *, size_bytes: int = 0, changes: bool = False) -> ResultT:
        """Run `work` on the server within the deadline.

        Args:
            size_bytes: that go over the wire; large bodies get as many deadlines as they have MiB on top.
            changes: whether it changes something; a failure is then not definite.

        Raises:
            UnavailableError: the circuit is open (definite), or the call failed.
            DiskFullError: the server is at its memory limit; definite.
        """
        if self.objection is not None:
            raise UnavailableError(f"Redis is not used: {self.objection}.")
        try:
            result = await self._within(self._deadline_s * (1 + size_bytes // MIB), work)
        except OutOfMemoryError as error:
            self._metrics.redis_failures.labels(reason="full").inc()
            raise DiskFullError("Redis is at its memory limit.") from error
        except Exception as error:
            # Whatever it was: one flipped bit in an answer is a TypeError somewhere, and the disk has the chunk.
            self._record_failure(error)
            raise UnavailableError("Redis did not answer.", definite=not changes) from error
        self._failures = 0
        return result

    async def probe(self, work: Work[ResultT], *, deadline_s: float = _PROBE_DEADLINE_S) -> ResultT:
        """Run `work` whatever the state of the circuit; for recovery. Raises UnavailableError."""
        try:
            return await self._within(deadline_s, work)
        except Exception as error:
            if not _is_expected(error):
                logger.exception("redis answered with something else")
            raise UnavailableError(_describe(error)) from error

    def open_circuit(self, objection: str) -> None:
        """Let no call through until the server was inspected and recovered."""
        if self.objection is None:
            logger.warning("redis is not used", objection=objection)
            self._circuit_opened.set()
        self.objection = objection
        self._metrics.redis_is_usable.set(0)

    async def start(self, recover: Recover) -> None:
        """Try to close the circuit before the first request; go on without Redis when it does not answer.

        A server that we have used before may hold what only it has acknowledged: it gets a moment to start, too.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + (_START_PATIENCE_S if self.was_used_before else 0.0)
        # Only the waiting is bounded here: once the server answers, what it holds is recovered to the end.
        while not await self.try_to_close_circuit(recover):
            if loop.time() >= give_up_at:
                logger.warning("starting without redis", objection=self.objection)
                return
            await asyncio.sleep(_PROBE_BASE_S)

    def supervise(self, recover: Recover, tasks: BackgroundTasks) -> None:
        """Inspect the server, recover and let calls through, as long as `tasks` live."""
        retry = Backoff(_PROBE_BASE_S, _PROBE_CAP_S, random.random)

        async def step() -> float | None:
            if self.objection is None:
                await self._inspect()
            elif not await self.try_to_close_circuit(recover):
                return retry.failed()
            retry.succeeded()
            return None

        tasks.every("redis supervisor", _WATCH_INTERVAL_S, step, first_after_s=0, wake=self._circuit_opened)

    async def try_to_close_circuit(self, recover: Recover) -> bool:
        """One inspection and recovery; whether calls are let through now."""
        try:
            found = await self.probe(lambda client: inspect(client, self._address.owner))
            objection, redis_id = found.objection, found.redis_id
            if objection is None and (found.is_unclaimed or redis_id is None):
                redis_id = await self._claim(is_unclaimed=found.is_unclaimed)
                objection = "another node claimed it in the same moment" if redis_id is None else None
            if objection is None:
                self._record_weakness(found.weakness)
                await self._record_limit(found.limit_bytes)
                self.run = None if redis_id is None or found.run_id is None else (redis_id, found.run_id)
                await recover()
        except TrivetError as error:
            objection = error.message
        except Exception:
            # The supervisor must not end with it: Redis would stay unused until a restart, and nobody would know why.
            logger.exception("a defect while inspecting redis")
            objection = "a defect, which was logged"
        if objection is not None:
            self.open_circuit(objection)
            return False
        self._failures = 0
        self.redis_id = redis_id
        self.objection = None
        self._metrics.redis_is_usable.set(1)
        logger.info("redis is used")
        return True

    async def _inspect(self) -> None:
        """Open the circuit unless the server is as it was.

        Its settings may be changed while it runs: for up to one interval, acknowledgements may be less durable than promised.
        """
        try:
            found = await self.probe(lambda client: inspect(client, self._address.owner))
        except UnavailableError as error:
            self.open_circuit(error.message)
            return
        if found.objection is not None or found.is_unclaimed:
            self.open_circuit(found.objection or "it was emptied")
        elif found.redis_id != self.redis_id:
            self.open_circuit("another one took its place")
        else:
            await self._record_limit(found.limit_bytes)

    def _record_weakness(self, weakness: str | None) -> None:
        if weakness is not None and weakness != self.weakness:
            logger.warning("the version of redis should be replaced", reason=weakness)
        self.weakness = weakness

    async def _record_limit(self, limit_bytes: int | None) -> None:
        if limit_bytes == self.limit_bytes or limit_bytes is None:
            return
        self.limit_bytes = limit_bytes
        try:
            await asyncio.to_thread(replace_file, self._address.limit_path, str(limit_bytes).encode())
        except OSError as error:
            logger.warning("the memory limit of redis could not be written down", error=str(error))

    async def _claim(self, *, is_unclaimed: bool) -> str | None:
        """Write our name and an id into the server; the id, or None when another node was faster."""
        if not is_unclaimed:
            logger.info("redis gets an id; it was claimed before there were any")
        elif self.was_used_before:
            self._metrics.redis_emptied.inc()
            logger.error(
                "redis was emptied: chunks that only it had acknowledged are gone unless this process has them"
            )
        else:
            # One small file, once in a node's life.
            await asyncio.to_thread(replace_file, self._address.claim_path, self._address.owner.encode())
            self.was_used_before = True
        return await self.probe(lambda client: claim(client, self._address.owner))

    async def _within(self, deadline_s: float, work: Work[ResultT]) -> ResultT:
        async with asyncio.timeout(deadline_s):
            return await work(self._client)

    def _record_failure(self, error: Exception) -> None:
        self._metrics.redis_failures.labels(reason=_reason(error)).inc()
        logger.warning("redis call failed", error=repr(error), exc_info=not _is_expected(error))
        self._failures += 1
        # One slow answer happens; a broken connection may mean a restarted, emptied server: inspect it at once.
        if not isinstance(error, TimeoutError) or self._failures >= _FAILURES_TO_OPEN:
            self.open_circuit(_describe(error))


def _read_limit(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _is_expected(error: Exception) -> bool:
    return isinstance(error, RedisError | OSError | TimeoutError)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    if not _is_expected(error):
        return "nonsense"
    return "connection" if isinstance(error, RedisConnectionError | OSError) else "refused"


def _describe(error: Exception) -> str:
    """For /readyz, which anybody may ask: the kind of trouble, without addresses. The log has the rest."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if not _is_expected(error):
        return "its answer makes no sense"
    return "it cannot be reached" if isinstance(error, RedisConnectionError | OSError) else "it refused a command"
