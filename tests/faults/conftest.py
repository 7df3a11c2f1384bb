"""What fault tests share: disks that are taken away again, a printed seed, and how often a fault is repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.tools.mounts import Mounts
from tests.faults.tools.needs import require


@pytest.fixture
def mounts(tmp_path) -> Iterator[Mounts]:
    """Loop disks and memory file systems; everything is unmounted at the end, after a failure too.

    Behind `tmp_path`, so before it at the end: clusters that are ended then have there who their processes are.
    """
    require("loop disks", "tmpfs")
    with Mounts() as made:
        yield made


@pytest.fixture
def repetitions(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """`repetitions(few, all_of_them)`: few in every run, all with `--repeat-full`."""
    is_full = bool(request.config.getoption("--repeat-full"))
    return lambda few, all_of_them: all_of_them if is_full else few
