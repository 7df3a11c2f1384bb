"""Stores in a fresh folder, closed afterwards."""

from collections.abc import Iterator

import pytest

from tests.unit.consensus.metadata.builders import Log


@pytest.fixture
def log(tmp_path) -> Iterator[Log]:
    made = Log(tmp_path / "metadata.sqlite")
    yield made
    made.store.close()
