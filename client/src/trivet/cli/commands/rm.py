"""`trivet rm`: deletes files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

import click

from trivet.cli import remote, words
from trivet.cli.addresses import Remote, parse_remote
from trivet.cli.exit_codes import ExitCode
from trivet.cli.failures import Failure
from trivet.cli.lazy import Command, asynchronous
from trivet.cli.parameters import REMOTE
from trivet.cli.session import Session
from trivet.cli.workers import Failures

if TYPE_CHECKING:
    from trivet import AsyncClient

_BATCH: Final = 1000
_COUNTED: Final = 10_000

Row = tuple[str, int | None]
"""A key, and the version of it that is removed; None to delete the file as `DELETE` does."""


@click.command(cls=Command)
@click.argument("addresses", nargs=-1, required=True, type=REMOTE, metavar="ADDRESS...")
@click.option("-r", "--recursive", is_flag=True, help="Folders with all that is in them.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("-f", "--force", is_flag=True, help="A file that is not there counts as deleted.")
@click.option("--version", type=int, metavar="N", help="Remove this one version for good.")
@click.option("--versions", is_flag=True, help="Remove all versions and delete markers for good.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@asynchronous
async def rm(session: Session, addresses: tuple[str, ...], **chosen: Any) -> None:
    """Delete files.

    In a bucket that keeps versions a deleted file stays as an older version, which trivet restore brings back, unless --versions
    is given. -r, a pattern and --versions ask before they delete; without a terminal they need --yes.
    """
    places = [parse_remote(text) for text in addresses]
    if chosen["version"] is not None and (len(places) > 1 or not places[0].key or places[0].has_pattern):
        raise click.UsageError("--version is of one file.")
    failures = Failures(session.output)
    async with session.client() as client:
        if chosen["version"] is not None:
            place = places[0].literal
            await client.delete(place.bucket, place.key, version=chosen["version"])
            _tell(session, place, chosen["version"], is_marker=False)
            session.output.acknowledge(f"Deleted version {chosen['version']} of {place}, for good.")
            return
        asks = chosen["recursive"] or chosen["versions"] or any(place.has_pattern for place in places)
        if asks and not chosen["yes"] and not chosen["dry_run"]:
            await _ask(session, client, places, chosen)
        done = 0
        for place in places:
            rows = _rows(client, place, is_recursive=chosen["recursive"], has_versions=chosen["versions"])
            done += await _delete(session, client, place, rows, chosen=chosen, failures=failures, counts=asks)
    if asks:
        verb = "Would delete" if chosen["dry_run"] else "Deleted"
        session.output.say(f"{verb} {words.count(done, 'version' if chosen['versions'] else 'file')}.")
    failures.raise_if_any(done)


async def _rows(client: AsyncClient, place: Remote, *, is_recursive: bool, has_versions: bool) -> AsyncIterator[Row]:
    if not has_versions:
        async for file in remote.expand(client, place, is_recursive=is_recursive):
            yield file.key, None
        return
    async for key, version in remote.versions_of(client, place, is_recursive=is_recursive):
        yield key, version


async def _ask(session: Session, client: AsyncClient, places: list[Remote], chosen: dict[str, Any]) -> None:
    count = 0
    noun = "version" if chosen["versions"] else "file"
    for place in places:
        async for _ in _rows(client, place, is_recursive=chosen["recursive"], has_versions=chosen["versions"]):
            count += 1
            if count >= _COUNTED:
                break
    more = "or more " if count >= _COUNTED else ""
    what = f"{count:,} {more}{noun}{'' if count == 1 else 's'}"
    session.confirm(f"Delete {what} below {', '.join(map(str, places))}{' for good' if chosen['versions'] else ''}?")


async def _delete(
    session: Session,
    client: AsyncClient,
    place: Remote,
    rows: AsyncIterator[Row],
    *,
    chosen: dict[str, Any],
    failures: Failures,
    counts: bool,
) -> int:
    """Delete the rows of one place, and say so of each unless the caller counts them. Returns how many were deleted."""
    from trivet.errors import error_of_problem

    done = 0
    batch: list[Row] = []

    async def send() -> int:
        pairs = [(key, version) if version is not None else key for key, version in batch]
        answer = await client.delete_many(place.bucket, pairs)
        good = 0
        for row in answer.results:
            target = Remote(place.bucket, row.key)
            if row.problem:
                failures.add(target, error_of_problem(row.problem))
            else:
                good += 1
                _tell(session, target, row.removed_version, is_marker=row.is_marker)
                if not counts:
                    kept = "; trivet restore brings it back" if row.is_marker else ""
                    session.output.acknowledge(f"Deleted {target}{kept}.")
        return good

    try:
        async for row in rows:
            if chosen["dry_run"]:
                done += 1
                _tell(session, Remote(place.bucket, row[0]), row[1], is_marker=False, action="would_delete")
                continue
            batch.append(row)
            if len(batch) == _BATCH:
                done += await send()
                batch.clear()
    except Failure as error:
        # Nothing has that name.
        if not (chosen["force"] and error.code is ExitCode.NOT_FOUND):
            raise
    if batch:
        done += await send()
    return done


def _tell(session: Session, place: Remote, version: int | None, *, is_marker: bool, action: str = "deleted") -> None:
    if session.output.is_json:
        session.output.document(
            {
                "action": action,
                "address": place.short,
                "bucket": place.bucket,
                "key": place.key,
                "version": version,
                "is_marker": is_marker,
            }
        )
    elif action == "would_delete":
        session.output.result(
            f"would delete\t{words.visible(place.short)}{'' if version is None else f'	{version}'}"
        )
