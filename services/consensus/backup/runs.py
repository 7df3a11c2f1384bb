"""Keeps `prune` and backups to the same target apart, on whichever machines they run.

Each run first leaves a mark below `runs/`, then looks for those of others: of two that begin at once at least one sees the other.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from services.consensus.backup.targets import Target
from shared.background_tasks import BackgroundTasks

RUNS: Final = "runs/"
VALID_S: Final = 1800
"""How long a mark counts: so long a run that was killed keeps others away."""
RENEWED_S: Final = 300

CREATE: Final = "create"
PRUNE: Final = "prune"


def _host_clock_s() -> float:
    """Of this machine, as the cluster that is backed up may be unable to tell the time."""
    return datetime.now(UTC).timestamp()


class OtherRunError(Exception):
    """Another run forbids this one, or this one was away for so long that another may have begun."""


class Run:
    """The mark of this run. Clocks of the machines that share a target agree within some minutes."""

    def __init__(self, target: Target, act: str, now_s: Callable[[], float]) -> None:
        self._target = target
        self._now_s = now_s
        self._valid_until_s = now_s() + VALID_S
        self.name = f"{RUNS}{act}-{secrets.token_hex(8)}"

    async def mark(self) -> None:
        """Leave the mark, or make it younger. Raises OtherRunError, what the target raises."""
        self.check()
        until_s = self._now_s() + VALID_S
        await self._target.put(self.name, f"{until_s:.0f} {socket.gethostname()} {os.getpid()}\n".encode())
        self._valid_until_s = until_s

    def check(self) -> None:
        """Raises OtherRunError: the mark became too old, as on a machine that slept."""
        if self._now_s() > self._valid_until_s:
            raise OtherRunError(f"this run stood still for more than {VALID_S // 60} minutes: run it again")

    async def refuse_beside(self, acts: tuple[str, ...]) -> None:
        """Look for others, and remove marks that are too old. Raises OtherRunError."""
        for name in await self._target.names(RUNS):
            act = name.removeprefix(RUNS).partition("-")[0]
            if name == self.name or act not in acts:
                continue
            try:
                until_s, host, process = (await self._target.get(name)).decode().split()
            except FileNotFoundError:
                continue
            if float(until_s) >= self._now_s():
                raise OtherRunError(
                    f"`{act}` to the same target runs on {host} as process {process}; "
                    f"if it was killed, its mark {name} counts for up to {VALID_S // 60} minutes"
                )
            await self._target.delete([name])


@asynccontextmanager
async def running(target: Target, act: str, *, now_s: Callable[[], float] = _host_clock_s) -> AsyncIterator[Run]:
    """One run of CREATE or PRUNE. Raises OtherRunError before anything is done."""
    run = Run(target, act, now_s)
    await run.mark()
    try:
        await run.refuse_beside((CREATE, PRUNE) if act == PRUNE else (PRUNE,))
        async with BackgroundTasks() as tasks:
            tasks.every("mark of a backup run", RENEWED_S, run.mark)
            yield run
    finally:
        await target.delete([run.name])
