"""One connection for the calls that small puts and reads make all the time.

What redis-py does around a pooled connection (locks, a wait, events, counters) and for a pipeline (a parser call and a callback
per command) costs several times what the call itself does. The connection itself is redis-py's, made by the pool, with the
pool's settings: it connects, authenticates and parses as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from services.storage.redis_node.inspection import ID_KEY

Argument = str | bytes | int
RedisCommand = tuple[Argument, ...]

_MULTI: Final = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC: Final = b"*1\r\n$4\r\nEXEC\r\n"


class DirectConnection:
    """For one call at a time; the caller sees to that, and bounds it in time.

    Invariant: a connection on which a call was not answered as it should be is closed, so that no later call gets its answer.
    Invariant: no call reaches a server that has not said, on this connection, that its id is the one that is wanted. Others are
    inspected over connections of their own, which may have ended at another server of the same address.
    """

    def __init__(self, pool: ConnectionPool, wanted_id: Callable[[], str | None] = lambda: None) -> None:
        """`wanted_id`: the id of the server that may be used now; None does not ask for it."""
        self._pool = pool
        self._connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        self._connection.register_connect_callback(self._on_connected)
        self._wanted_id = wanted_id
        self._known_id: str | None = None
        self._is_busy = False

    async def call(self, command: RedisCommand) -> Any:
        """The answer to one command. Raises what redis-py raises."""
        return (await self._exchange(_pack(command), 1))[0]

    async def transaction(self, commands: Sequence[RedisCommand]) -> list[Any]:
        """Run all of them in one MULTI: their answers. Raises what redis-py raises; then all or none of them have happened."""
        packed = b"".join((_MULTI, *map(_pack, commands), _EXEC))
        *_, answers = await self._exchange(packed, len(commands) + 2)
        if not isinstance(answers, list) or len(answers) != len(commands):
            await self.aclose()
            raise ResponseError("EXEC gave another number of answers than there were commands")
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        return answers

    async def aclose(self) -> None:
        """Close the connection; the next call makes a new one."""
        await self._connection.disconnect(nowait=True)

    async def _exchange(self, packed: bytes, answer_count: int) -> list[Any]:
        assert not self._is_busy, "one call at a time"
        self._is_busy = True
        try:
            await self._ensure_connection()
            await self._connection.send_packed_command(packed, check_health=False)
            answers: list[Any] = []
            first_error: ResponseError | None = None
            for _ in range(answer_count):
                try:
                    answers.append(await self._connection.read_response())
                except ResponseError as error:
                    first_error = first_error or error
        except BaseException:
            await self.aclose()
            raise
        finally:
            self._is_busy = False
        if first_error is not None:
            raise first_error
        return answers

    async def _ensure_connection(self) -> None:
        wanted_id = self._wanted_id()
        if wanted_id != self._known_id:
            await self.aclose()
        # Looks whether the server has closed it, or sent what nobody asked for.
        await self._pool.ensure_connection(self._connection)
        if wanted_id != self._known_id:
            await self._connection.send_packed_command(_ASK_ID, check_health=False)
            if await self._connection.read_response() != (wanted_id or "").encode():
                raise RedisConnectionError("another server answers at this address")
            self._known_id = wanted_id

    def _on_connected(self, _: AbstractConnection) -> None:
        """A new connection, whoever made it: nobody knows yet whose it is."""
        self._known_id = None


def _pack(command: RedisCommand) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub says: a tuple of one
    return packed


_ASK_ID: Final = _pack(("GET", ID_KEY))
