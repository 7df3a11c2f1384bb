"""Who may call which route of a clock service."""

from __future__ import annotations

from typing import Final

from shared.roles import Role
from shared.timekeeping.time_client import TIME_PATH
from shared.web.route_callers import RouteCallers

_EVERYBODY: Final = frozenset({Role.GATEWAY, Role.STORAGE, Role.CONSENSUS, Role.OPERATOR})

ROUTE_CALLERS: Final = RouteCallers({("GET", TIME_PATH): _EVERYBODY, ("GET", "/v1/hlc"): _EVERYBODY})
