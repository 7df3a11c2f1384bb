"""`services.storage.callers`: every route and every item of a batch is for those who need it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.storage.api import build_router
from services.storage.callers import ROUTE_CALLERS, check_items
from services.storage.verify_api import build_verify_router
from shared.contracts.chunk_batches import GetItem, HasItem, PutItem
from shared.errors import ForbiddenError
from shared.roles import Role
from tests.callers import routes_of

DIGEST = bytes(32)
NOTHING = cast("Any", SimpleNamespace(put=None, get=None))


def test_every_route_says_who_may_call_it() -> None:
    """And nothing is in the table that there is not."""
    routes = routes_of(build_router(NOTHING, list)) | routes_of(build_verify_router(NOTHING))
    assert routes == set(ROUTE_CALLERS.table)


@pytest.mark.parametrize(
    ("method", "path", "roles"),
    [
        ("PUT", "/v1/chunks/abc", {Role.GATEWAY, Role.OPERATOR}),
        ("GET", "/v1/chunks/abc", {Role.GATEWAY, Role.STORAGE, Role.OPERATOR}),
        ("DELETE", "/v1/chunks/abc", {Role.OPERATOR}),
        ("POST", "/v1/chunks/confirm", {Role.STORAGE}),
    ],
)
def test_gateways_and_operators_write_and_nobody_else_does(method: str, path: str, roles: set[Role]) -> None:
    """Each role, one after the other."""
    for role in set(Role):
        if role in roles:
            ROUTE_CALLERS.check(role, method, path)
        else:
            with pytest.raises(ForbiddenError):
                ROUTE_CALLERS.check(role, method, path)


def test_a_node_reads_in_a_batch_and_does_not_write() -> None:
    """What the single call refuses, no batch lets through."""
    reads = [GetItem(DIGEST), HasItem(DIGEST)]
    check_items(Role.GATEWAY, [*reads, PutItem(DIGEST, 1, 1)])
    check_items(Role.STORAGE, reads)
    with pytest.raises(ForbiddenError):
        check_items(Role.STORAGE, [*reads, PutItem(DIGEST, 1, 1)])
