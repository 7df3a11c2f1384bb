"""Lists: one level, and everything below a directory. Each comes from one list of the store, and so from one instant."""

from __future__ import annotations

import asyncio

from trivet import AsyncClient, errors
from trivet.filesystem import entries
from trivet.filesystem.entries import Entry
from trivet.filesystem.paths import parents, prefix_of, split
from trivet.models import ListedFile, Prefix


async def described(client: AsyncClient, path: str, version: int | None = None) -> Entry:
    """What stands under `path`: the file of that name if there is one, else the directory.

    Raises:
        NotFound: neither is there.
    """
    bucket, key = split(path)
    if not bucket:
        return entries.directory("")
    if key:
        try:
            return entries.file(bucket, await client.head(bucket, key, version=version))
        except errors.NotFound:
            if version is not None or not await has_any(client, bucket, prefix_of(key)):
                raise
    else:
        await has_any(client, bucket, "")
    return entries.directory(path)


async def listed(client: AsyncClient, path: str, prefix: str = "") -> list[Entry]:
    """One level, by name; of a file, the file itself.

    Args:
        prefix: of the names that are wanted.

    Raises:
        NotFound: there is nothing of that name.
    """
    bucket, key = split(path)
    if not bucket:
        return [entries.bucket(found) async for found in client.buckets()]
    found, is_there = await _level(client, bucket, prefix_of(key), prefix)
    if not found and key and not is_there and not prefix:
        found = [entries.file(bucket, await client.head(bucket, key))]
    return sorted(found, key=_name)


async def below(client: AsyncClient, path: str, maxdepth: int | None = None, prefix: str = "") -> dict[str, Entry]:
    """Files and directories below a directory, by path. Empty where there is nothing.

    Args:
        maxdepth: how many levels; None for all, which takes one list of the store.
        prefix: of the names that are wanted, on the first level.
    """
    bucket, key = split(path)
    if not bucket:
        buckets = [found.name async for found in client.buckets() if found.name.startswith(prefix)]
        everything = {name: entries.directory(name) for name in buckets}
        if maxdepth != 1:
            deeper = None if maxdepth is None else maxdepth - 1
            for found in await asyncio.gather(*(below(client, name, deeper) for name in buckets)):
                everything |= found
        return everything
    try:
        if maxdepth is None:
            return await _everything(client, bucket, prefix_of(key), prefix)
        return await _levels(client, bucket, prefix_of(key), prefix, maxdepth)
    except errors.BucketNotFound:
        return {}


async def has_any(client: AsyncClient, bucket: str, prefix: str) -> bool:
    """Whether a key begins with `prefix`. Raises BucketNotFound."""
    async for page in client.list_pages(bucket, prefix, limit=1):
        if page.files:
            return True
    return False


async def _everything(client: AsyncClient, bucket: str, above: str, prefix: str) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    directories: set[str] = set()
    async for row in client.list(bucket, above + prefix):
        if isinstance(row, ListedFile):
            directories.update(parents(row.key, above))
            if not entries.is_marker(row.key):
                found[f"{bucket}/{row.key}"] = entries.file(bucket, row)
    return {f"{bucket}/{name}": entries.directory(f"{bucket}/{name}") for name in directories} | found


async def _levels(client: AsyncClient, bucket: str, above: str, prefix: str, maxdepth: int) -> dict[str, Entry]:
    level, _ = await _level(client, bucket, above, prefix)
    found = {entry["name"]: entry for entry in level}
    if maxdepth > 1:
        deeper = (split(entry["name"])[1] for entry in level if entry["type"] == "directory")
        for more in await asyncio.gather(
            *(_levels(client, bucket, prefix_of(key), "", maxdepth - 1) for key in deeper)
        ):
            found |= more
    return found


async def _level(client: AsyncClient, bucket: str, above: str, prefix: str) -> tuple[list[Entry], bool]:
    """The rows of one level, and whether any key was there, were it one that is not shown."""
    found: list[Entry] = []
    is_there = False
    async for row in client.list(bucket, above + prefix, delimiter="/"):
        is_there = True
        if isinstance(row, Prefix):
            name = row.prefix.removesuffix("/")
            if name and not name.endswith("/"):
                found.append(entries.directory(f"{bucket}/{name}"))
        elif not entries.is_marker(row.key):
            found.append(entries.file(bucket, row))
    return found, is_there


def _name(entry: Entry) -> str:
    name: str = entry["name"]
    return name
