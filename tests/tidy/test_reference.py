"""docs/settings.md, docs/metrics.md and docs/s3.md say what the code says; `make reference` writes them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from prometheus_client import CollectorRegistry
from pydantic_settings import BaseSettings

from services.storage.metrics import StorageMetrics
from shared.web.request_metrics import RequestMetrics, problem_counts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / ".ci" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings", "metrics", "s3"])
def test_the_reference_is_what_the_code_says(reference: ModuleType, name: str) -> None:
    """Whoever adds a setting, a metric or an operation runs `make reference` and commits what it wrote."""
    written = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert written == getattr(reference, f"{name}_reference")(), f"docs/{name}.md is old: run `make reference`"


def test_what_a_registry_shows_is_what_was_read(reference: ModuleType) -> None:
    """Names, kinds and meanings as prometheus_client has them, of those that can be made without a service."""
    registry = CollectorRegistry()
    StorageMetrics(registry)
    RequestMetrics(registry)
    problem_counts(registry)
    shown = {
        (
            f"{one.name}_total" if one.type == "counter" else one.name,
            one.type,
            f"{one.documentation.strip().rstrip('.')}.",
        )
        for one in registry.collect()
    }
    paths = ("services/storage/metrics.py", "shared/web/request_metrics.py")
    read = [family for path in paths for family in reference.families_of((ROOT / path).read_text(), path)]
    assert {(one.name, one.kind, one.meaning) for one in read} == shown


TABLE = """
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

ROWS = (("a", "First."), ("b", "Second."))

def collect(values):
    for (name, text), value in zip(ROWS, values, strict=True):
        yield CounterMetricFamily(f"x_{name}", text, value=value)
    yield of("c", "Third.")

def of(name, text):
    return GaugeMetricFamily(name, text, labels=["label"])
"""


def test_metrics_of_tables_and_helpers_are_read(reference: ModuleType) -> None:
    """The two shapes that collectors have beside plain calls."""
    found = [(one.name, one.kind, one.labels, one.meaning) for one in reference.families_of(TABLE, "here")]
    assert sorted(found) == [
        ("c", "gauge", ("label",), "Third."),
        ("x_a_total", "counter", (), "First."),
        ("x_b_total", "counter", (), "Second."),
    ]


@pytest.mark.parametrize(
    "call", ["Gauge(make_name(), 'Text.')", "Gauge('name', texts[0])", "[Gauge(name, 'Text.') for name in names()]"]
)
def test_a_metric_that_cannot_be_read_is_refused(reference: ModuleType, call: str) -> None:
    """Rather than missing in the reference."""
    with pytest.raises(reference.UndocumentedError):
        reference.families_of(f"from prometheus_client import Gauge\n{call}\n", "here")


def test_a_setting_without_a_meaning_is_refused(reference: ModuleType) -> None:
    """It is named, with the class whose docstring has to say it."""

    class StrangeSettings(BaseSettings):
        """Settings.

        Attributes:
            known_s: told.
        """

        known_s: int = 1
        unknown_s: int = 1

    with pytest.raises(reference.UndocumentedError, match=r"StrangeSettings.*unknown_s"):
        reference._settings_section("Strange", StrangeSettings, set())
