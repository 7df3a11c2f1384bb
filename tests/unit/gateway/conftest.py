"""A gateway without its network: the real parts over fake storage nodes and the real state machine."""

from __future__ import annotations

import asyncio
import atexit
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pytest
from fastapi.dependencies import models as fastapi_models

from services.gateway.access import context, transport
from services.gateway.access.key_table import KeyTable
from services.gateway.access.principal import ITSELF, Principal
from services.gateway.api.services import Services
from services.gateway.main import assemble
from services.gateway.metrics import GatewayMetrics
from services.gateway.replicas.repair import MAX_REPAIR_TASKS
from services.gateway.settings import GatewaySettings
from shared.background_tasks import BackgroundTasks
from shared.cluster_keys import key_file
from shared.contracts.access import ANONYMOUS
from shared.peer_address import PeerAddress
from shared.roles import Role
from shared.units import KIB, MIB
from tests.simulation.virtual_loop import VirtualLoop
from tests.unit.gateway.fakes import FakeClock, FakeNodes, LocalMetadata
from tests.waiting import wait_until

CHUNK_SIZE_BYTES = 4 * KIB
NODES = ("storage-1", "storage-2", "storage-3")
SEALING_KEY = "k" * 64
START_S = 1000.0
"""Of virtual time; no machine's monotonic clock is at zero."""


@cache
def sealing_key_file() -> Path:
    """Of all gateways of this process."""
    descriptor, name = tempfile.mkstemp(prefix="trivet-sealing-key-")
    atexit.register(os.unlink, name)
    with os.fdopen(descriptor, "w") as file:
        file.write(SEALING_KEY)
    return Path(name)


def make_settings(**changes: object) -> GatewaySettings:
    """Made once where nothing is changed: the search for every field in the environment takes milliseconds."""
    return _made(changes) if changes else _plain_settings()


@cache
def _plain_settings() -> GatewaySettings:
    return _made({})


def _made(changes: Mapping[str, object]) -> GatewaySettings:
    facts: dict[str, object] = {
        "node_id": "gateway-1",
        "cluster_id": "test-cluster",
        "peer_keys": key_file("s" * 32, Role.GATEWAY),
        "consensus_urls": [PeerAddress("consensus-1", "http://127.0.0.1:1", Role.CONSENSUS)],
        "sealing_key_file": sealing_key_file(),
        "chunk_size_bytes": CHUNK_SIZE_BYTES,
        "max_inflight_bytes": 8 * MIB,
        "max_concurrent_requests": 16,
        "admission_wait_s": 0.2,
        "budget_wait_s": 0.5,
        "chunk_cache_bytes": 0,  # most tests are about what the nodes are asked
        "reconnect_base_s": 0.05,
        "reconnect_limit_s": 0.2,
    }
    return GatewaySettings.model_validate({**facts, **changes})


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop of a test marked `virtual_time` jumps to the next timer: however slow the machine, nothing takes time by itself.

    For what runs in this one loop, without threads and sockets.
    """
    if item.get_closest_marker("virtual_time") is not None:
        return {"virtual": partial(VirtualLoop, START_S)}
    return {"real": asyncio.new_event_loop}


@pytest.fixture(autouse=True)
def virtual_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The monotonic clock of a test marked so is that of its loop."""
    if request.node.get_closest_marker("virtual_time") is None:
        return
    real = time.monotonic

    def now_s() -> float:
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return real()

    monkeypatch.setattr(time, "monotonic", now_s)
    # It took the clock when it was imported.
    monkeypatch.setitem(KeyTable.__init__.__kwdefaults__, "monotonic_s", now_s)


@pytest.fixture(autouse=True)
def forgotten_routes() -> Iterator[None]:
    """FastAPI remembers 4,096 routes, and so the last 64 applications of tests, which every full collection looks through."""
    yield
    for name in ("_is_gen_callable_cached", "_is_async_gen_callable_cached", "_is_coroutine_callable_cached"):
        getattr(fastapi_models, name).cache_clear()


@pytest.fixture(autouse=True)
def asked_by_trivet_itself(request: pytest.FixtureRequest) -> Iterator[None]:
    """No door stands before most of what is tested here, so nobody else is named; those in `access/` and `s3/` begin with nobody.

    And where a door stands, a client of this machine without a credential may do everything, if it may do anything.
    """
    if not {"access", "s3"}.isdisjoint(request.path.parent.parts):
        yield
        return
    # Of its own: a test may undo what it has changed itself.
    with pytest.MonkeyPatch.context() as patch:
        itself = context.AccessContext(ITSELF)
        patch.setattr(context, "access_context", ContextVar("for tests", default=itself))
        patch.setattr(transport, "WRITER", Principal(ANONYMOUS, ANONYMOUS, is_root=True))
        yield


@dataclass
class World:
    """Everything a test may look at or break."""

    settings: GatewaySettings
    nodes: FakeNodes
    metadata: LocalMetadata
    clock: FakeClock
    services: Services
    metrics: GatewayMetrics
    tasks: BackgroundTasks

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        samples = [sample for family in self.metrics.collect() for sample in family.samples if sample.name == name]
        assert len(samples) == 1, name
        return samples[0].value

    async def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until `condition` holds."""
        await wait_until(condition, what, within_s=20.0)


@pytest.fixture
async def make_world(tmp_path: Path) -> AsyncIterator[Callable[..., object]]:
    async with BackgroundTasks() as tasks, BackgroundTasks(MAX_REPAIR_TASKS) as repair_tasks:

        async def make(*node_ids: str, **changes: object) -> World:
            settings, nodes, clock = make_settings(**changes), FakeNodes(), FakeClock()
            metadata = LocalMetadata(tmp_path / "metadata.sqlite")
            await metadata.make_cluster(clock, *(node_ids or NODES))
            services, _, metrics = assemble(settings, metadata, nodes, clock, tasks=tasks, repair_tasks=repair_tasks)
            return World(settings, nodes, metadata, clock, services, metrics, tasks)

        yield make


@pytest.fixture
async def world(make_world) -> World:
    return await make_world()
