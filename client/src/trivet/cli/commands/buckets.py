"""`trivet buckets`, `mb` and `rb`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from trivet.cli import remote, words
from trivet.cli.addresses import Remote, parse_remote
from trivet.cli.lazy import Entry, Group, asynchronous
from trivet.cli.output import Column
from trivet.cli.parameters import REMOTE, Parsed
from trivet.cli.session import Session

if TYPE_CHECKING:
    from trivet import AsyncClient
    from trivet.models import BucketSettings

SETTINGS: Final = (
    Column("bucket"),
    Column("versioning"),
    Column("keeps_versions_for"),
    Column("used_bytes", "bytes", "used"),
    Column("files", "count"),
    Column("quota_bytes", "bytes", "quota"),
    Column("quota_files", "count", "quota of files"),
)
_FOREVER: Final = "forever"
_NONE: Final = "none"

buckets = Group(
    "buckets",
    help="List, make, delete and set up buckets.",
    entries={"ls": Entry("ls:ls", "List buckets, or the files below an address.")},
)


@buckets.command("mb")
@click.argument("names", nargs=-1, required=True, metavar="BUCKET...")
@click.option("--versioning", is_flag=True, help="Keep older versions.")
@asynchronous
async def mb(session: Session, names: tuple[str, ...], *, versioning: bool) -> None:
    """Make buckets.

    One that is there already is left as it is. With --json each line has bucket and incarnation.
    """
    async with session.client() as client:
        for name in map(_bucket_name, names):
            made = await client.create_bucket(name, versioning="enabled" if versioning else None)
            if session.output.is_json:
                session.output.document({"action": "made", "bucket": made.name, "incarnation": made.incarnation})
            session.output.acknowledge(f"There is a bucket {name}{', which keeps versions' if versioning else ''}.")


@buckets.command("rb")
@click.argument("names", nargs=-1, required=True, type=REMOTE, metavar="BUCKET...")
@click.option("--force", is_flag=True, help="Delete all that is in it before, with all versions, for good.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask, with --force.")
@asynchronous
async def rb(session: Session, names: tuple[str, ...], *, force: bool, yes: bool) -> None:
    """Delete buckets.

    A bucket has to be empty, of older versions and delete markers too, unless --force is given.
    """
    async with session.client() as client:
        for name in map(_bucket_name, names):
            if force:
                if not yes:
                    session.confirm(f"Delete the bucket {name} with all that is in it, for good?")
                await _empty(client, name)
            await client.delete_bucket(name)
            if session.output.is_json:
                session.output.document({"action": "deleted", "bucket": name})
            session.output.acknowledge(f"Deleted the bucket {name}.")


@buckets.command("settings")
@click.argument("name", type=REMOTE, metavar="BUCKET")
@click.option("--versioning", type=click.Choice(["enabled", "suspended"]), help="Whether older versions are kept.")
@click.option(
    "--keep-versions-for",
    type=Parsed("time", words.parse_duration_s, none=_FOREVER),
    metavar="TIME",
    help="Once they are not current: 30d, 12h, or forever.",
)
@click.option(
    "--quota",
    type=Parsed("size", words.parse_size, none=_NONE),
    metavar="SIZE",
    help="Bytes it may have: 10GiB, or none.",
)
@click.option(
    "--quota-files", type=Parsed("number", int, none=_NONE), metavar="N", help="Versions it may have, or none."
)
@asynchronous
async def settings(session: Session, name: str, **chosen: Any) -> None:
    """Show or change the settings of a bucket.

    With --json: bucket, versioning, superseded_retention_s (null for ever), used_bytes, files, quota_bytes, quota_files.
    """
    bucket = _bucket_name(name)
    wanted: dict[str, Any] = {}
    if chosen["versioning"]:
        wanted["versioning"] = chosen["versioning"]
    for option, field_name in (
        ("keep_versions_for", "superseded_retention_s"),
        ("quota", "quota_bytes"),
        ("quota_files", "quota_files"),
    ):
        if chosen[option] is not None:
            wanted[field_name] = None if chosen[option] in {_FOREVER, _NONE} else chosen[option]
    async with session.client() as client:
        if wanted:
            await client.set_bucket_settings(bucket, **wanted)
        found = await client.bucket_settings(bucket)
    session.output.record(settings_record(found, is_json=session.output.is_json), SETTINGS)


def settings_record(found: BucketSettings, *, is_json: bool = False) -> dict[str, Any]:
    """With the fields that `--json` promises, and one more for people."""
    record: dict[str, Any] = {
        "bucket": found.bucket,
        "versioning": found.versioning,
        "superseded_retention_s": found.superseded_retention_s,
        "used_bytes": found.usage.size_bytes if found.usage else None,
        "files": found.usage.files if found.usage else None,
        "quota_bytes": found.quota_bytes,
        "quota_files": found.quota_files,
    }
    if not is_json and found.versioning != "off":
        kept = found.superseded_retention_s
        record["keeps_versions_for"] = _FOREVER if kept is None else words.duration(kept)
    return record


def _bucket_name(text: str) -> str:
    place = parse_remote(text)
    if place.key:
        raise click.UsageError(f"{text!r} is a file; a bucket has no slash in its name.")
    return place.bucket


async def _empty(client: AsyncClient, bucket: str) -> None:
    batch: list[tuple[str, int]] = []
    async for row in remote.every_version(client, Remote(bucket, "")):
        batch.append((row.key, row.version))
        if len(batch) == 1000:
            await client.delete_many(bucket, batch)
            batch.clear()
    if batch:
        await client.delete_many(bucket, batch)
    async for upload in client.uploads(bucket):
        await client.abort_upload(upload.upload_id)
