"""The examples of docs/fsspec.md do what the page says, in its order."""

from __future__ import annotations

import re
from typing import Any

import pytest

from local_cluster.settings import PROJECT_ROOT

pytestmark = pytest.mark.cluster

PAGE = PROJECT_ROOT / "docs" / "fsspec.md"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_example_of_the_page_works(storage_options, monkeypatch) -> None:
    """Later blocks go on where earlier ones stopped."""
    monkeypatch.setenv("TRIVET_URL", storage_options["endpoint_url"])
    monkeypatch.setenv("TRIVET_KEY", storage_options["key"])
    names: dict[str, Any] = {}
    blocks = FENCE.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) > 10
    for block in blocks:
        print(block)
        exec(compile(block, PAGE.name, "exec"), names)
