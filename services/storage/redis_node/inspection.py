"""May this Redis acknowledge writes? Only if it is ours, fsyncs every write, and never evicts (S-87).

An acknowledgement by a Redis without `appendfsync always`, or by one that evicts, would be a lie (docs/promises.md, P1).
The server is asked, never reconfigured: its settings belong to whoever starts it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from services.storage.redis_node.server_config import REQUIRED_SETTINGS, weakness

OWNER_KEY: Final = "trivet:owner"
ID_KEY: Final = "trivet:id"
_PATTERNS: Final = ("append*", "no-appendfsync*", "maxmemory*")
"""Not by name: servers before 7.0 take one per call."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found.

    Attributes:
        objection: why this Redis must not be used, or None.
        is_foreign: the objection is that it belongs to another node or cluster.
        is_unclaimed: nobody's name is in it: it is new, or was emptied since.
        limit_bytes: its maxmemory; 0 when it has none, None when it was not asked.
        redis_id: random, made when it was claimed; None in one that was claimed before there were ids.
        weakness: why it should be replaced by a newer version, though it is used.
        run_id: the server's own, another one after every start; None when it was not asked.
    """

    objection: str | None
    is_foreign: bool = False
    is_unclaimed: bool = False
    limit_bytes: int | None = None
    redis_id: str | None = None
    weakness: str | None = None
    run_id: str | None = None


async def inspect(client: Redis, owner: str) -> Inspection:
    """Inspect the server on behalf of `owner` (`<cluster>/<node>`). Raises RedisError, OSError."""
    pipeline = client.pipeline(transaction=False)
    for pattern in _PATTERNS:
        pipeline.config_get(pattern)
    pipeline.info("server")
    pipeline.mget(OWNER_KEY, ID_KEY)
    *parts, info, (holder, redis_id) = await pipeline.execute()
    settings: dict[Any, Any] = {name: value for part in parts for name, value in part.items()}
    for name, needed in REQUIRED_SETTINGS.items():
        found = _text(settings.get(name, "unknown"))
        if found != needed:
            return Inspection(f"its {name} is {found!r}, and an acknowledgement needs {needed!r}")
    if holder is not None and _text(holder) != owner:
        return Inspection(f"it belongs to {_text(holder)}, not to {owner}", is_foreign=True)
    return Inspection(
        None,
        is_unclaimed=holder is None,
        limit_bytes=int(_text(settings["maxmemory"])),
        redis_id=None if redis_id is None else _text(redis_id),
        weakness=weakness(info),
        run_id=None if (run_id := info.get("run_id")) is None else _text(run_id),
    )


async def claim(client: Redis, owner: str) -> str | None:
    """Write our name and an id into a server where they are missing; its id, or None when another node was faster.

    Raises RedisError, OSError.
    """
    await client.setnx(OWNER_KEY, owner)
    await client.setnx(ID_KEY, secrets.token_hex(16))
    holder, redis_id = await client.mget(OWNER_KEY, ID_KEY)
    return _text(redis_id) if _text(holder) == owner else None


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
