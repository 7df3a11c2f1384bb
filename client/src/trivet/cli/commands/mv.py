"""`trivet mv`: other names for files of the store."""

from __future__ import annotations

from collections.abc import AsyncIterator

import click

from trivet.cli import remote
from trivet.cli.addresses import Remote, parse_remote
from trivet.cli.exit_codes import ExitCode
from trivet.cli.lazy import Command, asynchronous
from trivet.cli.naming import SAME_TARGET, Targets, target_of
from trivet.cli.parameters import REMOTE
from trivet.cli.session import Session
from trivet.cli.workers import Failures, run_all


@click.command(cls=Command)
@click.argument("sources", nargs=-1, required=True, type=REMOTE, metavar="SOURCE...")
@click.argument("target", type=REMOTE)
@click.option("-r", "--recursive", is_flag=True, help="Folders with all that is in them.")
@click.option("-n", "--no-clobber", is_flag=True, help="Keep what is there; such a file counts as failed.")
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=8, show_default=True, help="Files at a time.")
@asynchronous
async def mv(
    session: Session, sources: tuple[str, ...], target: str, *, recursive: bool, no_clobber: bool, jobs: int
) -> None:
    """Rename files within the store, without moving their bytes.

    Names go as in trivet cp. Each file is renamed at one instant; a folder is not, its files follow one another. To move a file
    between this machine and the store, copy it and delete it.
    """
    origin = [parse_remote(text) for text in sources]
    goal = parse_remote(target)
    if not goal.is_folder and (len(origin) > 1 or origin[0].has_pattern):
        raise click.UsageError(f"several files need a folder as their target: {goal}/ with a slash.")
    failures = Failures(session.output)
    done = 0
    async with session.client() as client:

        async def pairs() -> AsyncIterator[tuple[Remote, Remote]]:
            targets = Targets(len(origin))
            for place in origin:
                # Listed before anything is renamed: else a folder that is moved into itself would be met again and again.
                found = [file.key async for file in remote.expand(client, place, is_recursive=recursive)]
                for key in found:
                    source, new = Remote(place.bucket, key), target_of(place, key, goal)
                    if targets.take(new):
                        yield source, new
                    else:
                        failures.add(source, SAME_TARGET, ExitCode.REFUSED)

        async def rename(pair: tuple[Remote, Remote]) -> None:
            nonlocal done
            source, new = pair
            receipt = await client.rename(
                source.bucket, source.key, new.bucket, new.key, if_none_match="*" if no_clobber else None
            )
            done += 1
            if session.output.is_json:
                session.output.document(
                    {
                        "action": "renamed",
                        "source": source.short,
                        "target": new.short,
                        "size_bytes": receipt.size_bytes,
                        "version": receipt.version,
                    }
                )

        await run_all(pairs(), rename, jobs=jobs, failures=failures, name_of=lambda pair: pair[0])
    if done != 1:
        session.output.say(f"Renamed {done:,} files.")
    failures.raise_if_any(done)
