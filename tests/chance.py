"""The one source of chance of the tests, so that what fails can be run again: `pytest --seed=N path::test`.

It is seeded anew before each test (the fixture `seed`), and the seed is printed with a failure. Fixtures that outlive a test draw
from what the test before left. Only names that must differ from run to run, beside what an earlier run left, come from elsewhere.
"""

from __future__ import annotations

import random
from typing import Final

_source: Final = random.Random()


def start_from(seed: str | None) -> int:
    """Seed the source with `seed`, the value of `--seed`, or with a number of chance; gives what it was."""
    chosen = random.SystemRandom().randrange(1 << 32) if seed is None else int(seed)
    _source.seed(chosen)
    return chosen


def random_bytes(size_bytes: int) -> bytes:
    """Bytes that no other test has, unless it runs under the same `--seed`."""
    return _source.randbytes(size_bytes)


def draw_seed() -> int:
    """For what takes a seed of its own."""
    return _source.randrange(1 << 32)
