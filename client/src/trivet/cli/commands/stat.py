"""`trivet stat`: what is known about a file or a bucket."""

from __future__ import annotations

from typing import Any, Final

import click

from trivet.cli.addresses import parse_remote
from trivet.cli.commands.buckets import SETTINGS, settings_record
from trivet.cli.lazy import Command, asynchronous
from trivet.cli.output import Column
from trivet.cli.parameters import REMOTE
from trivet.cli.session import Session

FILE: Final = (
    Column("address", title="file"),
    Column("size_bytes", "bytes", "size"),
    Column("modified", "time"),
    Column("content_type"),
    Column("version"),
    Column("etag"),
    Column("digest", title="BLAKE3"),
    Column("content_id"),
    Column("replicas_confirmed"),
    Column("metadata"),
    Column("labels", title="tags"),
)


@click.command(cls=Command)
@click.argument("address", type=REMOTE)
@click.option("--version", type=int, metavar="N", help="An older version (trivet versions).")
@click.option("--replicas", is_flag=True, help="Ask the storage nodes how many replicas are proved.")
@click.option("--tags", is_flag=True, help="With its tags.")
@asynchronous
async def stat(session: Session, address: str, *, version: int | None, replicas: bool, tags: bool) -> None:
    """Show what is known about a file or a bucket.

    Of a file --json gives one document: address, bucket, key, size_bytes, modified, content_type, version, etag, digest (null if
    it was made of parts), content_id, user_metadata, and replicas_confirmed and tags where they were asked for. Of a bucket it
    gives its settings and usage.
    """
    place = parse_remote(address)
    async with session.client() as client:
        if not place.key:
            settings = await client.bucket_settings(place.bucket)
            session.output.record(settings_record(settings, is_json=session.output.is_json), SETTINGS)
            return
        place = place.literal
        info = await client.head(place.bucket, place.key, version=version, read_quorum=1 if replicas else None)
        found = await client.tags(place.bucket, place.key, version=version) if tags else None
    record: dict[str, Any] = {
        "address": place.short,
        "bucket": info.bucket,
        "key": info.key,
        "size_bytes": info.size_bytes,
        "modified": info.modified,
        "content_type": info.content_type,
        "version": info.version,
        "etag": info.etag,
        "digest": info.digest,
        "content_id": info.content_id,
        "user_metadata": info.user_metadata,
        "replicas_confirmed": info.replicas_confirmed,
        "tags": found.tags if found else None,
    }
    shown = (
        {}
        if session.output.is_json
        else {"metadata": _pairs(info.user_metadata), "labels": _pairs(found.tags if found else {})}
    )
    session.output.record(record | shown, FILE)


def _pairs(values: dict[str, str]) -> str | None:
    return ", ".join(f"{name}={value}" for name, value in sorted(values.items())) or None
