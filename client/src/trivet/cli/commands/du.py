"""`trivet du`: how much there is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

import click

from trivet.cli import remote
from trivet.cli.addresses import Remote, parse_remote
from trivet.cli.failures import not_found
from trivet.cli.lazy import Command, asynchronous
from trivet.cli.output import Column
from trivet.cli.parameters import REMOTE
from trivet.cli.session import Session

if TYPE_CHECKING:
    from trivet import AsyncClient

COLUMNS: Final = (
    Column("size_bytes", "bytes", "size"),
    Column("files", "count"),
    Column("address", title="below", colour=lambda _: "strong"),
)


@click.command(cls=Command)
@click.argument("addresses", nargs=-1, required=True, type=REMOTE, metavar="ADDRESS...")
@click.option(
    "-d", "--depth", type=click.IntRange(0), default=0, show_default=True, help="Folders down to this depth, too."
)
@click.option("--versions", is_flag=True, help="Count older versions, too.")
@asynchronous
async def du(session: Session, addresses: tuple[str, ...], *, depth: int, versions: bool) -> None:
    """Add up the sizes of what is below an address.

    With --json each line has address, bucket, key, size_bytes and files.
    """
    table = session.output.table(COLUMNS)
    async with session.client() as client:
        for text in addresses:
            place = parse_remote(text).literal
            async for row in _sums(client, place, depth=depth, has_versions=versions):
                table.add(row)
    table.finish()


async def _sums(client: AsyncClient, place: Remote, *, depth: int, has_versions: bool) -> AsyncIterator[dict[str, Any]]:
    """A folder's sum comes when the list has left it, as in `du`; there are never more open than `depth` says."""
    # One entry for each folder that the list is in: its prefix, its bytes, its files.
    folder = place if place.is_folder else place.child("/")
    open_folders: list[list[Any]] = [[folder.key, 0, 0]]
    async for key, size_bytes in _sizes(client, place, has_versions=has_versions):
        if not (key == place.key or key.startswith(folder.key)):
            continue
        while len(open_folders) > 1 and not key.startswith(open_folders[-1][0]):
            yield _row(place, open_folders.pop())
        inside = key[len(folder.key) :].split("/")[:-1][:depth] if key != place.key else []
        levels = range(len(open_folders), len(inside) + 1)
        open_folders += [[f"{folder.key}{'/'.join(inside[:level])}/", 0, 0] for level in levels]
        for entry in open_folders:
            entry[1] += size_bytes
            entry[2] += 1
    if not open_folders[0][2] and place.key:
        raise not_found(place)
    while len(open_folders) > 1:
        yield _row(place, open_folders.pop())
    yield _row(place, [place.key, *open_folders[0][1:]])


def _row(place: Remote, entry: list[Any]) -> dict[str, Any]:
    key, size_bytes, files = entry
    return {
        "address": f"{place.bucket}/{key}",
        "bucket": place.bucket,
        "key": key,
        "size_bytes": size_bytes,
        "files": files,
    }


async def _sizes(client: AsyncClient, place: Remote, *, has_versions: bool) -> AsyncIterator[tuple[str, int]]:
    if has_versions:
        async for version in remote.every_version(client, place):
            if not version.is_marker:
                yield version.key, version.size_bytes
        return
    async for file in remote.files_below(client, place):
        yield file.key, file.size_bytes
