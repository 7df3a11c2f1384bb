"""The examples of docs/api.md do what the page says, in its order, against a real cluster."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
FENCE = re.compile(r"^```(sh|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_example_of_the_page_works(cluster, tmp_path, monkeypatch) -> None:
    """Shell blocks end well and print what the block after them shows; Python blocks hold what they assert."""
    monkeypatch.setenv("TRIVET", cluster.gateway_url)
    monkeypatch.setenv("OPERATIONS", cluster.operations_url("gateway-1"))
    monkeypatch.setenv("ROOT_KEY", str(cluster.layout.root_key))
    monkeypatch.setenv("KEY", str(cluster.layout.curl_config))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    names: dict[str, Any] = {}
    printed: str | None = None
    # Other pages have a bucket of that name in the same cluster, with files of their own.
    blocks = FENCE.findall(PAGE.read_text(encoding="utf-8").replace("photos", "photos-of-the-page"))
    assert {kind for kind, _ in blocks} == {"sh", "python", "text"}
    for kind, text in blocks:
        print(f"--- {kind}\n{text}")
        if kind == "text":
            assert printed == text
        elif kind == "python":
            # Later blocks go on where earlier ones stopped.
            exec(compile(text, PAGE.name, "exec"), names)
        else:
            command = ["bash", "-euo", "pipefail", "-c", text]
            outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
            assert outcome.returncode == 0, outcome.stderr
            printed = outcome.stdout
    names["trivet"].close()
