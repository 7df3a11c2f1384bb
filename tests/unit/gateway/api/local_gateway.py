"""A gateway over fake storage nodes and the real state machine, served over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from services.gateway.access.transport import TransportRules
from services.gateway.api.cache_control import NO_CACHE
from services.gateway.api.door import Door
from services.gateway.api.door_routes import PUBLIC, RouteTable
from services.gateway.api.requests import fields_of
from services.gateway.api.web_origins import origin_marks
from services.gateway.main import Gateway, assemble, build_app
from services.gateway.replicas.repair import MAX_REPAIR_TASKS
from services.gateway.semantics.raw_names import BUCKETS_PREFIX, FILES_PREFIX
from services.gateway.settings import GatewaySettings
from shared.background_tasks import BackgroundTasks
from shared.web.raw_paths import RawPaths
from shared.web.service_app import ServiceApp
from tests.unit.gateway.conftest import NODES, make_settings
from tests.unit.gateway.fakes import FakeClock, FakeNodes, LocalMetadata


class LocalGateway(Gateway):
    """Its other services are fakes in this process."""

    def __init__(self, settings: GatewaySettings, folder: Path) -> None:
        super().__init__(settings)
        self._path = folder / "metadata.sqlite"
        self.nodes = FakeNodes()
        self.is_upgraded = False
        """Whether every kind of entry may be proposed from the start."""
        self.under_way = 0
        """Requests that have not ended, whatever their clients have already got of them."""

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Serve over the fakes."""
        clock, metadata = FakeClock(), LocalMetadata(self._path)
        self.metadata = metadata
        await metadata.make_cluster(clock, *NODES)
        if self.is_upgraded:
            await metadata.upgrade(clock)
        async with BackgroundTasks() as tasks, BackgroundTasks(MAX_REPAIR_TASKS) as repair_tasks:
            self._services, self._watch, _ = assemble(
                self._settings, metadata, self.nodes, clock, tasks=tasks, repair_tasks=repair_tasks
            )
            await self._watch.check()
            yield


def make_app(folder: Path, *, has_fast_path: bool = True, **changes: object) -> tuple[ServiceApp, LocalGateway]:
    """A gateway's application; without the fast path its routes answer everything."""
    # Its clients are on this machine, and none of them shows a key.
    settings = make_settings(**{"anonymous": "write", **changes})
    folder.mkdir(exist_ok=True)
    gateway = LocalGateway(settings, folder)
    app = build_app(settings, gateway)
    if not has_fast_path:
        door = Door(
            app.answer,
            gateway=gateway,
            routes=RouteTable(PUBLIC),
            rules=TransportRules.of(settings),
            marks=lambda scope: [*origin_marks(settings.origin_rules(), fields_of(scope)), NO_CACHE],
        )
        app.front = RawPaths(door, decoded_prefixes=(FILES_PREFIX, BUCKETS_PREFIX))
    front = app.front
    assert front is not None

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        gateway.under_way += 1
        try:
            await front(scope, receive, send)
        finally:
            gateway.under_way -= 1

    app.front = watched
    return app, gateway
