"""Repairs in the background: bounded, and never in the way of uploads."""

from __future__ import annotations

import pytest
from blake3 import blake3

from services.gateway.replicas.confirmations import Confirmations
from services.gateway.replicas.health import NodeHealth
from services.gateway.replicas.reader import ReplicaReader
from services.gateway.replicas.repair import MAX_QUEUED_REPAIRS, MAX_REPAIR_TASKS, ReadRepair, Repair
from shared.background_tasks import BackgroundTasks
from shared.byte_budget import ByteBudget
from shared.units import MIB
from tests.unit.gateway.fakes import FakeNodes, node_map
from tests.waiting import wait_until

pytestmark = pytest.mark.virtual_time


async def test_many_repairs_asked_for_in_one_turn_are_all_done_by_two_workers() -> None:
    """A HEAD of a large file finds a thousand missing replicas before any worker takes its first step."""
    nodes, nodes_known = FakeNodes(), node_map("a", "b", "c")
    async with BackgroundTasks() as tasks, BackgroundTasks(MAX_REPAIR_TASKS) as repair_tasks:
        health = NodeHealth(nodes, tasks, reconnect_base_s=1000, reconnect_limit_s=1000)
        reader = ReplicaReader(nodes, health, Confirmations(max_age_s=60), timeout_s=1)
        repair = ReadRepair(nodes, reader, ByteBudget(MIB), repair_tasks, replica_count=3, timeout_s=1)
        for number in range(MAX_QUEUED_REPAIRS):
            data = number.to_bytes(8)
            digest = blake3(data).hexdigest()
            nodes.of("b")[digest] = nodes.of("c")[digest] = data
            repair.ask(Repair(digest, len(data), nodes_known.nodes[0], nodes_known, start_index=1))
        assert len(repair_tasks) == 2
        await wait_until(lambda: repair.statistics()["repaired"] == MAX_QUEUED_REPAIRS, "all repaired", 20)
        assert nodes.most_under_way <= 2
        assert nodes.of("a") == nodes.of("b")


async def test_repairs_go_on_after_the_workers_have_ended() -> None:
    """Workers end when the queue is empty; the next repair starts one again."""
    nodes, nodes_known = FakeNodes(), node_map("a", "b")
    async with BackgroundTasks() as tasks, BackgroundTasks(MAX_REPAIR_TASKS) as repair_tasks:
        health = NodeHealth(nodes, tasks, reconnect_base_s=1000, reconnect_limit_s=1000)
        reader = ReplicaReader(nodes, health, Confirmations(max_age_s=60), timeout_s=1)
        repair = ReadRepair(nodes, reader, ByteBudget(MIB), repair_tasks, replica_count=2, timeout_s=1)
        for number in range(5):
            data = number.to_bytes(8)
            digest = blake3(data).hexdigest()
            nodes.of("b")[digest] = data
            repair.ask(Repair(digest, len(data), nodes_known.nodes[0], nodes_known, start_index=1))
            await wait_until(lambda: len(repair_tasks) == 0, "workers ended")
            assert digest in nodes.of("a")
