"""Reads the data folder of a member that does not run: how far its log goes, and what of it is certain (C-63).

It reads a copy of the folder. Opening the files in place would change them (SQLite folds its write-ahead file in, formats are
brought up to date), and they may be the last ones there are.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.consensus.metadata.database import RowDamagedError, UnknownTablesError
from services.consensus.metadata.entries import UnknownEntryError
from services.consensus.metadata.store import MetadataStore
from services.consensus.persistence.adapter import committed_entries
from services.consensus.persistence.hard_state import FileHardState
from services.consensus.persistence.log_store import SqliteLogStore
from services.consensus.persistence.state_files import StateFiles
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.ports import LogDamagedError, SnapshotMeta, StoredLog
from services.consensus.rescue.completeness import Placed, possible_configurations, voters_without_survivor
from shared.units import MIB

_READ_BYTES: Final = 4 * MIB
_READ_ENTRIES: Final = 256
_LEFT_OUT: Final = shutil.ignore_patterns("lock", "*.part", "damaged_metadata*", "backup_copy*", "metadata_copy*")


class SurvivorUnusableError(Exception):
    """This folder cannot be rescued from; says why. Never crosses the wire."""


@dataclass(frozen=True, slots=True)
class Survivor:
    """One member's folder.

    Attributes:
        applied: the last entry that its tables hold: committed for certain.
        last_index, last_term: of the last entry in its log: committed perhaps.
        term: the highest it has seen; others may have led in it.
        configurations: every one in its log, with its index, ascending; the first was in force where the log begins.
    """

    folder: Path
    member_id: str
    cluster_id: str
    term: int
    first_index: int
    last_index: int
    last_term: int
    applied: int
    configurations: tuple[Placed, ...]

    @property
    def rank(self) -> tuple[int, int, int]:
        """The greater, the more it has: as Raft compares logs when it votes (section 5.4.1)."""
        return self.last_term, self.last_index, self.applied

    @property
    def voters(self) -> frozenset[str]:
        """Those of the last configuration in its log, committed or not."""
        return self.configurations[-1][1].voters if self.configurations else frozenset()


@contextmanager
def copied(folder: Path, work: Path) -> Iterator[Path]:
    """A copy of a stopped member's folder in `work`, removed afterwards.

    Raises:
        SurvivorUnusableError: the member runs, or it is no member's folder.
    """
    if not (folder / "identity.json").is_file() or not (folder / "raft_log.sqlite").is_file():
        raise SurvivorUnusableError(f"{folder} is not the data folder of a consensus member")
    # For reading, and not made: the folder may lie on a medium that takes no writes.
    lock = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC) if (folder / "lock").exists() else None
    try:
        try:
            if lock is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SurvivorUnusableError(f"{folder} is in use: stop its member first") from error
        target = work / f"copy-of-{folder.name}"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target, ignore=_LEFT_OUT)
        try:
            yield target
        finally:
            shutil.rmtree(target, ignore_errors=True)
    finally:
        if lock is not None:
            os.close(lock)


def inspect(folder: Path, copy: Path) -> Survivor:
    """What is in a copied folder.

    Raises:
        SurvivorUnusableError: its files are damaged or do not fit together.
    """
    try:
        identity = json.loads((copy / "identity.json").read_bytes())
        log = SqliteLogStore(copy, must_exist=True)
        try:
            stored = log.load()
        finally:
            log.close()
        term = FileHardState(copy, must_exist=True).term
        files = StateFiles(copy)
        store = MetadataStore.open(files.current)
        try:
            state = store.summary()
        finally:
            store.close()
    except (LogDamagedError, RowDamagedError, UnknownTablesError, sqlite3.DatabaseError, OSError, ValueError) as error:
        raise SurvivorUnusableError(f"{folder}: {error}") from error
    if state.last_applied < stored.base.index:
        raise SurvivorUnusableError(
            f"{folder}: its tables end at {state.last_applied}, its log begins after {stored.base.index}: it was being rebuilt"
        )
    log_term = stored.terms[-1][1] if stored.terms else stored.base.term
    return Survivor(
        folder=folder,
        member_id=str(identity["node_id"]),
        cluster_id=str(identity["cluster_id"]),
        term=term,
        first_index=stored.base.index + 1,
        last_index=max(stored.last_index, state.last_applied),
        # A snapshot may be in force whose log was not cut yet.
        last_term=log_term if stored.last_index >= state.last_applied else state.last_term,
        applied=state.last_applied,
        configurations=_configurations(stored, files.installed),
    )


def _configurations(stored: StoredLog, snapshot: SnapshotMeta | None) -> tuple[Placed, ...]:
    """Of the log, and of the snapshot that the state began as, whose log may not have been replaced yet."""
    found = dict(stored.configurations)
    if snapshot is not None and snapshot.configuration_index:
        found[snapshot.configuration_index] = snapshot.configuration
    return tuple((index, Configuration.decode(payload)) for index, payload in sorted(found.items()))


def apply_rest(copy: Path) -> Path:
    """Apply what the log of a copied folder holds beyond its tables; returns the file of the tables.

    Raises:
        SurvivorUnusableError: an entry cannot be read or applied.
    """
    try:
        path = StateFiles(copy).current
        log, store = SqliteLogStore(copy, must_exist=True), MetadataStore.open(path)
        try:
            last_index = log.load().last_index
            while (first := store.last_applied + 1) <= last_index:
                upto = min(last_index, store.last_applied + _READ_ENTRIES)
                store.apply_batch(committed_entries(first, log.read(first, upto, max_bytes=_READ_BYTES)))
        finally:
            store.close()
            log.close()
    except (LogDamagedError, RowDamagedError, UnknownEntryError, sqlite3.DatabaseError, OSError) as error:
        raise SurvivorUnusableError(str(error)) from error
    return path


def what_may_be_missing(best: Survivor, survivors: list[Survivor]) -> list[str]:
    """In sentences, what is certain about a cluster that is made from `best`, given everybody who survived."""
    present = frozenset(survivor.member_id for survivor in survivors)
    certain = max(survivor.applied for survivor in survivors)
    lines = [f"Entries up to {min(certain, best.last_index)} were committed, and are here."]
    if best.last_index > certain:
        lines.append(
            f"Entries {certain + 1} to {best.last_index} are here and are kept; whether they were committed is not known. Other "
            "changes may have been acknowledged in their place, and those are lost."
        )
    possible = possible_configurations([(survivor.configurations, survivor.applied) for survivor in survivors])
    risk = voters_without_survivor(possible, present) if possible else frozenset()
    if risk is None:
        lines.append(
            "Nothing that was acknowledged is missing: whichever voters were in force, every majority of them includes a member "
            "that is here."
        )
    else:
        voters, lost = ", ".join(sorted(risk)) or "of the cluster", ", ".join(sorted(risk - present)) or "they"
        lines.append(
            f"Whether anything is missing cannot be known: the voters {voters} may have been in force, and {lost} alone can have "
            f"acknowledged entries after {best.last_index}. Those are gone."
        )
    return lines
