"""Asks processes whether they can serve: /readyz of a service's operations listener, PING of a Redis."""

from __future__ import annotations

from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from local_cluster.plan import Kind, ProcessSpec
from services.storage.redis_node.server_config import USERNAME
from shared.errors import NotReadyError, PeerUnreachableError, TrivetError
from shared.peer_calls.http_client import PeerClient

PROBE_TIMEOUT_S: Final = 1.0


async def why_not_ready(client: PeerClient, spec: ProcessSpec, redis_password: str | None) -> str | None:
    """None when the process can serve, else the reason in a few words. Takes at most about `PROBE_TIMEOUT_S`."""
    if spec.kind is Kind.REDIS:
        return await _why_redis_is_not_ready(spec, redis_password)
    try:
        await client.request(spec.operations_peer, "GET", "/readyz", timeout_s=PROBE_TIMEOUT_S, is_public=True)
    except PeerUnreachableError:
        return "does not answer yet"
    except NotReadyError as error:
        return error.message or "not ready"
    except TrivetError as error:
        return f"answers with an error: {error.message}"
    return None


async def _why_redis_is_not_ready(spec: ProcessSpec, password: str | None) -> str | None:
    client = Redis.from_url(
        spec.url,
        username=USERNAME,
        password=password,
        socket_timeout=PROBE_TIMEOUT_S,
        socket_connect_timeout=PROBE_TIMEOUT_S,
    )
    try:
        await client.ping()
    except RedisError as error:
        return str(error) or type(error).__name__
    finally:
        await client.aclose()
    return None
