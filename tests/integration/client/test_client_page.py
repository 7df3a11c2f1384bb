"""The examples of docs/client.md and of docstrings do what they say, in their order, against a real cluster."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

import trivet

pytestmark = pytest.mark.cluster

PAGE = Path(__file__).parents[3] / "docs" / "client.md"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"^( *)Example:\n((?:\1 +.*\n|\n)+)", re.MULTILINE)


@pytest.fixture(autouse=True)
def _environment(cluster, tmp_path, monkeypatch) -> None:
    """As after `make run`, in a folder of the test's own."""
    monkeypatch.setenv("TRIVET_URL", cluster.gateway_url)
    monkeypatch.setenv("TRIVET_OPERATIONS_URL", cluster.operations_url("gateway-1"))
    monkeypatch.setenv("TRIVET_KEY", str(cluster.layout.root_key))
    monkeypatch.setenv("TRIVET_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)


def test_every_example_of_the_page_works(capsys) -> None:
    """Blocks hold what they assert; later ones go on where earlier ones stopped."""
    names: dict[str, Any] = {}
    blocks = FENCE.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) >= 8
    try:
        for text in blocks:
            exec(compile(text, PAGE.name, "exec"), names)
        assert capsys.readouterr().out.splitlines()[-1] == "20000000"
    finally:
        names["store"].close()


@pytest.mark.parametrize("kind", [trivet.Client, trivet.AsyncClient], ids=lambda kind: kind.__name__)
async def test_examples_in_docstrings_work(kind) -> None:
    """Those of the classes that people meet first."""
    (found,) = EXAMPLE.findall(inspect.getdoc(kind) + "\n")
    text = textwrap.dedent(found[1])
    body = textwrap.indent(text, "    ")
    names: dict[str, Any] = {"trivet": trivet}
    # What stands in a class may await; what does not is run the same way.
    exec(compile(f"async def example():\n{body}\n    return data\n", kind.__name__, "exec"), names)
    assert await names["example"]() == b"Hello"


def test_the_example_of_the_package_works() -> None:
    """What `help(trivet)` begins with."""
    lines = (trivet.__doc__ or "").splitlines()
    text = textwrap.dedent("\n".join(line for line in lines if line.startswith("    ")))
    exec(compile(text, "trivet", "exec"), {})
    with trivet.Client() as store:
        assert store.get("default", "hello.txt") == b"Hello"
