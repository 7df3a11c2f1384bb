"""A store in which uploads by parts may be proposed; verified when the test is over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.consensus.metadata.verification import verify
from tests.unit.consensus.metadata.builders import Log


@pytest.fixture
def log(tmp_path) -> Iterator[Log]:
    made = Log(tmp_path / "metadata", entry_version=4)
    yield made
    made.store.close()
    verify(tmp_path / "metadata")
