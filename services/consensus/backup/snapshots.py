"""The snapshots of a target, and the chunks that each needs, in order of their digests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from services.consensus.backup.targets import Target
from services.consensus.rescue.backup_files import (
    CHUNKS_NAME,
    MANIFEST_NAME,
    METADATA_NAME,
    BackupDamagedError,
    Manifest,
)

SNAPSHOTS: Final = "snapshots/"
CHUNKS: Final = "chunks/"
GROUP_DIGITS: Final = 2
"""Of a digest in hex: chunks are listed and copied in 256 groups, so that no list of all of them is in memory."""

_INDEX_DIGITS: Final = 20


@dataclass(frozen=True, slots=True)
class ListedChunk:
    """A line of the list."""

    digest: str
    size_bytes: int

    @property
    def name(self) -> str:
        """In a target."""
        return f"{CHUNKS}{self.digest[:GROUP_DIGITS]}/{self.digest}"


def name_of(manifest: Manifest) -> str:
    """Names sort by log index, which grows also from one cluster to the next that was restored from it."""
    return f"{manifest.log_index:0{_INDEX_DIGITS}d}-{manifest.cluster_id}"


async def publish(target: Target, folder: Path, manifest: Manifest) -> str:
    """Store a complete backup of the metadata, its manifest last; the name of the snapshot."""
    name = name_of(manifest)
    for file in (METADATA_NAME, CHUNKS_NAME, MANIFEST_NAME):
        await target.put_file(f"{SNAPSHOTS}{name}/{file}", folder / file)
    return name


async def snapshots(target: Target) -> list[str]:
    """The whole ones, oldest first."""
    found = await target.names(SNAPSHOTS)
    return sorted(name.split("/")[1] for name in found if name.endswith(f"/{MANIFEST_NAME}"))


async def fetch(target: Target, name: str | None, folder: Path) -> str:
    """Bring the files of one snapshot, by default the newest, into an existing folder; its name. Nothing is checked.

    Raises:
        BackupDamagedError: there is none, or none of that name.
    """
    known = await snapshots(target)
    chosen = name or (known[-1] if known else None)
    if chosen is None or chosen not in known:
        raise BackupDamagedError("there is no such snapshot" if known else "there is no snapshot here")
    for file in (METADATA_NAME, CHUNKS_NAME, MANIFEST_NAME):
        await target.get_file(f"{SNAPSHOTS}{chosen}/{file}", folder / file)
    return chosen


def chunks_of(folder: Path) -> Iterator[list[ListedChunk]]:
    """What a snapshot in `folder` needs, a group of digests that begin alike at a time."""
    with (folder / CHUNKS_NAME).open(encoding="ascii") as lines:
        every = (ListedChunk(digest, int(size)) for digest, size in (line.split() for line in lines))
        for _, group in groupby(every, key=lambda chunk: chunk.digest[:GROUP_DIGITS]):
            yield list(group)


async def present(target: Target, group: list[ListedChunk]) -> dict[str, int]:
    """Names and sizes of the chunks of that group in `target`, those of others among them."""
    return await target.names(f"{CHUNKS}{group[0].digest[:GROUP_DIGITS]}/")
