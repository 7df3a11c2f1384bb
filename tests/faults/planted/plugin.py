"""A pytest plugin that plants one bug into every process of its service that a test starts, whoever starts it.

    TRIVET_PLANT=forget_votes python -m pytest -p tests.faults.planted.plugin tests/faults/disk/...

So the very tests that ship are asked whether they would notice.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any

from tests.faults.planted.bugs import BUGS

VARIABLE = "TRIVET_PLANT"
_LAUNCHER = "tests.faults.planted.launch"


def pytest_configure() -> None:
    """Change how this process starts others."""
    bug = BUGS[os.environ[VARIABLE]]  # noqa: TID251 tests have no settings
    original = subprocess.Popen.__init__

    def start(self: Any, args: Any, *rest: Any, **options: Any) -> None:
        if isinstance(args, list | tuple):
            args = planted([str(word) for word in args], bug.name, bug.service)
        original(self, args, *rest, **options)

    subprocess.Popen.__init__ = start  # type: ignore[method-assign]


def planted(command: list[str], name: str, service: str) -> list[str]:
    """The command with the bug in it, if it starts such a service."""
    for place, word in enumerate(command):
        if word.startswith("services.") and word.endswith(".main") and service in {"*", word.split(".")[1]}:
            if command[place - 2] == _LAUNCHER:
                return [*command[: place - 1], f"{command[place - 1]},{name}", *command[place:]]
            return [*command[:place], _LAUNCHER, name, *command[place:]]
    return command
