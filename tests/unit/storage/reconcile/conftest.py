"""Nodes over one log, closed at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.storage.reconcile.world import Log, Node


class World:
    """A log and its nodes."""

    def __init__(self, folder: Path) -> None:
        self.log = Log()
        self.nodes: dict[str, Node] = {}
        self._folder = folder

    async def add(self, name: str, *, replica_count: int = 3) -> Node:
        """An active node, opened."""
        self.log.set_node(name)
        node = Node(name, self.log, self._folder, self.nodes, replica_count=replica_count)
        await node.open()
        return node

    async def add_all(self, count: int, *, replica_count: int = 3) -> list[Node]:
        """n1, n2, ... Every one has read the node map of all."""
        nodes = [await self.add(f"n{number + 1}", replica_count=replica_count) for number in range(count)]
        for node in nodes:
            await node.follower.follow()
        return nodes


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    for node in made.nodes.values():
        await node.close()
