"""Many small pieces of work at a time: a few workers take them from one source, and one that fails does not stop the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import click

from trivet.cli.exit_codes import ExitCode, exit_code_of
from trivet.cli.failures import Failure, explain
from trivet.cli.output import Output

WorkT = TypeVar("WorkT")


@dataclass
class Failures:
    """What went wrong with single files, while the others went on."""

    output: Output
    count: int = 0
    codes: set[ExitCode] = field(default_factory=set)

    def add(self, name: object, error: BaseException | str, code: ExitCode | None = None) -> None:
        """Say so, and remember it for the end."""
        self.count += 1
        found = code or (ExitCode.FAILED if isinstance(error, str) else exit_code_of(error))
        self.codes.add(found)
        said = error if isinstance(error, str) else explain(error)
        self.output.fail_one(str(name), said, int(found), getattr(error, "problem", None))

    def raise_if_any(self, done: int) -> None:
        """Ends the program with the code that all failures have in common, else with FAILED."""
        if not self.count:
            return
        code = self.codes.pop() if len(self.codes) == 1 else ExitCode.FAILED
        if done + self.count == 1:
            # It was said already.
            raise click.exceptions.Exit(int(code))
        raise Failure(f"{self.count:,} of {done + self.count:,} files failed, as said above.", code)


def stops_everything(error: BaseException) -> bool:
    """Whether no other file would do better: no connection, no room, no right to be here at all."""
    from trivet import errors

    return isinstance(error, errors.ConnectionFailed | errors.OutOfSpace | errors.Unauthorized | errors.ConfigError)


async def run_all(
    work: AsyncIterator[WorkT],
    do: Callable[[WorkT], Awaitable[None]],
    *,
    jobs: int,
    failures: Failures,
    name_of: Callable[[WorkT], object],
) -> None:
    """Do all of it, `jobs` pieces at a time; what is listed runs ahead by that many and no more.

    Raises:
        TrivetError: one that would meet every other piece, too.
    """
    lock = asyncio.Lock()

    async def take() -> tuple[WorkT] | None:
        async with lock:
            try:
                return (await anext(work),)
            except StopAsyncIteration:
                return None

    async def worker() -> None:
        while piece := await take():
            try:
                await do(piece[0])
            except Exception as error:  # one file, whatever is in it, does not stop the others
                if stops_everything(error):
                    raise
                failures.add(name_of(piece[0]), error, error.code if isinstance(error, Failure) else None)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(jobs):
                group.create_task(worker())
    except BaseExceptionGroup as several:
        # All workers met the same wall: one sentence says it.
        raise several.exceptions[0] from None
