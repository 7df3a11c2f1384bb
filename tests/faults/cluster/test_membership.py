"""Nodes come and go under load: a few of the random events of `tests.faults.membership`; 100 with `--repeat-full`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.membership import one_run

pytestmark = [pytest.mark.faults, pytest.mark.cluster, pytest.mark.timeout(3600)]


@pytest.mark.asyncio
async def test_r5_v5_random_membership_and_failures_lose_nothing_and_come_to_rest(
    tmp_path: Path, repetitions, seed
) -> None:
    """Every acknowledged file is there, every chunk on exactly its expected holders, and no other byte on any node."""
    print(await one_run(tmp_path, seed, repetitions(8, 100)))
