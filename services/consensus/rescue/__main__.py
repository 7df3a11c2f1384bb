"""Backup, restore and rescue of the metadata: `python -m services.consensus.rescue COMMAND`.

    backup --to FOLDER              from a running member (TRIVET_CONSENSUS_URLS, TRIVET_PEER_KEYS_FILE)
    renew ID                        keep the chunks of that backup for as long again
    end ID                          its chunks are copied: they need not be kept any more
    backup --to FOLDER --from DIR   from the data folder of a member that does not run
    check FOLDER                    whether a backup is whole, and one of this cluster (TRIVET_PEER_KEYS_FILE)
    restore --from FOLDER --to DIR  the data folder of the first member of a new cluster, from a backup
    inspect DIR...                  who of several stopped members has most, and what is certain
    new-cluster --to DIR DIR...     the same from what the survivors of a lost majority have

Backups are sealed with a key that operators alone have, and checked against it; each command has an option for when it is lost.
The last two but one make a cluster of a new id; its other members start with empty folders. Only the first three talk to anybody.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import Field, SecretStr, TypeAdapter, ValidationError

from services.consensus.metadata.copy import write_copy
from services.consensus.metadata.database import RowDamagedError, UnknownTablesError
from services.consensus.metadata.rows import State
from services.consensus.persistence.state_files import StateFiles
from services.consensus.rescue.backup_files import (
    METADATA_NAME,
    BackupDamagedError,
    BackupUnsealedError,
    Manifest,
    check_backup,
    complete_backup,
    prove,
)
from services.consensus.rescue.backup_pin import end, pinned, renew
from services.consensus.rescue.download import download_copy
from services.consensus.rescue.new_cluster import GENERATION_SHIFT, TargetRefusedError, check_target, make_folder
from services.consensus.rescue.survivors import (
    Survivor,
    SurvivorUnusableError,
    apply_rest,
    copied,
    inspect,
    what_may_be_missing,
)
from services.consensus.tools.initialise import parse_members
from shared.cluster_keys import KeyRing, PeerKeys, seals_of_0_2_0
from shared.consensus_calls.client import ConsensusClient
from shared.contracts.backups import LEASE_MAX_S, BackupId
from shared.contracts.cluster import ConsensusMember
from shared.disk.durable_files import sync_directory
from shared.errors import InvalidRequestError, LeaderUnavailableError, TrivetError, UpgradeUnfinishedError
from shared.peer_calls.http_client import PeerClient
from shared.private_process import make_process_private
from shared.settings import ConsensusList, PeerKeySettings, load_settings, read_secret, refuse_to_start

DEFAULT_KEEP_HOURS = 24
OWNER_MAX = 256
_HOUR_S = 3600
_KEEP_HOURS_MAX = LEASE_MAX_S // _HOUR_S
_BACKUP_ID: TypeAdapter[str] = TypeAdapter(BackupId)
_PINNED = (
    "the cluster keeps the chunks that it needs, as backup {id} since log index {index}, for {hours} h from now: copy them in "
    "that time. `renew {id}` lets it last as long again, `end {id}` ends it\n"
)
_NOT_PINNED = "NOT PINNED: {reason}. Chunks that it needs may be deleted before they are copied\n"
ResultT = TypeVar("ResultT")

ACCEPT_LOSS = "--i-know-that-acknowledged-files-may-be-lost"
ACCEPT_UNSEALED = "--i-know-that-this-backup-may-be-forged"


class SealSettings(PeerKeySettings):
    """By which a backup may be sealed.

    Attributes:
        cluster_secret: for backups of version 0.2.0 alone, which it sealed.
    """

    cluster_secret: SecretStr | None = None
    cluster_secret_file: Path | None = None


class BackupSettings(PeerKeySettings):
    """Whom to ask for a copy.

    Attributes:
        consensus_urls: the members.
    """

    consensus_urls: ConsensusList = Field(min_length=1)


def main() -> None:
    """Entry point."""
    make_process_private()
    arguments = _parser().parse_args()
    try:
        arguments.run(arguments)
    except (
        BackupDamagedError,
        SurvivorUnusableError,
        TargetRefusedError,
        RowDamagedError,
        UnknownTablesError,
        TrivetError,
        sqlite3.Error,
        OSError,
        ValueError,
    ) as error:
        refuse_to_start(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.consensus.rescue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    acts = parser.add_subparsers(dest="act", required=True)
    backup = acts.add_parser("backup", help="a copy of the metadata, with the list of chunks that it needs")
    backup.add_argument("--to", type=Path, required=True, help="a folder that does not exist yet")
    backup.add_argument("--from", dest="source", type=Path, help="the data folder of a stopped member")
    _add_lease(backup)
    backup.add_argument("--without-seal", action="store_true", help="with --from, when the keys are lost")
    backup.set_defaults(run=_backup)
    renewal = acts.add_parser("renew", help="keep the chunks of a backup for as long again")
    renewal.add_argument("backup_id", metavar="ID", type=_backup_id, help="as `backup` printed it")
    _add_lease(renewal)
    renewal.set_defaults(run=_renew)
    ending = acts.add_parser("end", help="the chunks of a backup need not be kept any more")
    ending.add_argument("backup_id", metavar="ID", type=_backup_id, help="as `backup` printed it")
    ending.set_defaults(run=_end)
    check = acts.add_parser("check", help="whether a backup is whole")
    check.add_argument("folder", type=Path)
    check.add_argument(ACCEPT_UNSEALED, dest="accepts_unsealed", action="store_true")
    check.set_defaults(run=_check)
    restore = acts.add_parser("restore", help="the first member of a new cluster, from a backup")
    restore.add_argument("--from", dest="source", type=Path, required=True, help="the folder of the backup")
    restore.add_argument(ACCEPT_UNSEALED, dest="accepts_unsealed", action="store_true")
    _add_target(restore)
    restore.set_defaults(run=_restore)
    survivors = acts.add_parser("inspect", help="what stopped members have")
    survivors.add_argument("folders", type=Path, nargs="+")
    survivors.set_defaults(run=_inspect)
    rescue = acts.add_parser("new-cluster", help="the first member of a new cluster, from what survived")
    rescue.add_argument(
        "folders", type=Path, nargs="+", help="the data folders of all survivors; the best one is taken"
    )
    _add_target(rescue)
    rescue.add_argument(ACCEPT_LOSS, dest="accepts_loss", action="store_true")
    rescue.set_defaults(run=_new_cluster)
    return parser


def _backup_id(text: str) -> str:
    try:
        return _BACKUP_ID.validate_python(text)
    except ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r} is no id of a backup") from None


def _keep_hours(text: str) -> int:
    hours = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if not 1 <= hours <= _KEEP_HOURS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours from 1 to {_KEEP_HOURS_MAX}")
    return hours


def _add_lease(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-hours",
        type=_keep_hours,
        default=DEFAULT_KEEP_HOURS,
        metavar="HOURS",
        help="so long the cluster keeps the chunks that the backup needs, unless that is renewed; 24 by default",
    )


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", type=Path, required=True, help="the new data folder; it must not exist, or be empty")
    parser.add_argument("--cluster-id", required=True, help="of the new cluster; never that of an old one")
    parser.add_argument(
        "--members",
        required=True,
        type=_members,
        help="the first voters, id=http://host:port=peer-host:peer-port,...; the new folder belongs to the first of them",
    )
    parser.add_argument(
        "--generation",
        type=int,
        help="of the new log's indexes, above that of every cluster that was made from this one before; one more by default",
    )


def _members(value: str) -> tuple[ConsensusMember, ...]:
    try:
        return tuple(parse_members(value))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


# --- backup -------------------------------------------------------------------------------------------------------


def _backup(arguments: argparse.Namespace) -> None:
    target: Path = arguments.to
    check_target(target)
    keys = None if arguments.without_seal and arguments.source is not None else _keys()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Made beside its name, in a folder of its own, and moved there whole: of two backups to one name the later one is refused.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as made:
        work = Path(made)
        folder = work / "backup"
        folder.mkdir(mode=0o700)
        if keys is not None and arguments.source is None:
            manifest, how_long = asyncio.run(_copy_from_cluster(folder, keys, arguments))
        else:
            with copied(arguments.source, work) as copy:
                inspect(arguments.source, copy)
                write_copy(StateFiles(copy).current, folder / METADATA_NAME)
            manifest, how_long = (
                complete_backup(folder, None if keys is None else keys.private()),
                _NOT_PINNED.format(reason="it comes from a folder"),
            )
        check_target(target)
        folder.rename(target)
        sync_directory(target.parent)
    _print_manifest(manifest)
    sys.stdout.write(how_long)


def _keys() -> PeerKeys:
    return load_settings(PeerKeySettings).read_peer_keys()


def read_seals() -> KeyRing:
    """By which a backup may be sealed: the operators' key, and what version 0.2.0 had, where it is given. Raises ValueError."""
    settings = load_settings(SealSettings)
    keys = settings.read_peer_keys().private().keys
    secret = read_secret(settings.cluster_secret, settings.cluster_secret_file, "TRIVET_CLUSTER_SECRET")
    return KeyRing(keys if secret is None else keys + seals_of_0_2_0(secret).keys)


def _checked(folder: Path, arguments: argparse.Namespace) -> Manifest:
    try:
        return check_backup(folder, None if arguments.accepts_unsealed else read_seals())
    except BackupUnsealedError as error:
        refuse_to_start(f"{error}. If you know where it comes from and want it all the same, add {ACCEPT_UNSEALED}")


async def _copy_from_cluster(folder: Path, keys: PeerKeys, arguments: argparse.Namespace) -> tuple[Manifest, str]:
    """The backup, from the first member that gives one, and for how long the cluster keeps the chunks that it needs."""
    settings = load_settings(BackupSettings)
    lease_s = arguments.keep_hours * _HOUR_S
    owner = f"rescue backup --to {arguments.to}"[:OWNER_MAX]
    async with (
        PeerClient(keys) as client,
        ConsensusClient(settings.consensus_urls, client) as log,
        AsyncExitStack() as stack,
    ):
        try:
            pin = await stack.enter_async_context(pinned(log, owner, lease_s))
        except (LeaderUnavailableError, UpgradeUnfinishedError, InvalidRequestError) as error:
            # A copy that nothing is kept for is better than none: there may never be a leader again.
            await download_copy(settings.consensus_urls, client, folder / METADATA_NAME, at_least=0)
            return complete_backup(folder, keys.private()), _NOT_PINNED.format(reason=error.message)
        await download_copy(settings.consensus_urls, client, folder / METADATA_NAME, at_least=pin.log_index)
        manifest = await asyncio.to_thread(complete_backup, folder, keys.private())
    return manifest, _PINNED.format(id=pin.backup_id, index=pin.log_index, hours=arguments.keep_hours)


def _renew(arguments: argparse.Namespace) -> None:
    pin = asyncio.run(_with_log(lambda log: renew(log, arguments.backup_id, arguments.keep_hours * _HOUR_S)))
    sys.stdout.write(_PINNED.format(id=pin.backup_id, index=pin.log_index, hours=arguments.keep_hours))


def _end(arguments: argparse.Namespace) -> None:
    was_pinned = asyncio.run(_with_log(lambda log: end(log, arguments.backup_id)))
    sys.stdout.write(
        f"backup {arguments.backup_id} has ended\n"
        if was_pinned
        else f"no backup {arguments.backup_id} is under way: it was ended before, or its time ran out\n"
    )


async def _with_log(act: Callable[[ConsensusClient], Awaitable[ResultT]]) -> ResultT:
    settings = load_settings(BackupSettings)
    async with PeerClient(_keys()) as client, ConsensusClient(settings.consensus_urls, client) as log:
        return await act(log)


def _check(arguments: argparse.Namespace) -> None:
    _print_manifest(_checked(arguments.folder, arguments))


def _print_manifest(manifest: Manifest) -> None:
    sys.stdout.write(
        f"backup of cluster {manifest.cluster_id} at log index {manifest.log_index}, last changed {manifest.as_of}: "
        f"{manifest.metadata.size_bytes} bytes of metadata; it needs {manifest.chunk_count} chunks of "
        f"{manifest.chunk_bytes} bytes\n"
    )


# --- a new cluster ------------------------------------------------------------------------------------------------


def _restore(arguments: argparse.Namespace) -> None:
    manifest = _checked(arguments.source, arguments)
    missing = [f"Everything that the old cluster did after log index {manifest.log_index} ({manifest.as_of})."]
    record: dict[str, object] = {
        "made_from": "a backup",
        "old_cluster_id": manifest.cluster_id,
        "old_log_index": manifest.log_index,
        "what_is_missing": missing,
    }
    with _unpacked(arguments.source, arguments.to) as tables:
        # Again, because it is this copy that is restored: the one that was checked may have been exchanged since.
        if prove(tables) != manifest.metadata:
            raise BackupDamagedError(f"{arguments.source} has changed while it was read")
        state = make_folder(
            tables,
            arguments.to,
            cluster_id=arguments.cluster_id,
            members=arguments.members,
            record=record,
            generation=arguments.generation,
        )
    _print_record(record, missing, state, arguments)


@contextmanager
def _unpacked(backup: Path, target: Path) -> Iterator[Path]:
    """The tables of a backup where opening them changes nothing of it; it may lie on a medium that takes no writes."""
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".restore-") as work:
        yield Path(shutil.copyfile(backup / METADATA_NAME, Path(work) / METADATA_NAME))


def _inspect(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as work:
        found = _inspect_all(arguments.folders, Path(work))
    _print_survivors(found)


def _new_cluster(arguments: argparse.Namespace) -> None:
    target: Path = arguments.to
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".rescue-") as work, ExitStack() as stack:
        found = _inspect_all(arguments.folders, Path(work))
        best = _print_survivors(found)
        missing = what_may_be_missing(best, found)
        if not arguments.accepts_loss:
            refuse_to_start(f"nothing was done. Read the above; to go on all the same, add {ACCEPT_LOSS}")
        copy = stack.enter_context(copied(best.folder, Path(work)))
        record: dict[str, object] = {
            "made_from": f"the data folder of {best.member_id}",
            "old_cluster_id": best.cluster_id,
            "old_log_index": best.last_index,
            "committed_for_certain": min(max(survivor.applied for survivor in found), best.last_index),
            "survivors": [
                {
                    "folder": str(survivor.folder),
                    "member_id": survivor.member_id,
                    "term": survivor.term,
                    "last_index": survivor.last_index,
                    "last_term": survivor.last_term,
                    "applied": survivor.applied,
                }
                for survivor in found
            ],
            "what_is_missing": missing,
        }
        state = make_folder(
            apply_rest(copy),
            target,
            cluster_id=arguments.cluster_id,
            members=arguments.members,
            record=record,
            above_term=max(survivor.term for survivor in found),
            generation=arguments.generation,
        )
    _print_record(record, missing, state, arguments)


def _inspect_all(folders: list[Path], work: Path) -> list[Survivor]:
    """All that can be used; the others are named, and stop nobody."""
    found = []
    for folder in folders:
        try:
            with copied(folder, work) as copy:
                found.append(inspect(folder, copy))
        except SurvivorUnusableError as error:
            sys.stdout.write(f"cannot be used: {error}\n")
    if not found:
        raise SurvivorUnusableError("none of the folders can be used")
    if len({survivor.cluster_id for survivor in found}) > 1:
        raise SurvivorUnusableError("the folders are of different clusters")
    return found


def _print_survivors(found: list[Survivor]) -> Survivor:
    best = max(found, key=lambda survivor: survivor.rank)
    for survivor in found:
        sys.stdout.write(
            f"{survivor.member_id}  cluster {survivor.cluster_id}  term {survivor.term}  log {survivor.first_index} to "
            f"{survivor.last_index} (term {survivor.last_term})  applied {survivor.applied}  "
            f"voters {', '.join(sorted(survivor.voters)) or 'none'}  {survivor.folder}"
            f"{'  <- best' if survivor is best else ''}\n"
        )
    for line in what_may_be_missing(best, found):
        sys.stdout.write(f"{line}\n")
    return best


def _print_record(
    record: Mapping[str, object], missing: Sequence[str], state: State, arguments: argparse.Namespace
) -> None:
    first, generation = arguments.members[0].id, state.last_applied >> GENERATION_SHIFT
    sys.stdout.write(
        f"made {arguments.to}, the data folder of {first} in the new cluster {arguments.cluster_id}, from "
        f"{record['made_from']}; its log begins after index {state.last_applied}, generation {generation}. "
        f"Start {first} with it, and the other members with empty folders.\n"
    )
    for line in missing:
        sys.stdout.write(f"MAY BE MISSING: {line}\n")


if __name__ == "__main__":
    main()
