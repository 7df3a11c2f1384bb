"""Who may call which route of a storage node: gateways write, other nodes read and compare, operators look and restore.

No service deletes a chunk by a call: nodes delete what the log condemned.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from shared.contracts.chunk_batches import BATCH_PATH, BatchItem, PutItem
from shared.errors import ForbiddenError
from shared.roles import Role
from shared.web.route_callers import RouteCallers

_WRITERS: Final = frozenset({Role.GATEWAY})
_READERS: Final = frozenset({Role.GATEWAY, Role.STORAGE, Role.OPERATOR})
_NODES: Final = frozenset({Role.STORAGE})
_VERIFIERS: Final = frozenset({Role.GATEWAY, Role.OPERATOR})
_LOOKERS: Final = frozenset({Role.OPERATOR})

ROUTE_CALLERS: Final = RouteCallers(
    {
        # Operators put chunks back from a backup: the name says what the bytes have to be.
        ("PUT", "/v1/chunks/{}"): _WRITERS | _LOOKERS,
        ("GET", "/v1/chunks/{}"): _READERS,
        ("HEAD", "/v1/chunks/{}"): _READERS,
        ("DELETE", "/v1/chunks/{}"): _LOOKERS,
        ("POST", BATCH_PATH): _WRITERS | _NODES,
        ("POST", "/v1/chunks/has"): _VERIFIERS,
        ("POST", "/v1/chunks/confirm"): _NODES,
        ("GET", "/v1/chunks"): _LOOKERS,
        ("GET", "/v1/partitions"): _LOOKERS,
        ("GET", "/v1/partitions/{}"): _LOOKERS,
        ("GET", "/v1/status"): _LOOKERS,
        ("POST", "/v1/verify"): _VERIFIERS,
        ("GET", "/v1/verify"): _VERIFIERS,
        ("DELETE", "/v1/verify"): _VERIFIERS,
    }
)


def check_items(caller: Role, items: Iterable[BatchItem]) -> None:
    """Let a batch pass when `caller` may do each of its items alone. Raises ForbiddenError."""
    if caller not in _WRITERS and any(isinstance(item, PutItem) for item in items):
        raise ForbiddenError(f"A {caller} may not store chunks.")
