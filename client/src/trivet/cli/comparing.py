"""What `sync` has to do: two lists of names, each in the order of their bytes, walked side by side.

Neither list is ever held as a whole. Whether two files of one name are the same is decided by `Judge`, from what is known:

    sizes differ                                  they differ
    the store has the digest of the whole file    the file here is read and compared with it
    it has none (the file was sent in parts)      by the time of the last change that went with it; --checksum reads both
    the key may not read what is in the store     the file here has not changed since it was stored there
    both are in the store                         by their etags, which name the content
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from trivet.cli.addresses import Remote
from trivet.cli.local import LocalFile
from trivet.cli.transfers import parse_mtime_ns

if TYPE_CHECKING:
    from trivet import AsyncClient
    from trivet.models import ListedFile

_AT_ONCE_BYTES: Final = 1 << 18
"""A file of so many bytes is read in the loop: handing it to a thread would take longer."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of the store below the folder that is compared; `name` is its key without that folder."""

    place: Remote
    name: str
    row: ListedFile

    @property
    def size_bytes(self) -> int:
        """Of its bytes."""
        return self.row.size_bytes

    @property
    def mtime_ns(self) -> int:
        """When it was changed last, where it came from; else when it was stored."""
        known = parse_mtime_ns(self.row.user_metadata)
        return int(self.row.modified.timestamp()) * 10**9 if known is None else known


Entry = LocalFile | RemoteFile


@dataclass(frozen=True, slots=True)
class Pair:
    """One name, at the source, at the target, or at both."""

    name: str
    source: Entry | None
    target: Entry | None


async def side_by_side(source: AsyncIterator[Entry], target: AsyncIterator[Entry]) -> AsyncIterator[Pair]:
    """All names of both, ascending. Both have to ascend."""
    ours, theirs = await anext(source, None), await anext(target, None)
    while ours or theirs:
        if theirs is None or (ours is not None and ours.name < theirs.name):
            assert ours is not None
            yield Pair(ours.name, ours, None)
            ours = await anext(source, None)
        elif ours is None or theirs.name < ours.name:
            yield Pair(theirs.name, None, theirs)
            theirs = await anext(target, None)
        else:
            yield Pair(ours.name, ours, theirs)
            ours, theirs = await anext(source, None), await anext(target, None)


class Judge:
    """Whether the two files of a pair have the same bytes.

    Attributes:
        has_details: rows of the store say the digest and the metadata of files, where these have any.
    """

    def __init__(self, client: AsyncClient, *, reads_all: bool) -> None:
        self._client = client
        self._reads_all = reads_all
        self.has_details = True

    async def are_equal(self, source: Entry, target: Entry) -> bool:
        """See the top of the module. Raises OSError: the file here cannot be read."""
        if source.size_bytes != target.size_bytes:
            return False
        if isinstance(source, RemoteFile) and isinstance(target, RemoteFile):
            return source.row.etag == target.row.etag or (
                source.row.digest is not None and source.row.digest == target.row.digest
            )
        here, there = (source, target) if isinstance(source, LocalFile) else (target, source)
        assert isinstance(here, LocalFile)
        assert isinstance(there, RemoteFile)
        if there.row.digest is not None:
            return await local_digest(here.path, here.size_bytes) == there.row.digest
        if self._reads_all:
            return await local_digest(here.path, here.size_bytes) == await self._remote_digest(there.place)
        if not self.has_details:
            return here.mtime_ns <= there.mtime_ns
        return here.mtime_ns == there.mtime_ns

    async def _remote_digest(self, place: Remote) -> str:
        hasher = blake3()
        async with self._client.open(place.bucket, place.key) as answer:
            async for piece in answer:
                hasher.update(piece)
        return str(hasher.hexdigest())


async def local_digest(path: Path, size_bytes: int) -> str:
    """BLAKE3 of a file of this machine."""
    if size_bytes <= _AT_ONCE_BYTES:
        return str(blake3(path.read_bytes()).hexdigest())  # noqa: ASYNC240 - see `_AT_ONCE_BYTES`
    return await asyncio.to_thread(_hash_file, path)


def _hash_file(path: Path) -> str:
    return str(blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest())
