"""A state machine whose file turns out to be damaged while the member runs: it is marked, the process says so and ends.

docs/consensus.md, "The state machine is disposable". At the next start what is marked is set aside and made anew, from
the log or from a snapshot of the leader; until then this member serves nothing and does not campaign. Ending the process
is the one clean-up that forgets no answer that was made of damaged rows.

Damage is found when a row is read, by whoever reads it, and by `StateScrub`, which reads all of them from time to time.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from services.consensus.metadata.database import ConstraintViolatedError, RowDamagedError, UnknownTablesError
from services.consensus.metadata.store import MetadataStore
from services.consensus.metadata.tables import Tables
from services.consensus.metadata.verification import Scrub
from shared.background_tasks import BackgroundTasks, sleep_to_tick
from shared.disk.durable_files import replace_file, sync_directory
from shared.units import MIB

logger = structlog.get_logger(__name__)

MARK_NAME: Final = "metadata.damaged"
REBUILT_NAME: Final = "metadata.rebuilt"
"""Why the tables were made anew the last time."""

SCRUB_PAUSE_S: Final = 1.0
"""Between two pages of rows: a million files are read in four hours, for a thousandth of a processor. A row is checked whenever
it is read for anybody, so what the scrub finds is what nobody asks for."""

_CACHE_BYTES: Final = 2 * MIB


def is_damage(error: BaseException) -> bool:
    """Whether `error` says that the file is wrong, and not that it cannot be written just now."""
    return isinstance(error, RowDamagedError | UnknownTablesError | sqlite3.IntegrityError) or (
        # SQLITE_CORRUPT and SQLITE_NOTADB; want of room and failed reads are subclasses.
        type(error) is sqlite3.DatabaseError
    )


def mark_damaged(folder: Path, error: BaseException) -> bool:
    """Remember over the end of this process that the tables in `folder` must be made anew. Raises OSError.

    False, and nothing is marked, where they were made anew because of the same entry already: it is no disk that refuses it, and
    to make them anew once more would end in the same way.
    """
    reason = f"{error}\n".encode()
    if isinstance(error, ConstraintViolatedError) and _last_reason(folder) == reason:
        return False
    replace_file(folder / MARK_NAME, reason)
    return True


def _last_reason(folder: Path) -> bytes | None:
    try:
        return (folder / REBUILT_NAME).read_bytes()
    except FileNotFoundError:
        return None


def was_marked(folder: Path) -> bool:
    """Whether an earlier life, or an operator, found the tables damaged."""
    return (folder / MARK_NAME).exists()


def unmark(folder: Path) -> None:
    """They were set aside; why is remembered."""
    (folder / MARK_NAME).rename(folder / REBUILT_NAME)
    sync_directory(folder)


class StateScrub:
    """Reads every row again and again, a page at a time."""

    def __init__(self, store: MetadataStore, on_damage: Callable[[BaseException], None]) -> None:
        self._store = store
        self._on_damage = on_damage

    def start(self, tasks: BackgroundTasks) -> None:
        """Read again and again."""
        tasks.every("state scrub", SCRUB_PAUSE_S, self._step, first_after_s=0, on_ticks=True)

    async def _step(self) -> None:
        try:
            await self._pass_once()
        except (RowDamagedError, UnknownTablesError, sqlite3.Error) as error:
            if is_damage(error):
                self._on_damage(error)
            logger.warning("the scrub of the metadata was put off", reason=str(error))

    async def _pass_once(self) -> None:
        """All rows of the file that is in force; ends early when a snapshot takes its place."""
        path = self._store.path
        tables = await asyncio.to_thread(Tables.open, path, cache_bytes=_CACHE_BYTES)
        try:
            scrub = Scrub(tables)
            has_more = True
            while has_more and self._store.path == path:
                # Rests between pages: others need the disk and the processor more.
                await sleep_to_tick(SCRUB_PAUSE_S)
                has_more = await asyncio.to_thread(scrub.next_page) > 0
        finally:
            await asyncio.to_thread(tables.database.close)
