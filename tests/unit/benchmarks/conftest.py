"""Samples and results with figures that a test chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.cluster.samples import FloorSample, GroupMemory, IdleSample, Result, RowSample
from benchmarks.cluster.speed_gauge import REFERENCE_US

MakeSample = Callable[..., RowSample]


@pytest.fixture
def make_sample() -> MakeSample:
    """A good sample of `get-4k-x16` on this tree; keyword arguments replace fields."""

    def make(**fields: Any) -> RowSample:
        usual = {
            "tree": "this",
            "row": "get-4k-x16",
            "round": 1,
            "operations": 100,
            "duration_s": 2.0,
            "p50_ms": 10.0,
            "p99_ms": 30.0,
            "cpu_ms": {"gateway": 1.0, "storage": 0.5},
            "client_cpu_ms": 0.04,
            "other_cores": 0.01,
            "gauge_us": REFERENCE_US,
            "failed": 0,
            "first_failure": "",
            "is_leader_stable": True,
        }
        return RowSample(**{**usual, **fields})

    return make


@pytest.fixture
def make_result() -> Callable[..., Result]:
    """A result of the given samples; with the revision `base` when one of them is of that tree."""

    def make(rows: list[RowSample], **fields: Any) -> Result:
        trees = {sample.tree: f"revision-{sample.tree}" for sample in rows}
        usual = {
            "began_at": "2026-01-01 00:00 UTC",
            "machine": "a machine",
            "revisions": trees,
            "rounds": max(sample.round for sample in rows),
            "rows": rows,
            "floors": [FloorSample(floor="serve-4k-x16", round=1, operations=1000, duration_s=1.0, cpu_ms=0.1)],
            "idle": [
                IdleSample(tree=tree, duration_s=60.0, cores={"gateway": 0.01}, other_cores=0.0) for tree in trees
            ],
            "memory": [
                GroupMemory(tree=tree, group="gateway", processes=1, rss_mib=90.0, largest_peak_mib=95.0)
                for tree in trees
            ],
        }
        return Result(**{**usual, **fields})

    return make
