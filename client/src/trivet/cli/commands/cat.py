"""`trivet cat`: files to standard output."""

from __future__ import annotations

import sys

import click

from trivet.cli import remote, transfers
from trivet.cli.addresses import Remote, parse_file
from trivet.cli.lazy import Command, asynchronous
from trivet.cli.parameters import RANGE, REMOTE
from trivet.cli.session import Session


@click.command(cls=Command)
@click.argument("addresses", nargs=-1, required=True, type=REMOTE, metavar="ADDRESS...")
@click.option("--version", type=int, metavar="N", help="An older version (trivet versions).")
@click.option(
    "--range", "span", type=RANGE, metavar="FIRST-LAST", help="Bytes: 0-99, 100- or -100 for the last hundred."
)
@asynchronous
async def cat(
    session: Session, addresses: tuple[str, ...], *, version: int | None, span: tuple[int, int | None] | None
) -> None:
    """Write files to standard output.

    Bytes are written as they come and are checked at the end: a code other than 0 says that they are not to be trusted.
    """
    start, end = span or (0, None)
    places = [parse_file(text) for text in addresses]
    sys.stdout.flush()
    async with session.client() as client:
        for place in places:
            if version is not None or not place.has_pattern:
                # No list is needed, nor the right to one.
                await transfers.write_out(
                    client, place.literal, transfers.standard_output(), version=version, start=start, end=end
                )
                continue
            async for file in remote.expand(client, place, is_recursive=False):
                source = Remote(place.bucket, file.key)
                await transfers.write_out(client, source, transfers.standard_output(), start=start, end=end)
