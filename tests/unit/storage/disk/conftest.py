"""A disk tier on a real folder."""

from __future__ import annotations

import pytest

from tests.unit.storage.disk.tiers import disk_in


@pytest.fixture
async def disk(tmp_path):
    async with disk_in(tmp_path) as tier:
        yield tier
