"""`trivet ls`: buckets, or files."""

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
    from trivet.models import ListedFile

FILES: Final = (
    Column("size_bytes", "bytes", "size"),
    Column("modified", "time", is_minor=True),
    Column("address", title="name", colour=lambda name: "strong" if name.endswith("/") else None),
)
BUCKETS: Final = (Column("created", "time", is_minor=True), Column("name"))
NAMES: Final = (Column("address", title="name"),)


@click.command(cls=Command)
@click.argument("addresses", nargs=-1, type=REMOTE, metavar="[ADDRESS]...")
@click.option("-r", "--recursive", is_flag=True, help="All files below, not only names up to the next slash.")
@click.option("-1", "--names", is_flag=True, help="Only names, one on each line.")
@asynchronous
async def ls(session: Session, addresses: tuple[str, ...], *, recursive: bool, names: bool) -> None:
    """List buckets, or the files below an address.

    Without an address it lists buckets. Names are printed so that other commands take them. With --json each line is a file
    (kind, address, bucket, key, size_bytes, modified, version, etag, content_type), a folder (kind, address, bucket, key) or a
    bucket (kind, name, created).
    """
    places = [parse_remote(text) for text in addresses]
    async with session.client() as client:
        if not places:
            table = session.output.table((Column("name"),) if names else BUCKETS, has_heading=not names)
            async for bucket in client.buckets():
                table.add({"kind": "bucket", "name": bucket.name, "created": bucket.created})
            table.finish()
            return
        table = session.output.table(NAMES if names else FILES, has_heading=not names)
        for place in places:
            async for row in _rows(client, place, is_recursive=recursive):
                table.add(row)
        table.finish()


def file_record(bucket: str, file: ListedFile) -> dict[str, Any]:
    """A file of a list, with the fields that `--json` promises."""
    return {
        "kind": "file",
        "address": f"{bucket}/{file.key}",
        "bucket": bucket,
        "key": file.key,
        "size_bytes": file.size_bytes,
        "modified": file.modified,
        "version": file.version,
        "etag": file.etag,
        "content_type": file.content_type,
    }


def _folder_record(bucket: str, prefix: str) -> dict[str, Any]:
    return {"kind": "folder", "address": f"{bucket}/{prefix}", "bucket": bucket, "key": prefix}


async def _rows(client: AsyncClient, place: Remote, *, is_recursive: bool) -> AsyncIterator[dict[str, Any]]:
    from trivet.models import Prefix

    if is_recursive or place.has_pattern:
        async for file in remote.expand(client, place, is_recursive=is_recursive):
            yield file_record(place.bucket, file)
        return
    folder = place.literal
    is_empty = True
    if not folder.is_folder:
        if file_itself := await remote.find_one(client, folder):
            yield file_record(place.bucket, file_itself)
            is_empty = False
        folder = folder.child("/")
    async for row in client.list(folder.bucket, folder.key, "/"):
        is_empty = False
        if isinstance(row, Prefix):
            yield _folder_record(place.bucket, row.prefix)
        else:
            yield file_record(place.bucket, row)
    if is_empty and place.key:
        raise not_found(place, f"A list of what is there: trivet ls {place.bucket}")
