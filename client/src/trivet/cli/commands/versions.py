"""`trivet versions` and `trivet restore`: what a file was before, and how to get that back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from trivet.cli import remote
from trivet.cli.addresses import parse_file, parse_remote
from trivet.cli.exit_codes import ExitCode
from trivet.cli.failures import Failure, not_found
from trivet.cli.lazy import Command, asynchronous
from trivet.cli.output import Column
from trivet.cli.parameters import REMOTE
from trivet.cli.session import Session

if TYPE_CHECKING:
    from trivet.models import ListedVersion

COLUMNS: Final = (
    Column("version"),
    Column("modified", "time", is_minor=True),
    Column("size_bytes", "bytes", "size"),
    Column("state", colour={"current": "good", "deleted": "bad"}.get),
    Column("address", title="name"),
)


@click.command(cls=Command)
@click.argument("address", type=REMOTE)
@click.option("-r", "--recursive", is_flag=True, help="Of all files below the address.")
@asynchronous
async def versions(session: Session, address: str, *, recursive: bool) -> None:
    """List the versions of a file, the newest first.

    STATE is current, older, or deleted: a delete marker. With --json each line has address, bucket, key, version, modified,
    size_bytes, state, is_current, is_marker, etag and content_type.
    """
    place = (parse_remote(address) if recursive else parse_file(address)).literal
    table = session.output.table(COLUMNS)
    is_empty = True
    async with session.client() as client:
        async for row in remote.every_version(client, place, is_one_file=not recursive):
            table.add(_record(place.bucket, row))
            is_empty = False
    table.finish()
    if is_empty:
        raise not_found(place)


@click.command(cls=Command)
@click.argument("address", type=REMOTE)
@click.option(
    "--version", type=int, metavar="N", help="The version; the newest one with bytes before the current if not given."
)
@asynchronous
async def restore(session: Session, address: str, *, version: int | None) -> None:
    """Make an older version of a file the current one.

    Without --version a deleted file comes back as it was last, and any other as it was before. No bytes move, and the version
    that is current now stays as an older one. With --json: address, version (the new one), source_version, size_bytes.
    """
    from trivet.copy_calls import NO_OLDER_VERSION
    from trivet.errors import FileNotFound

    place = parse_file(address).literal
    async with session.client() as client:
        try:
            receipt = await client.restore(place.bucket, place.key, version)
        except FileNotFound as error:
            if error.code != NO_OLDER_VERSION:
                raise
            raise Failure(f"{place}: there is no older version. {_cure(place.bucket)}", ExitCode.NOT_FOUND) from error
    if session.output.is_json:
        session.output.document(
            {
                "action": "restored",
                "address": place.short,
                "bucket": place.bucket,
                "key": place.key,
                "version": receipt.version,
                "source_version": receipt.source_version,
                "size_bytes": receipt.size_bytes,
            }
        )
    else:
        session.output.say(
            f"{place} is as version {receipt.source_version} was; that is version {receipt.version} now."
        )


def _cure(bucket: str) -> str:
    return (
        f"If the bucket keeps none: trivet buckets settings {bucket} --versioning enabled makes it keep what is replaced or "
        "deleted from then on."
    )


def _record(bucket: str, row: ListedVersion) -> dict[str, Any]:
    state = "deleted" if row.is_marker else "current" if row.is_current else "older"
    return {
        "address": f"{bucket}/{row.key}",
        "bucket": bucket,
        "key": row.key,
        "version": row.version,
        "modified": row.modified,
        "size_bytes": None if row.is_marker else row.size_bytes,
        "state": state,
        "is_current": row.is_current,
        "is_marker": row.is_marker,
        "etag": row.etag,
        "content_type": row.content_type,
    }
