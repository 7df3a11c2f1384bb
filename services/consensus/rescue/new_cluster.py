"""Makes the data folder of the first member of a new cluster out of tables: for a restored backup and for a lost majority (C-62).

The folder appears under its name in one step, complete; a crash before leaves only the unfinished one beside it.

The old cluster may have given out log indexes that these tables know nothing of, for as long as the backup is old. If the new one
counted on from here, the same index would mean two things: a client could take its old version for the new one. So bits 40 to 52
of an index are a generation, which every new cluster raises, and lists of before cannot be continued. Its log is empty and starts
with that position; members are added with empty folders and get everything as a snapshot.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

from services.consensus.metadata.copy import write_copy
from services.consensus.metadata.database import RowDamagedError
from services.consensus.metadata.rows import State
from services.consensus.metadata.tables import READER_CACHE_BYTES, Tables
from services.consensus.metadata.verification import verify
from services.consensus.peering.disk_identities import DiskIdentities
from services.consensus.persistence.hard_state import FileHardState
from services.consensus.persistence.log_store import SqliteLogStore
from services.consensus.persistence.state_files import FIRST_NAME
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.decide import LogPosition
from shared.contracts.cluster import ConsensusMember
from shared.disk.data_folder import claim_data_dir, lock_data_dir
from shared.disk.durable_files import replace_file, sync_directory, sync_file

GENERATION_SHIFT: Final = 40
"""A generation has room for 2^40 entries: four years of 8,000 a second."""
GENERATION_MAX: Final = (1 << 13) - 1
"""An index stays below 2^53, up to where numbers in JSON are exact."""
EPOCH_GAP: Final = 1_000_000
"""Between the last epoch of the node map that is known and the first of the new cluster; an operator makes each of them."""

RECORD_NAME: Final = "rescue.json"
_UNFINISHED: Final = ".unfinished"


class TargetRefusedError(Exception):
    """The new folder cannot be made there. Never crosses the wire."""


def check_target(target: Path) -> None:
    """Nothing is ever written over what is there, nor through a link to elsewhere. Raises TargetRefusedError."""
    if target.is_symlink():
        raise TargetRefusedError(f"{target} is a symbolic link: name the folder itself")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise TargetRefusedError(f"{target} is not empty: name a folder that does not exist yet")


def make_folder(
    tables: Path,
    target: Path,
    *,
    cluster_id: str,
    members: tuple[ConsensusMember, ...],
    record: dict[str, object],
    above_term: int = 0,
    generation: int | None = None,
) -> State:
    """The folder of `members[0]`, with the state of `tables`, in the cluster `cluster_id`; durable on return.

    Its term is above `above_term`, and its indexes have `generation`: one above that of the tables, unless a higher one is
    given. `record` is kept in it, with what was made of it, for whoever asks later where this
    cluster comes from.

    Raises:
        TargetRefusedError: there is something at `target`, the cluster would not be a new one, or the generation is used up.
        RowDamagedError, UnknownTablesError: the tables are not what they should be, before or after the change.
        OSError, sqlite3.Error: it could not be written.
    """
    check_target(target)
    work = _unfinished_folder(target)
    claimed = claim_data_dir(work, cluster_id, members[0].id)
    try:
        write_copy(tables, work / FIRST_NAME)
        state = _begin_anew(work / FIRST_NAME, cluster_id, above_term, generation)
        if verify(work / FIRST_NAME) != state:
            raise RowDamagedError("the new tables are not what was written")
        sync_file(work / FIRST_NAME)
        position = LogPosition(term=state.last_term, index=state.last_applied)
        FileHardState(work).update({"term": position.term})
        log = SqliteLogStore(work)
        try:
            log.reset(position, (position.index, Configuration(cluster_id, members).encode()))
        finally:
            log.close()
        # Last of all: a folder with an id must have log, term and vote.
        DiskIdentities(work)
        made = record | {"cluster_id": cluster_id, "first_log_index": position.index + 1, "term": position.term}
        replace_file(work / RECORD_NAME, json.dumps(made, indent=1).encode())
        sync_directory(work)
    finally:
        os.close(claimed.lock_fd)
    if target.exists():
        target.rmdir()
    work.rename(target)
    sync_directory(target.parent)
    return state


def _unfinished_folder(target: Path) -> Path:
    """A new folder beside `target`; what an earlier try left there is removed, unless that one is still at work."""
    work = target.with_name(target.name + _UNFINISHED)
    if work.is_symlink():
        raise TargetRefusedError(f"{work} is a symbolic link: remove it")
    if work.exists():
        lock_fd = lock_data_dir(work).lock_fd
        shutil.rmtree(work)
        os.close(lock_fd)
    work.mkdir(mode=0o700)
    return work


def first_index(last_known: int, generation: int | None = None) -> int:
    """Where the log of a new cluster begins that is made from a state at `last_known`.

    Raises:
        TargetRefusedError: that generation is not above the old one, or above the last there is.
    """
    old = last_known >> GENERATION_SHIFT
    new = old + 1 if generation is None else generation
    if not old < new <= GENERATION_MAX:
        raise TargetRefusedError(f"the generation must be from {old + 1} to {GENERATION_MAX}, and not {new}")
    return new << GENERATION_SHIFT


def _begin_anew(path: Path, cluster_id: str, above_term: int, generation: int | None) -> State:
    """Another cluster, in a generation of its own; what its members said of themselves is nobody's any more."""
    tables = Tables.open(path, cache_bytes=READER_CACHE_BYTES)
    database = tables.database
    try:
        with database.transaction(write=True):
            before = tables.read_state()
            if before.cluster_id in {None, cluster_id}:
                raise TargetRefusedError(f"a new cluster needs a new id: {cluster_id} is that of the old one")
            database.content_sum = before.content_sum
            for member_id in tables.members():
                tables.set_member(member_id, None)
            index = first_index(before.last_applied, generation)
            state = replace(
                before,
                cluster_id=cluster_id,
                last_applied=index,
                last_term=max(before.last_term, above_term) + 1,
                epoch=before.epoch + EPOCH_GAP,
                horizon=index,
                content_sum=database.signed_sum(),
            )
            tables.write_state(state)
        # One file that stands alone, as a copy does: it is moved with its folder.
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        database.close()
    return state
