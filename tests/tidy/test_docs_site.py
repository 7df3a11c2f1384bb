"""Pages and links of the site that `make docs` builds; tests/integration builds it."""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ".md"
SCRIPT = ROOT / ".ci" / "docs_site.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages_of(nav: Any) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from pages_of(below)


def test_every_page_is_in_the_navigation(script: ModuleType) -> None:
    """And nothing else is."""
    nav = set(pages_of(tomllib.loads((ROOT / "docs" / "zensical.toml").read_text())["project"]["nav"]))
    pages = {path for path in script.places() if path.endswith(PAGE)}
    assert (pages - nav, nav - pages) == (set(), set()), "`nav` of docs/zensical.toml names each page once"


def test_links_lead_to_pages_of_the_site_or_are_text(script: ModuleType) -> None:
    """Code is no page, and what stands in a fence is no link."""
    place_of = {"README.md": f"start{PAGE}", "docs/api.md": "api.md", "docs/decisions/gateway.md": "gateway.md"}
    text = (
        "[api](../api.md#lists) [start](../../README.md) [code](../../shared/units.py) [on](#here) [x](https://x.org)\n"
    )
    fence = "```mermaid\n[a](b)\n```\n"
    assert script.page("docs/decisions/gateway.md", text + fence, place_of) == (
        f"[api](api.md#lists) [start](start{PAGE}) code [on](#here) [x](https://x.org)\n```text\n[a](b)\n```\n"
    )
    with pytest.raises(ValueError, match=r"links to gone/"):
        script.page("README.md", "[gone](gone/)", place_of)
