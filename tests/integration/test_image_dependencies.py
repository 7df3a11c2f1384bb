"""A service starts with nothing installed but what its image installs, and with no code but what its image copies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared.settings import EXIT_CONFIGURATION

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
MODULES = {
    "clock": ["services.clock.main"],
    "consensus": [
        "services.consensus.main",
        "services.consensus.tools.initialise",
        "services.consensus.tools.change_members",
        "services.consensus.rescue.__main__",
        "services.consensus.backup.__main__",
    ],
    "gateway": ["services.gateway.main"],
    "storage": ["services.storage.main", "services.storage.adopt"],
}


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    inherited = os.environ.items()  # noqa: TID251 handed on, without what would help the service
    environment = {name: value for name, value in inherited if not name.startswith(("TRIVET_", "PYTHON"))}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("service", MODULES)
def test_a_service_needs_no_more_than_its_image_has(service: str, tmp_path: Path) -> None:
    """Every module that a container runs can be imported, and the service asks for its settings."""
    app, python = tmp_path / "app", tmp_path / "venv" / "bin" / "python"
    for part in ("shared", f"services/{service}"):
        shutil.copytree(ROOT / part, app / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "services" / "__init__.py", app / "services" / "__init__.py")
    lock = app / "services" / service / "requirements.lock"
    for command in (
        [UV, "venv", "-q", "--python", sys.executable, tmp_path / "venv"],
        [UV, "pip", "install", "-q", "--python", python, "--no-deps", "--require-hashes", "-r", lock],
        *([python, "-c", f"import {module}"] for module in MODULES[service]),
    ):
        done = run(app, *command)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    started = run(app, python, "-m", f"services.{service}.main")
    assert started.returncode == EXIT_CONFIGURATION, started.stderr
    assert "TRIVET_NODE_ID" in started.stderr
