"""`trivet sync`: makes one folder like another."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trivet.cli import globs, local, remote, transfers, words
from trivet.cli.addresses import SCHEME, Address, Local, Remote, parse_source, parse_target
from trivet.cli.comparing import Entry, Judge, Pair, RemoteFile, side_by_side
from trivet.cli.exit_codes import ExitCode
from trivet.cli.failures import Failure, not_found
from trivet.cli.lazy import Command, asynchronous
from trivet.cli.parameters import ADDRESS
from trivet.cli.progress import Progress
from trivet.cli.session import Session
from trivet.cli.workers import Failures, run_all

if TYPE_CHECKING:
    from trivet import AsyncClient
    from trivet.models import ListedFile

_BATCH = 1000


@click.command(cls=Command)
@click.argument("source", type=ADDRESS)
@click.argument("target", type=ADDRESS)
@click.option("--delete", is_flag=True, help="Delete at the target what the source does not have.")
@click.option("--allow-empty", is_flag=True, help="With --delete, even if the source has no file at all.")
@click.option(
    "--checksum", is_flag=True, help="Read both sides where the store has no digest, instead of comparing times."
)
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave names alone that match, at both sides.")
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=16, show_default=True, help="Files at a time.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@asynchronous
async def sync(session: Session, source: str, target: str, **chosen: Any) -> None:
    """Make one folder or bucket like another, moving only what differs.

    From this machine to the store, back, or within the store; always the contents of the folders, with or without a slash. Files
    are compared by size and digest; one that was stored in parts has no digest, and is compared by size and the time of its last
    change. Nothing is deleted unless --delete is given, and not by an empty source unless --allow-empty is, too. Links are not
    followed out of the folder. With --json each change is a line: action (copied, deleted, would_copy, would_delete), name,
    source, target, size_bytes.
    """
    origin = parse_source(source)
    goal = parse_target(target, is_source_remote=isinstance(origin, Remote))
    _check(origin, goal)
    async with session.client() as client:
        with Progress(session.output, "Syncing") as progress:
            session.interrupted = "Interrupted. The same command goes on where this one stopped."
            syncing = _Syncing(session, client, (origin, goal), progress, chosen)
            await syncing.run()
    is_dry = chosen["dry_run"]
    said = [progress.summary("Would have copied" if is_dry else "Copied")] if progress.done_files else []
    if syncing.deleted:
        said.append(f"{'Would have deleted' if is_dry else 'Deleted'} {words.count(syncing.deleted, 'file')}.")
    said.append(f"{words.count(syncing.equal, 'file')} {'is' if syncing.equal == 1 else 'are'} the same.")
    session.output.say(" ".join(said))
    syncing.failures.raise_if_any(progress.done_files + syncing.equal)


class _Syncing:
    """One run. Deletions come last, and only when the source was listed to its end without a mistake."""

    def __init__(
        self,
        session: Session,
        client: AsyncClient,
        places: tuple[Address, Address],
        progress: Progress,
        chosen: dict[str, Any],
    ) -> None:
        origin, goal = places
        self._output = session.output
        self._client = client
        self._origin = origin
        self._goal = goal
        self._progress = progress
        self.failures = Failures(session.output)
        self._chosen = chosen
        self._judge = Judge(client, reads_all=chosen["checksum"])
        self._folder = local.Folder(goal.path) if isinstance(goal, Local) else None
        self._excluded = [globs.compile_pattern(pattern) for pattern in chosen["exclude"]]
        self._unwanted: list[Entry] = []
        self._left_out: set[str] = set()
        self.equal = 0
        self.deleted = 0

    async def run(self) -> None:
        await run_all(
            self._pairs(),
            self._do,
            jobs=self._chosen["jobs"],
            failures=self.failures,
            name_of=lambda pair: pair.name,
        )
        await self._delete_unwanted()

    async def _pairs(self) -> AsyncIterator[Pair]:
        has_source = False
        target = self._entries(self._goal, is_source=False)
        async for pair in side_by_side(self._entries(self._origin, is_source=True), target):
            has_source = has_source or pair.source is not None
            if pair.source is not None:
                yield pair
            elif self._chosen["delete"] and pair.target is not None:
                self._unwanted.append(pair.target)
        if has_source or self._chosen["allow_empty"]:
            return
        if isinstance(self._origin, Remote) and self._origin.key:
            # A slip in the name of the source must not empty the target.
            raise not_found(self._origin)
        if self._unwanted:
            # Nor must a disk that is not mounted.
            raise Failure(
                f"{self._origin} has no files, and {words.count(len(self._unwanted), 'file')} of {self._goal} would be "
                "deleted; nothing was. --allow-empty does it.",
                ExitCode.REFUSED,
            )

    async def _entries(self, place: Address, *, is_source: bool) -> AsyncIterator[Entry]:
        if isinstance(place, Local):
            if is_source or place.path.is_dir():
                skip = self._skip if is_source else _ignore
                for file in local.walk(place.path, skip):
                    if not self._is_excluded(file.name):
                        yield file
            return
        assert isinstance(place, Remote)
        folder = place.literal if place.is_folder else place.literal.child("/")
        async for row in self._rows(folder, is_source=is_source):
            name = row.key[len(folder.key) :]
            # A key that ends with a slash stands for a folder; folders come by themselves.
            if not name.endswith("/") and name and not self._is_excluded(name):
                yield RemoteFile(Remote(folder.bucket, row.key), name, row)

    async def _rows(self, folder: Remote, *, is_source: bool) -> AsyncIterator[ListedFile]:
        """With digests and metadata, for which a key has to have the right to read; without them, where it may only write."""
        from trivet.errors import Forbidden

        is_begun = False
        try:
            async for row in remote.files_below(self._client, folder, details=True):
                is_begun = True
                yield row
        except Forbidden:
            if is_begun or is_source or not isinstance(self._origin, Local):
                raise
        else:
            return
        self._judge.has_details = False
        self._output.say("This key may not read there: files are compared by size, and by when they were stored.")
        async for row in remote.files_below(self._client, folder):
            yield row

    async def _do(self, pair: Pair) -> None:
        assert pair.source is not None
        if pair.target is not None and await self._judge.are_equal(pair.source, pair.target):
            self.equal += 1
            return
        target = self._place_of(pair.name)
        self._progress.expect(pair.source.size_bytes)
        if not self._chosen["dry_run"]:
            await self._copy(pair.source, target)
        else:
            self._progress.finish_file()
        self._tell("would_copy" if self._chosen["dry_run"] else "copied", pair.name, pair.source, target)

    async def _copy(self, source: Entry, target: Remote | Path) -> None:
        wishes = transfers.Wishes()
        if isinstance(source, local.LocalFile):
            assert isinstance(target, Remote)
            await transfers.upload(self._client, source, target, wishes, self._progress)
        elif isinstance(target, Remote):
            await transfers.copy(self._client, source.place, target, wishes)
            self._progress.resume(source.size_bytes)
            self._progress.finish_file()
        else:
            await transfers.download(self._client, source.place, target, wishes, self._progress)

    def _place_of(self, name: str) -> Remote | Path:
        if self._folder is not None:
            try:
                return self._folder.path_of(name)
            except local.UnsafeNameError as error:
                raise Failure(f"{error}.") from error
        assert isinstance(self._goal, Remote)
        folder = self._goal.literal
        return folder.child(name) if folder.is_folder else folder.child("/" + name)

    async def _delete_unwanted(self) -> None:
        if self._unwanted and self.failures.count:
            self._output.warn("trivet: nothing was deleted, because not everything could be compared.")
            return
        self._unwanted = [entry for entry in self._unwanted if not self._is_left_out(entry.name)]
        if self._chosen["dry_run"]:
            for entry in self._unwanted:
                self.deleted += 1
                self._tell("would_delete", entry.name, None, _where(entry))
            return
        from trivet.errors import error_of_problem

        rows = [entry for entry in self._unwanted if isinstance(entry, RemoteFile)]
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            answer = await self._client.delete_many(batch[0].place.bucket, [entry.row.key for entry in batch])
            for entry, row in zip(batch, answer.results, strict=True):
                if row.problem:
                    self.failures.add(entry.name, error_of_problem(row.problem))
                else:
                    self._count_deleted(entry)
        for entry in self._unwanted:
            if isinstance(entry, local.LocalFile):
                try:
                    entry.path.unlink()
                except OSError as error:
                    self.failures.add(entry.name, error)
                else:
                    self._count_deleted(entry)
                    self._remove_empty_folders(entry.path.parent)

    def _remove_empty_folders(self, folder: Path) -> None:
        assert isinstance(self._goal, Local)
        while folder != self._goal.path:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    def _count_deleted(self, entry: Entry) -> None:
        self.deleted += 1
        self._tell("deleted", entry.name, None, _where(entry))

    def _is_excluded(self, name: str) -> bool:
        return any(pattern.fullmatch(name) or pattern.fullmatch(name.rsplit("/", 1)[-1]) for pattern in self._excluded)

    def _is_left_out(self, name: str) -> bool:
        """Whether it, or a folder that it is in, is at the source and was not looked at."""
        parts = name.split("/")
        return any("/".join(parts[:count]) in self._left_out for count in range(1, len(parts) + 1))

    def _skip(self, name: str, reason: str, is_failure: bool) -> None:
        self._left_out.add(name.rstrip("/"))
        if is_failure:
            self.failures.add(name, f"{reason}.")
        else:
            self._output.warn(f"trivet: {name}: left out, {reason}.")

    def _tell(self, action: str, name: str, source: Entry | None, target: Remote | Path) -> None:
        if self._output.is_json:
            self._output.document(
                {
                    "action": action,
                    "name": name,
                    "source": str(_where(source)) if source else None,
                    "target": str(target),
                    "size_bytes": source.size_bytes if source else None,
                }
            )
        elif self._chosen["dry_run"]:
            self._output.fields(action.replace("_", " "), name)


def _check(origin: Address, goal: Address) -> None:
    if isinstance(origin, Local) and isinstance(goal, Local):
        raise click.UsageError(f"both are on this machine. Mark what is in the store: {SCHEME}bucket/folder/.")
    if not isinstance(origin, Local | Remote) or not isinstance(goal, Local | Remote):
        raise click.UsageError("sync is of folders; - is a stream. trivet cp takes it.")
    for place in (origin, goal):
        if isinstance(place, Remote) and place.has_pattern:
            raise click.UsageError(f"sync is of whole folders, and {place} is a pattern; --exclude leaves files out.")
    if isinstance(origin, Remote) and isinstance(goal, Remote) and origin.bucket == goal.bucket:
        ours, theirs = (place.literal.key.rstrip("/") + "/" for place in (origin, goal))
        if "/" in {ours, theirs} or ours.startswith(theirs) or theirs.startswith(ours):
            # What one side lacks would be deleted, or copied into itself.
            raise click.UsageError(f"{origin} and {goal} lie in each other; sync is of two folders.")
    if isinstance(origin, Local) and not origin.path.is_dir():
        if os.path.lexists(origin.path):
            raise click.UsageError(f"{origin} is a file; trivet cp copies it.")
        raise Failure(f"{origin}: there is no such folder on this machine.", ExitCode.NOT_FOUND)


def _where(entry: Entry) -> Remote | Path:
    return entry.path if isinstance(entry, local.LocalFile) else entry.place


def _ignore(name: str, reason: str, is_failure: bool) -> None:
    """At the target, what is no file is nobody's business."""
