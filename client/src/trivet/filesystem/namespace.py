"""The part of the file system that is about names: what is there, other names for it, and none."""

from __future__ import annotations

import errno
from datetime import datetime
from glob import has_magic
from typing import Any

from fsspec.asyn import AsyncFileSystem, sync_wrapper
from fsspec.utils import tokenize

from trivet import AsyncClient
from trivet.filesystem import entries, listing, removal
from trivet.filesystem.clients import ClientsByLoop
from trivet.filesystem.entries import Entry
from trivet.filesystem.os_errors import os_errors
from trivet.filesystem.paths import prefix_of, split
from trivet.models import ListedVersion


class Namespace(AsyncFileSystem):
    """See `trivet.filesystem.TrivetFileSystem`."""

    protocol = "trivet"
    root_marker = ""
    _clients: ClientsByLoop

    @property
    def client(self) -> AsyncClient:
        """Of the running loop, for what only Trivet can do."""
        with os_errors(""):
            return self._clients.current()

    async def aclose(self) -> None:
        """Close the connections of the running loop; the next call opens new ones."""
        await self._clients.close_current()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped if isinstance(stripped, list) else stripped.lstrip("/")

    # What is there

    async def _info(self, path: str, *, version: int | None = None, **_: Any) -> Entry:
        path = self._strip_protocol(path)
        with os_errors(path):
            return await listing.described(self.client, path, version)

    async def _ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        with os_errors(path):
            found = await listing.listed(self.client, path)
        return found if detail else [entry["name"] for entry in found]

    async def _find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        *,
        detail: bool = False,
        prefix: str = "",
        **_: Any,
    ) -> Any:
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        path = self._strip_protocol(path)
        with os_errors(path):
            below = await listing.below(self.client, path, maxdepth, prefix)
        found = {name: entry for name, entry in below.items() if withdirs or entry["type"] == "file"}
        if path and not prefix:
            if below and withdirs:
                found[path] = entries.directory(path)
            elif not below:
                found |= await self._itself(path, withdirs=withdirs)
        return {name: found[name] for name in sorted(found)} if detail else sorted(found)

    async def _itself(self, path: str, *, withdirs: bool) -> dict[str, Entry]:
        """A file, which is found under its own name, or a directory where nothing is below it."""
        try:
            entry = await self._info(path)
        except FileNotFoundError:
            return {}
        return {path: entry} if withdirs or entry["type"] == "file" else {}

    async def _isdir(self, path: str) -> bool:
        """Whether it is the root, a bucket, or anything is below it: one list, where `info` first looks for a file."""
        path = self._strip_protocol(path)
        bucket, key = split(path)
        try:
            if not key:
                return bool(await self._exists(path))
            with os_errors(path):
                return await listing.has_any(self.client, bucket, prefix_of(key))
        except OSError:
            return False

    async def _du(
        self,
        path: str,
        total: bool = True,
        maxdepth: int | None = None,
        **_: Any,
    ) -> Any:
        found = await self._find(path, maxdepth=maxdepth, detail=True)
        sizes = {name: entry["size"] for name, entry in found.items()}
        return sum(sizes.values()) if total else sizes

    async def _versions(self, path: str) -> list[Entry]:
        """All versions of a file that its bucket keeps, and its delete markers, the newest first."""
        bucket, key = self._file(path)
        with os_errors(path):
            rows = self.client.versions(bucket, key=key)
            return [entries.version(bucket, row) async for row in rows if isinstance(row, ListedVersion)]

    versions = sync_wrapper(_versions)

    async def _modified(self, path: str) -> datetime | None:
        """When the current version was published."""
        return (await self._info(path)).get("modified")

    modified = sync_wrapper(_modified)

    async def _created(self, path: str) -> datetime | None:
        """As `modified`: a version is never changed after it was made."""
        return await self._modified(path)

    created = sync_wrapper(_created)

    async def _ukey(self, path: str) -> str:
        """The entity tag: it is another one when the file is."""
        entry = await self._info(path)
        return str(entry.get("etag") or tokenize(entry))

    ukey = sync_wrapper(_ukey)

    async def _checksum(self, path: str) -> int:
        """The same as a number."""
        return int(tokenize(await self._ukey(path)), 16)

    checksum = sync_wrapper(_checksum)

    async def _sign(self, path: str, expiration: int = 100, method: str = "GET", **_: Any) -> str:
        """A link for whoever has it, good for `expiration` seconds and one `method`: GET, PUT or DELETE."""
        bucket, key = self._file(path)
        with os_errors(path):
            return self.client.link(method, bucket, key, expiration).url

    sign = sync_wrapper(_sign)

    # Other names, and no name

    async def _cp_file(self, path1: str, path2: str, *, is_move: bool = False, **_: Any) -> None:
        source, target = self._file(path1), self._file(path2)
        with os_errors(path1):
            await (self.client.rename if is_move else self.client.copy)(*source, *target)

    async def _mv_file(self, path1: str, path2: str) -> None:
        await self._cp_file(path1, path2, is_move=True)

    async def _mv(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        **_: Any,
    ) -> None:
        """Rename; no bytes move, and each file is never under both names, or neither."""
        if path1 == path2:
            return
        if isinstance(path1, str) and not recursive and not has_magic(path1) and await self._isdir(path1):
            raise IsADirectoryError(errno.EISDIR, "recursive=True moves a directory", path1)
        await self._copy(path1, path2, recursive=recursive, maxdepth=maxdepth, is_move=True)

    mv = sync_wrapper(_mv)

    async def _rm_file(self, path: str, **_: Any) -> None:
        bucket, key = self._file(path)
        with os_errors(path):
            await self.client.delete(bucket, key)

    async def _rm(
        self,
        path: Any,
        recursive: bool = False,
        batch_size: int | None = None,
        maxdepth: int | None = None,
        **_: Any,
    ) -> None:
        """Delete; several by one call, which counts what is absent as deleted. A single one that is absent is an error."""
        del batch_size  # one call takes a thousand
        roots = await self._expand_path(path, recursive=recursive and maxdepth is not None, maxdepth=maxdepth)
        names = {split(root) for root in roots}
        buckets = sorted(bucket for bucket, key in names if not key)
        if buckets and not recursive:
            raise IsADirectoryError(errno.EISDIR, "recursive=True deletes a bucket with all that is in it", buckets[0])
        with os_errors(str(path)):
            if recursive and maxdepth is None:
                for root in roots:
                    names.update(await removal.names_below(self.client, root))
            if len(names) > 1 or buckets:
                await removal.remove(self.client, (name for name in names if name[1]))
            else:
                await self._rm_one(roots[0])
        for bucket in buckets:
            await self._rmdir(bucket)

    async def _rm_one(self, path: str) -> None:
        try:
            await self._rm_file(path)
        except FileNotFoundError:
            if await self._isdir(path):
                raise IsADirectoryError(errno.EISDIR, "recursive=True deletes a directory", path) from None
            raise

    # Directories

    async def _mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Make a bucket. Below one there is nothing to make: a directory is there while a file is in it."""
        path = self._strip_protocol(path)
        bucket, key = split(path)
        if await self._exists(path):
            raise FileExistsError(errno.EEXIST, "It is there already.", path)
        if key and not create_parents:
            await self._info(bucket)
        with os_errors(path):
            await self.client.create_bucket(bucket)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        path = self._strip_protocol(path)
        if not exist_ok:
            await self._mkdir(path)
        elif not await self._exists(bucket := split(path)[0]):
            with os_errors(path):
                await self.client.create_bucket(bucket)

    async def _rmdir(self, path: str) -> None:
        """Delete an empty bucket. An empty directory below one is not there."""
        path = self._strip_protocol(path)
        bucket, key = split(path)
        if not key:
            with os_errors(path):
                await self.client.delete_bucket(bucket)
        elif await self._exists(path):
            raise OSError(errno.ENOTEMPTY, "The directory is not empty.", path)

    rmdir = sync_wrapper(_rmdir)

    def _file(self, path: str) -> tuple[str, str]:
        """Bucket and key. Raises IsADirectoryError: the path is a bucket, or the root."""
        bucket, key = split(self._strip_protocol(path))
        if not key:
            raise IsADirectoryError(errno.EISDIR, "A file lies in a bucket, as bucket/key.", path)
        return bucket, key
