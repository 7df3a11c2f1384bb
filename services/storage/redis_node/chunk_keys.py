"""How chunks lie in Redis, and the commands that keep that layout whole.

    trivet:chunk:<digest>   the bytes
    trivet:record           sorted set: digest -> start index, of the chunks for which Redis is the record

A chunk and its entry in the record are written by one MULTI. `ZADD GT` makes the maximum in the server. Bodies without an
entry are copies of what is safe on disk, and may be dropped at any time. Scores are doubles: exact up to 2^53.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import WatchError

RECORD_KEY: Final = "trivet:record"
_CHUNK_PREFIX: Final = "trivet:chunk:"
_SCAN_COUNT: Final = 1000


@dataclass(frozen=True, slots=True)
class RecordedChunk:
    """A chunk for which Redis is to be the record."""

    digest: str
    body: bytes
    start_index: int


async def put_recorded(client: Redis, chunks: Sequence[RecordedChunk]) -> list[bool]:
    """Store `chunks` with max(start index) in one MULTI; for each, whether it was new to the record.

    With `appendfsync always` the answer comes after the fsync.
    """
    pipeline = client.pipeline(transaction=True)
    for chunk in chunks:
        pipeline.set(_key(chunk.digest), chunk.body)
        pipeline.zadd(RECORD_KEY, {chunk.digest: chunk.start_index}, gt=True)
    answers: list[Any] = await pipeline.execute()
    return [added == 1 for added in answers[1::2]]


async def put_copy(client: Redis, digest: str, body: bytes) -> None:
    """Store a copy of a chunk that is safe elsewhere."""
    await client.set(_key(digest), body)


async def get(client: Redis, digest: str) -> bytes | None:
    """The bytes, unchecked."""
    return _bytes(await client.get(_key(digest)))


async def get_many(client: Redis, digests: Sequence[str]) -> list[bytes | None]:
    """The bytes of each, unchecked."""
    return [_bytes(body) for body in await client.mget([_key(digest) for digest in digests])]


async def get_recorded_size_bytes(client: Redis, digest: str) -> int | None:
    """Length of a recorded chunk."""
    pipeline = client.pipeline(transaction=True)
    pipeline.zscore(RECORD_KEY, digest)
    pipeline.strlen(_key(digest))
    score, size_bytes = await pipeline.execute()
    return None if score is None else int(size_bytes)


async def recorded(client: Redis, digests: Sequence[str], start_index: int | None) -> set[str]:
    """Those of `digests` that are recorded, after max(`start_index`) was recorded on them."""
    if not digests:
        return set()
    pipeline = client.pipeline(transaction=True)
    if start_index is not None:
        pipeline.zadd(RECORD_KEY, dict.fromkeys(digests, start_index), xx=True, gt=True)
    pipeline.zmscore(RECORD_KEY, list(digests))
    scores = (await pipeline.execute())[-1]
    return {digest for digest, score in zip(digests, scores, strict=True) if score is not None}


async def remove(client: Redis, digests: Sequence[str]) -> int:
    """Drop bodies and entries; how many were recorded."""
    pipeline = client.pipeline(transaction=True)
    pipeline.unlink(*[_key(digest) for digest in digests])
    pipeline.zrem(RECORD_KEY, *digests)
    return int((await pipeline.execute())[-1])


async def remove_unless(client: Redis, digest: str, is_good: Callable[[bytes], bool]) -> bool:
    """Drop a chunk whose bytes are not good, checked and dropped as one step; whether it was dropped."""
    async with client.pipeline(transaction=True) as pipeline:
        await pipeline.watch(_key(digest))
        body = _bytes(await pipeline.get(_key(digest)))
        if body is None or is_good(body):
            return False
        pipeline.multi()  # type: ignore[no-untyped-call]
        pipeline.unlink(_key(digest))
        pipeline.zrem(RECORD_KEY, digest)
        try:
            await pipeline.execute()
        except WatchError:  # a good one was put in its place
            return False
    return True


async def release(client: Redis, digests: Sequence[str]) -> None:
    """Take entries out of the record and keep the bodies as copies."""
    await client.zrem(RECORD_KEY, *digests)


async def drop_copies(client: Redis, digests: Iterable[str]) -> None:
    """Drop bodies only."""
    if keys := [_key(digest) for digest in digests]:
        await client.unlink(*keys)


async def first_recorded(client: Redis, count: int) -> list[tuple[str, int]]:
    """Up to `count` digests of the record with their start indexes."""
    entries: Any = await client.zrange(RECORD_KEY, 0, count - 1, withscores=True)
    return [(member.decode(), int(score)) for member, score in entries]


async def scan_sizes(client: Redis, cursor: int) -> tuple[int, list[tuple[str, int]]]:
    """One step over all bodies: the next cursor (0 at the end), digests and lengths."""
    keys: Any
    cursor, keys = await client.scan(cursor, match=_CHUNK_PREFIX + "*", count=_SCAN_COUNT)
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.strlen(key)
    sizes = await pipeline.execute()
    names = [key.decode().removeprefix(_CHUNK_PREFIX) for key in keys]
    return int(cursor), [(name, int(size)) for name, size in zip(names, sizes, strict=True)]


async def count_recorded(client: Redis) -> tuple[int, int]:
    """Number of recorded chunks, and the memory that the server uses in bytes."""
    pipeline = client.pipeline(transaction=False)
    pipeline.zcard(RECORD_KEY)
    pipeline.info("memory")
    count, memory = await pipeline.execute()
    return int(count), int(memory["used_memory"])


def _bytes(value: bytes | str | None) -> bytes | None:
    """The client's types allow text, which it gives only when it is told to decode; ours is not."""
    return value.encode() if isinstance(value, str) else value


def _key(digest: str) -> str:
    return _CHUNK_PREFIX + digest
