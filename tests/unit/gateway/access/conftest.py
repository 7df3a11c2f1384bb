"""Gateways with keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.gateway.access.scene import Running, Scene


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    """A cluster with a root key."""
    scene = Scene(tmp_path)
    await scene.open()
    return scene


@pytest.fixture
async def here(scene: Scene) -> AsyncIterator[Running]:
    """A gateway."""
    async with scene.gateway() as running:
        yield running


@pytest.fixture
async def there(scene: Scene) -> AsyncIterator[Running]:
    """Another one."""
    async with scene.gateway() as running:
        yield running
