"""Backups of everything, metadata and chunks: `python -m services.consensus.backup COMMAND TARGET`.

    create TARGET                of the running cluster; copies what TARGET lacks, and goes on where another run was killed
    list TARGET                  its snapshots, oldest first
    check TARGET                 whether a snapshot is whole, sealed, and has all of its chunks (--read: every byte of them)
    fetch TARGET --to FOLDER     the metadata of a snapshot, for `python -m services.consensus.rescue restore`
    restore TARGET               its chunks, into the running cluster that was made from it; the nodes prove them at the end
    prune TARGET --keep N        all snapshots but the newest N, and the chunks that only they need

TARGET is a folder, or s3://bucket/prefix with --s3-endpoint, --s3-key and --s3-region. `create` and `restore` talk to the cluster
(TRIVET_CONSENSUS_URLS, TRIVET_PEER_KEYS_FILE); `check` and `restore` need the operators' keys for the seal.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from services.consensus.backup.cluster import ClusterChunks
from services.consensus.backup.copying import CopyPace, check_chunks, copy_chunks
from services.consensus.backup.pruning import prune
from services.consensus.backup.restoring import restore_chunks
from services.consensus.backup.run_metrics import write_metrics
from services.consensus.backup.runs import CREATE, PRUNE, OtherRunError, running
from services.consensus.backup.snapshots import fetch, publish, snapshots
from services.consensus.backup.targets import BucketAccess, Target, open_target
from services.consensus.rescue.__main__ import BackupSettings
from services.consensus.rescue.backup_files import (
    METADATA_NAME,
    BackupDamagedError,
    Manifest,
    check_backup,
    complete_backup,
)
from services.consensus.rescue.backup_pin import end, pinned
from services.consensus.rescue.download import download_copy
from services.consensus.rescue.new_cluster import TargetRefusedError, check_target
from shared.cluster_keys import PeerKeys
from shared.consensus_calls.client import ConsensusClient
from shared.errors import TrivetError
from shared.peer_calls.http_client import PeerClient
from shared.private_process import make_process_private
from shared.settings import PeerKeySettings, load_settings, refuse_to_start
from shared.units import MIB

LEASE_S: Final = 3600
"""Of the pin, which is renewed while chunks are copied: so long a backup that was killed keeps chunks for nobody."""

NAMED_MAX: Final = 20
"""Chunks that are named one by one when something is wrong with many."""


class FullBackupSettings(BackupSettings):
    """Whom to ask, and how many replicas a chunk is to have.

    Attributes:
        replica_count: of every chunk; the same as the gateways'.
    """

    replica_count: int = 3


def main() -> None:
    """Entry point."""
    make_process_private()
    arguments = _parser().parse_args()
    try:
        target = open_target(arguments.target, _access(arguments))
        asyncio.run(arguments.run(target, arguments))
    except* (BackupDamagedError, OtherRunError, TargetRefusedError, TrivetError, OSError, ValueError) as group:
        refuse_to_start("; ".join(dict.fromkeys(str(error) or type(error).__name__ for error in _leaves(group))))


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    parts = [_leaves(part) if isinstance(part, BaseExceptionGroup) else [part] for part in group.exceptions]
    return [leaf for part in parts for leaf in part]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.consensus.backup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    acts = parser.add_subparsers(dest="act", required=True)
    for name, run in (
        ("create", _create),
        ("list", _list),
        ("check", _check),
        ("fetch", _fetch),
        ("restore", _restore),
        ("prune", _prune),
    ):
        act = acts.add_parser(name)
        act.set_defaults(run=run)
        act.add_argument("target", help="a folder, or s3://bucket/prefix")
        act.add_argument("--s3-endpoint", metavar="URL")
        act.add_argument("--s3-key", type=Path, metavar="FILE", help="an access key id and its secret, ID.SECRET")
        act.add_argument("--s3-region", default="us-east-1")
        act.add_argument("--parallel", type=int, default=16, help="chunks at a time")
        if name in {"check", "fetch", "restore"}:
            act.add_argument("--snapshot", metavar="NAME", help="as `list` shows it; the newest by default")
    acts.choices["create"].add_argument(
        "--mib-per-s", type=float, default=0.0, help="copy no faster; 0: as fast as it goes"
    )
    acts.choices["create"].add_argument(
        "--metrics",
        type=Path,
        metavar="FILE",
        help="write when it was complete, for the textfile collector of Prometheus",
    )
    acts.choices["check"].add_argument("--read", action="store_true", help="read every chunk and compare its digest")
    acts.choices["fetch"].add_argument("--to", type=Path, required=True, help="a folder that does not exist yet")
    acts.choices["prune"].add_argument("--keep", type=int, required=True, metavar="N", help="the newest; at least 1")
    return parser


def _access(arguments: argparse.Namespace) -> BucketAccess | None:
    if arguments.s3_endpoint is None or arguments.s3_key is None:
        return None
    return BucketAccess(arguments.s3_endpoint, arguments.s3_key, arguments.s3_region)


@asynccontextmanager
async def _cluster() -> AsyncIterator[tuple[FullBackupSettings, PeerKeys, PeerClient, ConsensusClient]]:
    settings = load_settings(FullBackupSettings)
    keys = settings.read_peer_keys()
    async with PeerClient(keys) as client, ConsensusClient(settings.consensus_urls, client) as log:
        yield settings, keys, client, log


async def _create(target: Target, arguments: argparse.Namespace) -> None:
    began_s = time.monotonic()
    pace = CopyPace(int(arguments.mib_per_s * MIB))
    with tempfile.TemporaryDirectory(prefix="trivet-backup-") as work:
        folder = Path(work)
        async with running(target, CREATE) as run, _cluster() as (settings, keys, client, log):
            async with pinned(log, f"backup to {arguments.target}"[:256], LEASE_S) as pin:
                await download_copy(settings.consensus_urls, client, folder / METADATA_NAME, at_least=pin.log_index)
                manifest = await asyncio.to_thread(complete_backup, folder, keys.private())
                chunks = ClusterChunks(log, client, settings.replica_count)
                copied = await copy_chunks(folder, chunks, target, parallel=arguments.parallel, pace=pace)
                _say(
                    f"copied {copied.chunks} chunks of {copied.size_bytes} bytes; "
                    f"{copied.present_before} were there from before"
                )
                if copied.unreadable:
                    _refuse("no snapshot was made: no node gives", copied.unreadable)
            # The lease was held to the end, or leaving the block would have said so: nothing was deleted meanwhile.
            run.check()
            name = await publish(target, folder, manifest)
            await end(log, pin.backup_id)
    if arguments.metrics is not None:
        write_metrics(arguments.metrics, manifest, copied, time.monotonic() - began_s)
    _say(f"snapshot {name}: {_summary(manifest)}")


async def _list(target: Target, arguments: argparse.Namespace) -> None:  # noqa: ARG001 all commands take them
    for name in await snapshots(target):
        _say(name)


async def _check(target: Target, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="trivet-backup-") as work:
        name, manifest = await _fetch_checked(target, arguments.snapshot, Path(work))
        bad = await check_chunks(Path(work), target, parallel=arguments.parallel, reads=arguments.read)
    if bad:
        _refuse(f"snapshot {name} is not whole:", dict.fromkeys(bad, "missing, or not what its name says"))
    _say(f"snapshot {name} is whole: {_summary(manifest)}")


async def _fetch(target: Target, arguments: argparse.Namespace) -> None:
    check_target(arguments.to)
    arguments.to.mkdir(parents=True, mode=0o700, exist_ok=True)
    _say(f"fetched snapshot {await fetch(target, arguments.snapshot, arguments.to)}")


async def _restore(target: Target, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="trivet-restore-") as work:
        name, _ = await _fetch_checked(target, arguments.snapshot, Path(work))
        async with _cluster() as (settings, _, client, log):
            chunks = ClusterChunks(log, client, settings.replica_count)
            restored = await restore_chunks(Path(work), target, chunks, parallel=arguments.parallel)
    _say(f"put {restored.replicas} replicas of the {restored.chunks} chunks of snapshot {name}")
    if restored.unproved:
        _refuse("not everything was restored:", restored.unproved)
    _say("every chunk was read and found whole by every node that is to hold it")


async def _prune(target: Target, arguments: argparse.Namespace) -> None:
    if arguments.keep < 1:
        raise ValueError("--keep is at least 1: to remove everything, remove the target")
    async with running(target, PRUNE) as run:
        removed = await prune(target, keep=arguments.keep, check=run.check)
    _say(f"removed {removed.snapshots} snapshots and {removed.chunks} chunks of {removed.size_bytes} bytes")


async def _fetch_checked(target: Target, snapshot: str | None, folder: Path) -> tuple[str, Manifest]:
    """Bring a snapshot here, proved by its seal. Raises BackupDamagedError."""
    name = await fetch(target, snapshot, folder)
    keys = load_settings(PeerKeySettings).read_peer_keys()
    return name, await asyncio.to_thread(check_backup, folder, keys.private())


def _summary(manifest: Manifest) -> str:
    return (
        f"cluster {manifest.cluster_id} at log index {manifest.log_index}, last changed {manifest.as_of}; "
        f"{manifest.chunk_count} chunks of {manifest.chunk_bytes} bytes"
    )


def _refuse(what: str, chunks: dict[str, str]) -> None:
    named = "; ".join(f"{digest} ({reason})" for digest, reason in list(chunks.items())[:NAMED_MAX])
    more = f"; and {len(chunks) - NAMED_MAX} more" if len(chunks) > NAMED_MAX else ""
    raise BackupDamagedError(f"{what} {named}{more}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
