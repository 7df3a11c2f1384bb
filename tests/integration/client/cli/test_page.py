"""The examples of docs/cli.md do what the page says, in its order, against a real cluster."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from trivet.cli.exit_codes import ExitCode
from trivet.cli.lazy import Group
from trivet.cli.main import program

pytestmark = pytest.mark.cluster

PAGE = Path(__file__).parents[4] / "docs" / "cli.md"
FENCE = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_example_of_the_page_works(trivet, monkeypatch) -> None:
    """Shell blocks end well and print what the block after them shows."""
    monkeypatch.setenv("PATH", str(trivet.program.parent), prepend=":")
    printed = None
    for kind, text in FENCE.findall(PAGE.read_text(encoding="utf-8")):
        print(f"--- {kind}\n{text}")
        if kind == "text":
            assert printed == text
            continue
        command = ["bash", "-euo", "pipefail", "-c", text]
        outcome = subprocess.run(command, cwd=trivet.folder, capture_output=True, text=True, timeout=60, check=False)
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        assert "Traceback" not in outcome.stderr
        printed = outcome.stdout


def test_the_page_shows_every_command() -> None:
    """In an example, but for what needs a fourth node or another server, and what would end the page's own profile."""
    blocks = "\n".join(block for kind, block in FENCE.findall(PAGE.read_text(encoding="utf-8")) if kind == "sh")
    calls = re.sub(r"trivet --\S+ \S+ ", "trivet ", blocks)
    missing = [path for path in _paths(program, "trivet") if not re.search(rf"\b{path}\b", calls)]
    assert missing == ["trivet cluster drain", "trivet import", "trivet profile remove"]


def test_the_page_shows_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d+) \|", PAGE.read_text(encoding="utf-8").partition("## Exit codes")[2], re.MULTILINE)
    assert [int(row) for row in rows] == sorted(ExitCode)


def _paths(group: Group, path: str) -> list[str]:
    import click

    found = []
    context = click.Context(group)
    for name in sorted(group.list_commands(context)):
        command = group.get_command(context, name)
        below = f"{path} {name}"
        found += _paths(command, below) if isinstance(command, Group) else [below]
    return found


def test_the_help_imports_no_client_and_nothing_that_draws() -> None:
    """Else it would take longer than a person waits for a list of commands."""
    look = (
        "import sys\n"
        "from trivet.cli.main import run\n"
        "from trivet.cli.session import Session\n"
        "assert run(Session(), ['--help']) == 0\n"
        "print(sorted({'aiohttp', 'asyncio', 'httpx', 'msgspec', 'rich', 'blake3'} & set(sys.modules)), file=sys.stderr)\n"
    )
    environment = {"PYTHONPATH": str(PAGE.parents[1] / "client" / "src"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", look], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == "[]\n"
    assert "Running a store:" in done.stdout
