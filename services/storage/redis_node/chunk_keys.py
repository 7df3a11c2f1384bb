"""How chunks lie in Redis, and the commands that keep that layout whole.

    trivet:chunk:<digest>   the bytes
    trivet:record           sorted set: digest -> start index, of the chunks for which Redis is the record
    trivet:index            sorted set: the digests of the record in their order; in mode `redis` only
    trivet:lost             sorted set: digest -> start index, of chunks whose bytes went bad; in mode `redis` only
    trivet:owner, trivet:id whose it is, and a random id (`inspection`)
    trivet:scrub            where the scrub is; in mode `redis` only

A chunk and its entries are written by one MULTI. `ZADD GT` makes the maximum in the server. Bodies without an entry in the
record are copies of what is safe on disk, and may be dropped at any time. Scores are doubles: exact up to 2^53.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from services.storage.redis_node.direct import Argument, DirectConnection, RedisCommand
from shared.contracts.names import check_digest
from shared.errors import InvalidNameError

logger = structlog.get_logger(__name__)

RECORD_KEY: Final = "trivet:record"
INDEX_KEY: Final = "trivet:index"
LOST_KEY: Final = "trivet:lost"
_SCRUB_KEY: Final = "trivet:scrub"
_CHUNK_PREFIX: Final = "trivet:chunk:"
_SCAN_COUNT: Final = 1000

_FIND_AGAIN: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for _, digest in ipairs(ARGV) do
    local start_index = redis.call('ZSCORE', KEYS[1], digest)
    if start_index then
        redis.call('ZADD', KEYS[2], 'GT', start_index, digest)
        redis.call('ZREM', KEYS[1], digest)
    end
end
return 1
"""
"""Takes what has just been recorded off the list of lost chunks, with the start index that it had."""

_DROP_UNRECORDED: Final = """
for index = 2, #KEYS do
    if not redis.call('ZSCORE', KEYS[1], ARGV[index - 1]) then redis.call('UNLINK', KEYS[index]) end
end
return 1
"""
"""Drops bodies that have no entry in the record: a put that timed out may have arrived meanwhile."""

_LOSE: Final = """
local body = redis.call('GET', KEYS[4])
if (body and redis.sha1hex(body) or '') ~= ARGV[2] then return 0 end
local start_index = redis.call('ZSCORE', KEYS[2], ARGV[1])
redis.call('UNLINK', KEYS[4])
redis.call('ZREM', KEYS[3], ARGV[1])
if not start_index then return 0 end
redis.call('ZADD', KEYS[1], 'GT', start_index, ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
"""
"""Moves a chunk from the record to the list of lost ones, if its body is still the one that was seen; 0 when it was not
recorded. No WATCH: its end waits for the server without a deadline when the server hangs."""

_DELETE_UNCHANGED: Final = """
local results = {}
for index = 4, #KEYS do
    local digest, seen = ARGV[2 * index - 7], tonumber(ARGV[2 * index - 6])
    local found = redis.call('ZSCORE', KEYS[1], digest) or redis.call('ZSCORE', KEYS[3], digest)
    local is_deleted = found and tonumber(found) == seen
    if is_deleted then
        redis.call('UNLINK', KEYS[index])
        for entry = 1, 3 do redis.call('ZREM', KEYS[entry], digest) end
    end
    results[#results + 1] = is_deleted and 1 or 0
end
return results
"""
"""Drops recorded and lost chunks whose start index is still the one that was seen; for each whether it did. A chunk is never
both."""

_RESTORE: Final = """
local start_index = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not start_index then return 0 end
redis.call('SET', KEYS[4], ARGV[2])
redis.call('ZADD', KEYS[2], 'GT', start_index, ARGV[1])
redis.call('ZADD', KEYS[3], 0, ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
"""
"""Records a chunk if it is lost; 0 when it is not."""


@dataclass(frozen=True, slots=True)
class RecordedChunk:
    """A chunk for which Redis is to be the record."""

    digest: str
    body: bytes
    start_index: int


async def put_recorded(connection: DirectConnection, chunks: Sequence[RecordedChunk]) -> list[bool]:
    """Store `chunks` with max(start index) in one MULTI, where Redis is all there is; for each, whether it was new to the record.

    They stand in the index then, and not among the lost chunks. With `appendfsync always` the answer comes after the fsync.
    """
    digests = [chunk.digest for chunk in chunks]
    answers = await connection.transaction(
        [
            _mset(chunks),
            *[("ZADD", RECORD_KEY, "GT", chunk.start_index, chunk.digest) for chunk in chunks],
            ("ZADD", INDEX_KEY, *_flat((0, digest) for digest in digests)),
            ("EVAL", _FIND_AGAIN, 2, LOST_KEY, RECORD_KEY, *digests),
        ]
    )
    return [added == 1 for added in answers[1 : len(chunks) + 1]]


async def put_buffered(connection: DirectConnection, chunks: Sequence[RecordedChunk]) -> list[bool]:
    """Store `chunks` with max(start index) in one MULTI, beside a disk: the caller knows what is new, and each answer is true.

    With `appendfsync always` the answer comes after the fsync.
    """
    highest: dict[str, int] = {}
    for chunk in chunks:
        highest[chunk.digest] = max(chunk.start_index, highest.get(chunk.digest, 0))
    scores = _flat((start_index, digest) for digest, start_index in highest.items())
    await connection.transaction([_mset(chunks), ("ZADD", RECORD_KEY, "GT", *scores)])
    return [True] * len(chunks)


def _mset(chunks: Sequence[RecordedChunk]) -> RedisCommand:
    """One command for many costs the server a fraction of many commands."""
    return ("MSET", *_flat((_key(chunk.digest), chunk.body) for chunk in chunks))


def _flat(pairs: Iterable[tuple[Argument, Argument]]) -> list[Argument]:
    return [argument for pair in pairs for argument in pair]


async def put_copy(client: Redis, digest: str, body: bytes) -> None:
    """Store a copy of a chunk that is safe elsewhere."""
    await client.set(_key(digest), body)


async def get(client: Redis, digest: str) -> bytes | None:
    """The bytes, unchecked."""
    return _bytes(await client.get(_key(digest)))


async def get_many_directly(connection: DirectConnection, digests: Sequence[str]) -> list[bytes | None]:
    """The bytes of each, unchecked."""
    return _bodies(await connection.call(("MGET", *map(_key, digests))), len(digests))


async def get_many(client: Redis, digests: Sequence[str]) -> list[bytes | None]:
    """The bytes of each, unchecked."""
    return _bodies(await client.mget([_key(digest) for digest in digests]), len(digests))


def _bodies(answer: Any, count: int) -> list[bytes | None]:
    if not isinstance(answer, list) or len(answer) != count:
        raise ResponseError("MGET gave another number of values than it was asked for")
    return [_bytes(body) for body in answer]


async def get_many_up_to(client: Redis, digests: Sequence[str], max_bytes: int) -> tuple[dict[str, bytes], set[str]]:
    """The bytes of each, unchecked, and those that are longer than `max_bytes`, which are not read."""
    pipeline = client.pipeline(transaction=False)
    for digest in digests:
        pipeline.strlen(_key(digest))
    sizes = dict(zip(digests, map(int, await pipeline.execute()), strict=True))
    wanted = [digest for digest, size_bytes in sizes.items() if size_bytes <= max_bytes]
    bodies = await get_many(client, wanted) if wanted else []
    found = {digest: body for digest, body in zip(wanted, bodies, strict=True) if body is not None}
    return found, sizes.keys() - wanted


async def get_recorded_size_bytes(client: Redis, digest: str) -> int | None:
    """Length of a recorded chunk."""
    pipeline = client.pipeline(transaction=True)
    pipeline.zscore(RECORD_KEY, digest)
    pipeline.strlen(_key(digest))
    score, size_bytes = await pipeline.execute()
    return None if score is None else int(size_bytes)


async def start_indexes(client: Redis, digests: Sequence[str]) -> dict[str, int]:
    """Those of `digests` that are recorded, with their start indexes."""
    return await _scores(client, RECORD_KEY, digests)


async def record_start_indexes(client: Redis, wanted: Mapping[str, int]) -> set[str]:
    """Those of `wanted` that are recorded, after max(start index) was recorded on them."""
    pipeline = client.pipeline(transaction=True)
    pipeline.zadd(RECORD_KEY, dict(wanted), xx=True, gt=True)
    pipeline.zmscore(RECORD_KEY, list(wanted))
    scores = (await pipeline.execute())[-1]
    return {digest for digest, score in zip(wanted, scores, strict=True) if score is not None}


async def delete_if(client: Redis, conditions: Mapping[str, Callable[[int], bool]]) -> set[str]:
    """Drop the chunks that are recorded or lost and whose condition is true of the start index; which they were.

    The server deletes one only while its start index is the one that was seen; otherwise the condition is asked again.
    """
    deleted: set[str] = set()
    left = list(conditions)
    while left:
        seen = await _scores(client, LOST_KEY, left) | await start_indexes(client, left)
        chosen = [digest for digest, start_index in seen.items() if conditions[digest](start_index)]
        if not chosen:
            break
        arguments = [argument for digest in chosen for argument in (digest, seen[digest])]
        keys = [RECORD_KEY, INDEX_KEY, LOST_KEY, *map(_key, chosen)]
        command: Any = client.eval  # typed for text only
        results = await command(_DELETE_UNCHANGED, len(keys), *keys, *arguments)
        deleted.update(digest for digest, is_deleted in zip(chosen, results, strict=True) if is_deleted)
        left = [digest for digest in chosen if digest not in deleted]
    return deleted


async def _scores(client: Redis, key: str, digests: Sequence[str]) -> dict[str, int]:
    if not digests:
        return {}
    scores = await client.zmscore(key, list(digests))
    return {digest: int(score) for digest, score in zip(digests, scores, strict=True) if score is not None}


async def remove(client: Redis, digests: Sequence[str]) -> int:
    """Drop bodies and entries; how many were recorded."""
    pipeline = client.pipeline(transaction=True)
    pipeline.unlink(*[_key(digest) for digest in digests])
    pipeline.zrem(INDEX_KEY, *digests)
    pipeline.zrem(LOST_KEY, *digests)
    pipeline.zrem(RECORD_KEY, *digests)
    return int((await pipeline.execute())[-1])


async def lose_unless(client: Redis, digest: str, is_good: Callable[[bytes], bool]) -> bool:
    """Drop a chunk whose bytes are gone or not good, and record it as lost, as one step; false when it was not recorded."""
    body = await get(client, digest)
    if body is not None and is_good(body):
        return False
    seen = "" if body is None else hashlib.sha1(body, usedforsecurity=False).hexdigest()
    command: Any = client.eval  # typed for awaitable and not
    return bool(await command(_LOSE, 4, LOST_KEY, RECORD_KEY, INDEX_KEY, _key(digest), digest, seen))


async def restore(client: Redis, digest: str, body: bytes) -> bool:
    """Record a chunk if it is lost, with the start index that it had; whether it was."""
    command: Any = client.eval  # typed for text only
    return bool(await command(_RESTORE, 4, LOST_KEY, RECORD_KEY, INDEX_KEY, _key(digest), digest, body))


async def list_lost(client: Redis, after: str, limit: int) -> list[tuple[str, int]]:
    """Up to `limit` lost digests after `after`, in order, with their start indexes. Reads the whole list, which is short."""
    entries: Any = await client.zrange(LOST_KEY, 0, -1, withscores=True)
    found = sorted((member.decode(), int(score)) for member, score in entries)
    return [entry for entry in found if entry[0] > after][:limit]


async def list_index(client: Redis, prefix: str, after: str, limit: int) -> list[str]:
    """Up to `limit` recorded digests in order: those that begin with `prefix` and come after `after`."""
    low = f"({after}" if after > prefix else f"[{prefix}"
    found: Any = await client.zrangebylex(INDEX_KEY, low, f"[{prefix}g", start=0, num=limit)
    return [member.decode() for member in found]


async def sizes_and_indexes(client: Redis, digests: Sequence[str]) -> list[tuple[str, int, int]]:
    """Those of `digests` that are recorded, with length and start index."""
    if not digests:
        return []
    pipeline = client.pipeline(transaction=True)
    pipeline.zmscore(RECORD_KEY, list(digests))
    for digest in digests:
        pipeline.strlen(_key(digest))
    scores, *sizes = await pipeline.execute()
    found = zip(digests, sizes, scores, strict=True)
    return [(digest, int(size), int(score)) for digest, size, score in found if score is not None]


async def scrub_position(client: Redis) -> str:
    """The last digest that the scrub has read; empty at the beginning."""
    return (_bytes(await client.get(_SCRUB_KEY)) or b"").decode()


async def save_scrub_position(client: Redis, digest: str) -> None:
    """Record it."""
    await client.set(_SCRUB_KEY, digest)


async def release(client: Redis, digests: Sequence[str]) -> None:
    """Take entries out of the record and keep the bodies as copies."""
    await client.zrem(RECORD_KEY, *digests)


async def drop_copies(client: Redis, digests: Iterable[str]) -> None:
    """Drop bodies only."""
    if keys := [_key(digest) for digest in digests]:
        await client.unlink(*keys)


async def drop_unrecorded(client: Redis, digests: Iterable[str]) -> None:
    """Drop the bodies of those that are not recorded, as one step."""
    names = list(digests)
    await client.eval(_DROP_UNRECORDED, len(names) + 1, RECORD_KEY, *map(_key, names), *names)


async def scan_recorded(client: Redis, cursor: int) -> tuple[int, list[tuple[str, int]]]:
    """One step over the record: the next cursor (0 at the end), digests and start indexes.

    A chunk that is recorded throughout the walk is returned at least once, whatever changes meanwhile.
    """
    entries: Any
    cursor, entries = await client.zscan(RECORD_KEY, cursor, count=_SCAN_COUNT)
    found = [(_digest_of(member), int(score)) for member, score in entries]
    return int(cursor), [(digest, start_index) for digest, start_index in found if digest is not None]


async def scan_sizes(client: Redis, cursor: int) -> tuple[int, list[tuple[str, int]]]:
    """One step over all bodies: the next cursor (0 at the end), digests and lengths."""
    keys: Any
    cursor, keys = await client.scan(cursor, match=_CHUNK_PREFIX + "*", count=_SCAN_COUNT)
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.strlen(key)
    sizes = await pipeline.execute()
    digests = [_digest_of(key[len(_CHUNK_PREFIX) :]) for key in keys]
    return int(cursor), [(name, int(size)) for name, size in zip(digests, sizes, strict=True) if name is not None]


def _digest_of(name: bytes) -> str | None:
    """None for what is no digest: somebody else's key, or a flipped bit. It is ignored."""
    try:
        return check_digest(name.decode("ascii", "replace"))
    except InvalidNameError:
        logger.warning("redis holds a name that is no digest", name=name[:100])
        return None


async def count_recorded(client: Redis) -> tuple[int, int, int]:
    """Number of recorded chunks and of lost ones, and the memory that the server uses in bytes."""
    pipeline = client.pipeline(transaction=False)
    pipeline.zcard(RECORD_KEY)
    pipeline.zcard(LOST_KEY)
    pipeline.info("memory")
    count, lost_count, memory = await pipeline.execute()
    return int(count), int(lost_count), int(memory["used_memory"])


def _bytes(value: object) -> bytes | None:
    """The client's types allow text, which it gives only when it is told to decode; ours is not."""
    if value is None or isinstance(value, bytes):
        return value
    raise ResponseError(f"a {type(value).__name__} came where bytes were meant")


def _key(digest: str) -> str:
    return _CHUNK_PREFIX + digest
