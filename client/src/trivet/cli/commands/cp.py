"""`trivet cp`: files to, from and within the store."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from trivet.cli import globs, local, remote, transfers
from trivet.cli.addresses import SCHEME, Address, Local, Remote, Stream, parse_source, parse_target
from trivet.cli.exit_codes import ExitCode
from trivet.cli.failures import Failure, explain
from trivet.cli.lazy import Command, asynchronous
from trivet.cli.naming import SAME_TARGET, Targets, name_below, place_below
from trivet.cli.output import Output
from trivet.cli.parameters import ADDRESS, PAIR, SIZE
from trivet.cli.progress import Progress
from trivet.cli.session import Session
from trivet.cli.workers import Failures, run_all

if TYPE_CHECKING:
    from trivet import AsyncClient


_COUNTED_AT_ONCE = 500


@click.command(cls=Command)
@click.argument("sources", nargs=-1, required=True, type=ADDRESS, metavar="SOURCE...")
@click.argument("target", type=ADDRESS)
@click.option("-r", "--recursive", is_flag=True, help="Folders with all that is in them.")
@click.option("-n", "--no-clobber", is_flag=True, help="Keep what is there; such a file counts as failed.")
@click.option("--version", type=int, metavar="N", help="An older version of the source (trivet versions).")
@click.option("--content-type", metavar="TYPE", help="Instead of what the name's ending says.")
@click.option("--meta", type=PAIR, multiple=True, metavar="NAME=VALUE", help="User metadata of the new file.")
@click.option("--no-resume", is_flag=True, help="Begin anew, whatever an interrupted call left behind.")
@click.option("--part-size", type=SIZE, metavar="SIZE", help="Of large uploads, such as 32MiB.")
@click.option("--parallel", type=click.IntRange(1, 64), metavar="N", help="Parts of one file at a time.")
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=8, show_default=True, help="Files at a time.")
@click.option("--dry-run", is_flag=True, help="Only say what would be copied.")
@asynchronous
async def cp(session: Session, sources: tuple[str, ...], target: str, **chosen: Any) -> None:
    """Copy files to, from or within the store.

    A target that ends with / (or is a bucket, or a folder of this machine) takes the files in under their own names; any other
    is the new name. A source folder that ends with / gives its contents instead of itself. * ? [ab] are patterns, ** crosses
    slashes, and - is standard input or output. Within the store no bytes move.

    An interrupted copy of a large file goes on where it was when the same command is given again.
    """
    origin = [parse_source(text) for text in sources]
    is_source_remote = any(isinstance(place, Remote) for place in origin)
    goal = parse_target(target, is_source_remote=is_source_remote)
    _check(origin, goal, chosen)
    wishes = transfers.Wishes(
        chosen["content_type"],
        dict(chosen["meta"]),
        chosen["no_clobber"],
        not chosen["no_resume"],
        chosen["part_size"],
        chosen["parallel"],
    )
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(session.client())
        if isinstance(goal, Stream):
            await _to_stream(client, origin, chosen)
            return
        progress = stack.enter_context(Progress(session.output, "Copying"))
        session.interrupted = _Farewell(progress)
        copying = _Copying(client, session.output, progress, wishes, chosen)
        await copying.run(origin, goal)
    if progress.done_files and not chosen["dry_run"]:
        session.output.say(progress.summary("Copied"))
    copying.failures.raise_if_any(progress.done_files)


class _Piece(msgspec.Struct, frozen=True):
    """One file to copy: what it is, and where it goes. `name` is for people; `is_named`: the target itself was."""

    name: str
    size_bytes: int | None
    source: local.LocalFile | Remote | Stream
    target: Remote | Path
    is_named: bool = False


class _Farewell(msgspec.Struct, frozen=True):
    """What to say at Ctrl-C."""

    progress: Progress

    def __str__(self) -> str:
        if self.progress.total_files > 1:
            return (
                f"Interrupted: {self.progress.done_files:,} of {self.progress.total_files:,} files are copied. "
                "trivet sync with the same folders copies what is missing."
            )
        return "Interrupted. The same command goes on where this one stopped."


class _Copying:
    def __init__(
        self, client: AsyncClient, output: Output, progress: Progress, wishes: transfers.Wishes, chosen: dict[str, Any]
    ) -> None:
        self._client = client
        self._output = output
        self._progress = progress
        self._wishes = wishes
        self._chosen = chosen
        self.failures = Failures(output)
        self._targets = Targets(1)
        self._misreadable: str | None = None

    async def run(self, origin: list[Address], goal: Address) -> None:
        self._targets = Targets(len(origin))
        self._misreadable = next(filter(None, map(_misreading, origin)), None)
        # Pieces are found as workers take them; a bar has to know how many there are long before.
        estimating = asyncio.create_task(self._estimate(origin)) if self._output.shows_progress else None
        try:
            await run_all(
                self._pieces(origin, goal),
                self._copy,
                jobs=self._chosen["jobs"],
                failures=self.failures,
                name_of=lambda piece: piece.name,
            )
        finally:
            if estimating:
                estimating.cancel()

    async def _estimate(self, origin: list[Address]) -> None:
        """Tell the bar what there is; whatever fails here fails for the copies, too, and is said there."""
        from trivet.errors import TrivetError

        size_bytes = files = 0
        with suppress(TrivetError, Failure, OSError):
            for place in origin:
                if isinstance(place, Stream):
                    return
                if isinstance(place, Remote):
                    async for found in remote.expand(self._client, place, is_recursive=self._chosen["recursive"]):
                        size_bytes, files = size_bytes + found.size_bytes, files + 1
                    continue
                for file, _, _ in _local_files(place, self._chosen["recursive"], _say_nothing):
                    size_bytes, files = size_bytes + file.size_bytes, files + 1
                    if files % _COUNTED_AT_ONCE == 0:
                        await asyncio.sleep(0)
            self._progress.estimate(size_bytes, files)

    async def _pieces(self, origin: list[Address], goal: Address) -> AsyncIterator[_Piece]:
        placing = _Placing(goal)
        for place in origin:
            try:
                async for piece in self._of_source(place, placing):
                    self._progress.expect(piece.size_bytes)
                    yield piece
            except Failure as error:
                # One source that is not there does not keep the others from being copied.
                if len(origin) == 1:
                    raise
                self.failures.add(place, error, error.code)

    async def _of_source(self, place: Address, placing: _Placing) -> AsyncIterator[_Piece]:
        if isinstance(place, Stream):
            target = placing.of("", None)
            assert target is not None
            yield _Piece("standard input", None, place, target)
        elif isinstance(place, Local):
            for file, name, whole in _local_files(place, self._chosen["recursive"], self._skip):
                if piece := self._piece(str(file.path), file.size_bytes, file, (name, whole), placing):
                    yield piece
        else:
            async for found in remote.expand(self._client, place, is_recursive=self._chosen["recursive"]):
                name, whole = name_below(place, found.key)
                source = Remote(place.bucket, found.key)
                if piece := self._piece(str(source), found.size_bytes, source, (name, whole), placing):
                    yield piece

    def _piece(
        self,
        shown: str,
        size: int,
        source: local.LocalFile | Remote,
        names: tuple[str, str | None],
        placing: _Placing,
    ) -> _Piece | None:
        try:
            target = placing.of(*names)
        except local.UnsafeNameError as error:
            self.failures.add(shown, f"{error}.")
        except OSError as error:
            self.failures.add(shown, error)
        else:
            if target is not None and self._targets.take(target):
                return _Piece(shown, size, source, target, placing.is_named(target))
            if target is not None:
                self.failures.add(shown, SAME_TARGET, ExitCode.REFUSED)
        return None

    def _skip(self, name: str, reason: str, is_failure: bool) -> None:
        if is_failure:
            self.failures.add(name, f"{reason}.")
        else:
            self._output.warn(f"trivet: {name}: left out, {reason}.")

    async def _copy(self, piece: _Piece) -> None:
        if self._chosen["dry_run"]:
            self._tell(piece, "would_copy", None)
            self._progress.finish_file()
            return
        client, version = self._client, self._chosen["version"]
        done: Any
        if isinstance(piece.target, Remote):
            if isinstance(piece.source, Stream):
                stdin = transfers.standard_input()
                done = await transfers.upload_stream(client, stdin, piece.target, self._wishes, self._progress)
            elif isinstance(piece.source, local.LocalFile):
                with self._misread():
                    done = await transfers.upload(client, piece.source, piece.target, self._wishes, self._progress)
            else:
                done = await transfers.copy(client, piece.source, piece.target, self._wishes, version=version)
                self._progress.resume(done.size_bytes)
                self._progress.finish_file()
        else:
            assert isinstance(piece.source, Remote)
            done = await transfers.download(
                client,
                piece.source,
                piece.target,
                self._wishes,
                self._progress,
                version=version,
                is_named=piece.is_named,
            )
        self._tell(piece, "copied", done)

    @contextmanager
    def _misread(self) -> Iterator[None]:
        """Where there is no such bucket, a source that is here by chance may have been meant as the store's file."""
        from trivet.errors import BucketNotFound

        try:
            yield
        except BucketNotFound as error:
            if self._misreadable is None:
                raise
            raise Failure(f"{self._misreadable} {explain(error)}", ExitCode.NOT_FOUND) from error

    def _tell(self, piece: _Piece, action: str, done: Any) -> None:
        record = {
            "action": action,
            "source": piece.name,
            "target": str(piece.target),
            "size_bytes": done.size_bytes if done else piece.size_bytes,
            "version": getattr(done, "version", None),
            "etag": getattr(done, "etag", None),
            "digest": getattr(done, "digest", None),
        }
        if self._output.is_json:
            self._output.document(record)
        elif action == "would_copy":
            self._output.fields("would copy", piece.name, piece.target)


class _Placing:
    """Where a file goes under the target that was named."""

    def __init__(self, goal: Address) -> None:
        self._goal = goal
        # Decided once: the first file makes a folder of a name that was free.
        self._is_folder = isinstance(goal, Remote | Local) and goal.is_folder
        self._folders: dict[Path, local.Folder] = {}

    def of(self, name: str, whole: str | None) -> Remote | Path | None:
        """A place for one file.

        Args:
            name: of the file below its source; empty for a stream.
            whole: the source's own name with a slash, where the file belongs to a folder or pattern that is copied; empty if that
                name is left away, None for a single file.
        """
        goal = self._goal
        if isinstance(goal, Remote):
            if goal.is_folder and not name:
                raise Failure(f"{goal} needs a name for what comes from standard input.", ExitCode.USAGE)
            return place_below(goal, name, whole)
        assert isinstance(goal, Local)
        if whole is None and not self._is_folder:
            return goal.path
        inside = (whole or "") + name if self._is_folder else name
        if inside.endswith("/"):
            # What others put into stores to stand for a folder; here it is one.
            self._folder(goal.path).path_of(inside + ".folder").parent.mkdir(parents=True, exist_ok=True)
            return None
        return self._folder(goal.path).path_of(inside)

    def is_named(self, target: Remote | Path) -> bool:
        """Whether the target is what was named, and not in it."""
        return isinstance(self._goal, Local) and target == self._goal.path

    def _folder(self, root: Path) -> local.Folder:
        return self._folders.setdefault(root, local.Folder(root))


def _check(origin: list[Address], goal: Address, chosen: dict[str, Any]) -> None:
    kinds = {type(place) for place in origin}
    if not isinstance(goal, Remote) and Local in kinds:
        raise click.UsageError(
            f"both are on this machine. Mark what is in the store: {SCHEME}bucket/key. (What exists here is taken for a path.)"
        )
    if Stream in kinds and (len(origin) > 1 or not isinstance(goal, Remote)):
        raise click.UsageError("- as a source is standard input: one source, and a target in the store.")
    has_many = len(origin) > 1 or any(
        isinstance(place, Local | Remote) and globs.has_pattern(getattr(place, "key", "") or getattr(place, "text", ""))
        for place in origin
    )
    if has_many and not isinstance(goal, Stream) and not goal.is_folder:
        raise click.UsageError(f"several files need a folder as their target: {goal}/ with a slash.")
    if chosen["version"] is not None and (has_many or chosen["recursive"] or Remote not in kinds):
        raise click.UsageError("--version is of one file of the store.")
    if chosen["meta"] and not isinstance(goal, Remote):
        raise click.UsageError("--meta is kept in the store, and the target is not there.")


async def _to_stream(client: AsyncClient, origin: list[Address], chosen: dict[str, Any]) -> None:
    sys.stdout.flush()
    for place in origin:
        assert isinstance(place, Remote)
        async for file in remote.expand(client, place, is_recursive=chosen["recursive"]):
            source = Remote(place.bucket, file.key)
            await transfers.write_out(client, source, transfers.standard_output(), version=chosen["version"])


def _say_nothing(name: str, reason: str, is_failure: bool) -> None:
    """The copies say it."""


def _local_files(
    place: Local, is_recursive: bool, skip: local.Skipped
) -> Iterator[tuple[local.LocalFile, str, str | None]]:
    """Files with the two names that `_Placing.of` takes."""
    path = place.path
    if globs.has_pattern(place.text) and not os.path.lexists(path):
        yield from _matching_files(place, is_recursive, skip)
    elif path.is_dir() and is_recursive:
        own = "" if place.ends_with_slash else path.resolve().name + "/"
        yield from ((file, file.name, own) for file in local.walk(path, skip))
    else:
        file = local.describe(path, path.name)
        yield file, file.name, None


def _misreading(place: Address) -> str | None:
    """What to say of a path here that could be a file of the store; None for any other source."""
    if isinstance(place, Local) and place.may_be_remote:
        kind = "folder" if place.path.is_dir() else "file"
        return f"{place} is a {kind} here; say {SCHEME}{place} for the store's."
    return None


def _matching_files(
    place: Local, is_recursive: bool, skip: local.Skipped
) -> Iterator[tuple[local.LocalFile, str, str | None]]:
    start = len(globs.base(os.path.expanduser(place.text)))  # noqa: PTH111 - a pattern is no path
    path = None
    for path in globs.local_matches(place.text):
        name = str(path)[start:]
        if not path.is_dir():
            yield local.describe(path, name), name, ""
        elif is_recursive:
            yield from ((file, f"{name}/{file.name}", "") for file in local.walk(path, skip))
        else:
            skip(str(path), "it is a folder, and -r is not given", False)
    if path is None:
        raise Failure(f"{place}: no file of this machine matches.", ExitCode.NOT_FOUND)
