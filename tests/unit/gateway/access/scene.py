"""Gateways that share one state machine and one set of nodes, and identities with keys who ask them; no socket."""

from __future__ import annotations

import gc
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp

from services.gateway.access.sealing import Sealer
from services.gateway.access_log import AccessLog
from services.gateway.api.services import Services
from services.gateway.main import Gateway, assemble, build_app, build_s3_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.replicas.repair import MAX_REPAIR_TASKS
from services.gateway.settings import GatewaySettings
from shared.background_tasks import BackgroundTasks
from shared.contracts.access import Action, CreateIdentity, CreateKey, InitAccess, Scope, UpdateIdentity, UpdateKey
from shared.timekeeping.host_clock import SystemHostClock
from shared.web.service_app import ServiceApp
from tests.unit.gateway.conftest import NODES, SEALING_KEY, make_settings
from tests.unit.gateway.fakes import FakeClock, FakeNodes, LocalMetadata

REALM = "5e" * 16
LOOPBACK = "127.0.0.1"
_NO_APP = FastAPI()
"""What a gateway is given where it runs for no app of its own."""

Client = httpx.AsyncClient  # noqa: TID251 - in this process


@dataclass(frozen=True)
class Holder:
    """Of a key."""

    identity: str
    key: str
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}.{self.secret}"}


class SharedGateway(Gateway):
    """One of several in front of the same fakes."""

    metrics: GatewayMetrics

    def __init__(self, settings: GatewaySettings, scene: Scene) -> None:
        super().__init__(settings)
        self._scene = scene
        self.written: list[str] = []
        """What it wrote on standard output, once it has ended."""

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        settings = self._settings
        log = AccessLog(
            self.written.append,
            SystemHostClock(),
            boot_id="b" * 32,
            gateway_id=settings.node_id,
            writes=settings.audit_reads,
        )
        async with AsyncExitStack() as stack:
            stack.enter_context(log)
            tasks = await stack.enter_async_context(BackgroundTasks())
            repair_tasks = await stack.enter_async_context(BackgroundTasks(MAX_REPAIR_TASKS))
            self._services, self._watch, self.metrics = assemble(
                settings,
                self._scene.metadata,
                self._scene.nodes,
                self._scene.clock,
                tasks=tasks,
                repair_tasks=repair_tasks,
                access_log=log,
            )
            await self._watch.check()
            yield


class Stand(Gateway):
    """Where an app of `/v1` finds the gateway of its test. To build one takes longer than most tests, so it serves many."""

    _free: ClassVar[list[Stand]] = []

    def __init__(self, settings: GatewaySettings) -> None:
        super().__init__(settings)
        self._gateway: SharedGateway | None = None
        self.app = build_app(settings, self)
        self.app.state.is_started = True
        gc.freeze()  # tens of thousands of objects that stay until the end, and would be looked through again and again

    @classmethod
    @contextmanager
    def over(cls, gateway: SharedGateway, settings: GatewaySettings) -> Iterator[ServiceApp]:
        """An app that nobody else has meanwhile."""
        stand = next((each for each in cls._free if each._settings == settings), None)
        if stand is None:
            stand = cls(settings)
        else:
            cls._free.remove(stand)
        stand._gateway = gateway
        yield stand.app
        stand._gateway = None
        cls._free.append(stand)

    @property
    def gateway(self) -> SharedGateway:
        assert self._gateway is not None, "an app was asked after its test"
        return self._gateway

    @property
    def services(self) -> Services:
        return self.gateway.services

    def readiness(self) -> list[str]:
        return self.gateway.readiness()

    def degradations(self) -> list[str]:
        return self.gateway.degradations()


class Running:
    """A gateway and ways to ask it. `stack`: what ends with it."""

    def __init__(self, gateway: SharedGateway, settings: GatewaySettings, stack: ExitStack) -> None:
        self.gateway = gateway
        self.s3: ASGIApp = build_s3_app(settings, gateway)
        """As it comes; `tests.unit.gateway.s3` asks it."""
        self._settings = settings
        self._stack = stack

    @cached_property
    def app(self) -> ServiceApp:
        return self._stack.enter_context(Stand.over(self.gateway, self._settings))

    @cached_property
    def public(self) -> Client:
        return asking(self.app)

    @cached_property
    def operations(self) -> Client:
        assert self.app.operations is not None
        return asking(self.app.operations)


def asking(app: ASGIApp, *, address: str = LOOPBACK, base_url: str = "http://localhost") -> Client:
    """A client at `address`."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 1))
    return Client(transport=transport, base_url=base_url)


class Scene:
    """Invariant: `root` may do everything, by a key that is in force."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata = LocalMetadata(folder / "metadata.sqlite")
        self.nodes = FakeNodes()
        self.clock = FakeClock()
        self.sealer = Sealer([SEALING_KEY])
        self._identities = itertools.count(1)
        self._keys = itertools.count(1)
        self._slots: dict[str, int] = {}
        self.root: Holder

    async def open(self) -> None:
        await self.metadata.begin((type(self.clock), "scene"), self._begin)

    async def _begin(self) -> None:
        await self.metadata.make_cluster(self.clock, *NODES)
        await self.metadata.upgrade(self.clock)
        await self.metadata.propose(InitAccess(realm=REALM, stamp=self.clock.stamp()))
        self.root = await self.holder(is_root=True)

    async def holder(self, *scopes: Scope, is_root: bool = False, expires_ns: int | None = None) -> Holder:
        """A new identity and a key of its."""
        identity = f"{next(self._identities):064x}"
        await self.metadata.propose(
            CreateIdentity(identity=identity, name="x", is_root=is_root, scopes=list(scopes), stamp=self.clock.stamp())
        )
        return await self.another_key(identity, expires_ns=expires_ns)

    async def another_key(self, identity: str, *, expires_ns: int | None = None) -> Holder:
        number, slot = next(self._keys), self._slots.get(identity, 0)
        key, secret = f"TV{number:018d}", f"{number:040d}"
        self._slots[identity] = slot + 1
        await self.metadata.propose(
            CreateKey(
                key=key,
                identity=identity,
                slot=slot,
                secret=self.sealer.seal(REALM, key, slot, secret),
                expires_ns=expires_ns,
                stamp=self.clock.stamp(),
            )
        )
        return Holder(identity, key, secret)

    async def disable_key(self, holder: Holder) -> None:
        await self.metadata.propose(UpdateKey(key=holder.key, state="disabled", stamp=self.clock.stamp()))

    async def disable(self, holder: Holder) -> None:
        await self.metadata.propose(
            UpdateIdentity(identity=holder.identity, state="disabled", stamp=self.clock.stamp())
        )

    async def rescope(self, holder: Holder, *scopes: Scope) -> None:
        await self.metadata.propose(
            UpdateIdentity(identity=holder.identity, scopes=list(scopes), stamp=self.clock.stamp())
        )

    @asynccontextmanager
    async def gateway(self, **changes: object) -> AsyncIterator[Running]:
        """One more, which knows nothing yet."""
        settings = make_settings(**changes)
        gateway = SharedGateway(settings, self)
        async with gateway.running(_NO_APP):
            with ExitStack() as stack:
                yield Running(gateway, settings, stack)


def may(bucket: str, *actions: Action, prefix: str = "") -> Scope:
    return Scope(actions=list(actions), bucket=bucket, prefix=prefix)
