"""`trivet share`: signed links."""

from __future__ import annotations

from typing import Final

import click

from trivet.cli import words
from trivet.cli.addresses import parse_file
from trivet.cli.lazy import Command, asynchronous
from trivet.cli.parameters import DURATION, REMOTE
from trivet.cli.session import Session

_LONGEST_S: Final = 7 * 86_400


@click.command(cls=Command)
@click.argument("address", type=REMOTE)
@click.option(
    "--for", "lifetime_s", type=DURATION, default="1h", show_default=True, metavar="TIME", help="Such as 45m, 12h, 7d."
)
@click.option("--upload", is_flag=True, help="A link that stores the file instead of reading it.")
@click.option("--only-new", is_flag=True, help="With --upload: one that replaces nothing.")
@click.option("--version", type=int, metavar="N", help="A link to this version.")
@asynchronous
async def share(
    session: Session, address: str, *, lifetime_s: int, upload: bool, only_new: bool, version: int | None
) -> None:
    """Make a link that works without a key until it expires.

    The link is signed here, with your key; the store is only asked whether there is such a file. It may do no more than the key
    may, and ends with it; seven days are the most. With --json: url, method, headers, expires.
    """
    place = parse_file(address).literal
    if not 0 < lifetime_s <= _LONGEST_S:
        raise click.UsageError("a link is good for at most seven days (--for 7d), and for more than nothing.")
    if only_new and not upload:
        raise click.UsageError("--only-new is of a link with --upload.")
    if upload and version is not None:
        raise click.UsageError("--version is of a link that reads.")
    headers = {"if-none-match": "*"} if only_new else {}
    query = {} if version is None else {"version": str(version)}
    async with session.client() as client:
        if not upload:
            # A mistyped name is found here, and not by somebody who was sent the link.
            await client.head(place.bucket, place.key, version=version)
        link = client.link("PUT" if upload else "GET", place.bucket, place.key, lifetime_s, headers, **query)
    if session.output.is_json:
        session.output.document(
            {"url": link.url, "method": link.method, "headers": link.headers, "expires": link.expires}
        )
        return
    session.output.result(link.url)
    if upload:
        shown = "".join(f" -H '{name}: {value}'" for name, value in link.headers.items())
        session.output.say(f"curl -T FILE{shown} '{link.url}'")
    session.output.say(f"Good for {words.duration(lifetime_s)}, until {words.moment(link.expires)}.")
