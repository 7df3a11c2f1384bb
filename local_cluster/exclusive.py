"""One launcher at a time per folder: two that start the same missing process would fight over its port."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TextIO

from local_cluster.errors import LocalClusterError

WAIT_S: Final = 60.0
_POLL_S: Final = 0.1


@asynccontextmanager
async def exclusive(lock_file: Path) -> AsyncIterator[None]:
    """Hold the lock of a cluster's folder. The kernel drops it with the process, so it is never stale.

    Raises:
        LocalClusterError: another launcher held it for `WAIT_S`.
    """
    with _open(lock_file) as file:
        try:
            async with asyncio.timeout(WAIT_S):
                while not _try_lock(file.fileno()):  # noqa: ASYNC110 - another process holds it, no event tells when it ends
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise LocalClusterError(
                f"Another launcher has been busy with {lock_file.parent.parent} for {WAIT_S:.0f} s."
            ) from error
        yield


def _open(lock_file: Path) -> TextIO:
    lock_file.touch(0o600)
    return lock_file.open("w")


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
