"""The descriptions in docs/openapi/ are those of the running services."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.cluster

FOLDER = Path(__file__).parents[2] / "docs" / "openapi"


@pytest.mark.parametrize("service", ["gateway", "storage", "consensus", "clock"])
def test_the_file_is_what_the_service_says(cluster, service) -> None:
    """A surface changes together with its file: `make openapi` writes it."""
    served = httpx.get(f"{cluster.url(f'{service}-1')}/openapi.json", trust_env=False, timeout=30).json()
    assert json.loads((FOLDER / f"{service}.json").read_text(encoding="utf-8")) == served, "run `make openapi`"


def test_the_file_of_the_operations_listener_is_what_it_says(cluster) -> None:
    """Cluster changes stand there and nowhere else."""
    served = httpx.get(f"{cluster.operations_url('gateway-1')}/openapi.json", trust_env=False, timeout=30).json()
    assert json.loads((FOLDER / "gateway-operations.json").read_text(encoding="utf-8")) == served, "run `make openapi`"
    assert "/v1/cluster/nodes" in served["paths"]


def test_there_is_no_file_of_a_service_that_does_not_exist() -> None:
    """Nor is one missing."""
    assert {path.name for path in FOLDER.iterdir()} == {
        f"{name}.json" for name in ("gateway", "gateway-operations", "storage", "consensus", "clock")
    }
