"""A consensus member that kills itself at a chosen step of the installation of a snapshot: `TRIVET_TEST_DIE_AT_STEP`.

Patched in from here; the shipped code has no such switch. A step is a call that changes the disk, counted from the moment the
last piece of a snapshot has come.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.consensus import main
from services.consensus.persistence.adapter import StateMachineAdapter
from services.consensus.persistence.log_store import SqliteLogStore

STEP = int(os.environ["TRIVET_TEST_DIE_AT_STEP"])  # noqa: TID251 a setting of the test, not of the service


class Steps:
    """Counts while an installation is under way."""

    def __init__(self) -> None:
        self.is_counting = False
        self.taken = 0

    def before(self, right: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.is_counting:
                if self.taken == STEP:
                    os.kill(os.getpid(), signal.SIGKILL)
                self.taken += 1
            return right(*arguments, **named)

        return call

    def during(self, right: Callable[..., Any], *, ends: bool) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.is_counting = True
            try:
                return right(*arguments, **named)
            finally:
                self.is_counting = not ends

        return call


def patch() -> None:
    steps = Steps()
    for name in ("pwrite", "writev", "fsync", "fdatasync", "rename", "unlink"):
        setattr(os, name, steps.before(getattr(os, name)))
    for name in ("rename", "unlink"):
        setattr(Path, name, steps.before(getattr(Path, name)))
    SqliteLogStore._write_start = steps.before(SqliteLogStore._write_start)
    StateMachineAdapter.install = steps.during(StateMachineAdapter.install, ends=False)
    SqliteLogStore.reset = steps.during(SqliteLogStore.reset, ends=True)


if __name__ == "__main__":
    patch()
    main.main()
