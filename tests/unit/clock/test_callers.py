"""`services.clock.callers`: every route stands in the table."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from services.clock.api import create_router
from services.clock.callers import ROUTE_CALLERS
from tests.callers import routes_of


def test_every_route_says_who_may_call_it() -> None:
    """And nothing is in the table that there is not."""
    assert routes_of(create_router(cast("Any", SimpleNamespace()))) == set(ROUTE_CALLERS.table)
