"""Which files of the store an address names: one, those of a folder, or those that match a pattern."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from trivet.cli import globs
from trivet.cli.addresses import Remote
from trivet.cli.exit_codes import ExitCode
from trivet.cli.failures import Failure, not_found

if TYPE_CHECKING:
    from trivet import AsyncClient
    from trivet.models import ListedFile, ListedVersion

PageT = TypeVar("PageT")


async def find_one(client: AsyncClient, place: Remote, *, details: bool = False) -> ListedFile | None:
    """The file with exactly that key, or None. Works for keys that no path can name, too."""
    async for page in client.list_pages(place.bucket, place.key, limit=1, details=details):
        # The key itself comes before every other one that begins with it.
        for file in page.files:
            return file if file.key == place.key else None
    return None


async def files_below(client: AsyncClient, place: Remote, *, details: bool = False) -> AsyncIterator[ListedFile]:
    """Every file whose key begins with that of `place`, in the order of the keys' bytes."""
    async with read_ahead(client.list_pages(place.bucket, place.key, details=details)) as pages:
        async for page in pages:
            for file in page.files:
                yield file


@asynccontextmanager
async def read_ahead(pages: AsyncIterator[PageT]) -> AsyncIterator[AsyncIterator[PageT]]:
    """The same pages, of which the next is asked for while one is used. Outside of the block nothing is asked any more."""

    async def following() -> PageT | None:
        return await anext(pages, None)

    upcoming = asyncio.create_task(following())

    async def rows() -> AsyncIterator[PageT]:
        nonlocal upcoming
        while (page := await upcoming) is not None:
            upcoming = asyncio.create_task(following())
            yield page

    try:
        yield rows()
    finally:
        upcoming.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await upcoming


async def expand(
    client: AsyncClient, place: Remote, *, is_recursive: bool, details: bool = False
) -> AsyncIterator[ListedFile]:
    """The files that an address names. With `is_recursive` a folder, or a pattern that matches one, stands for all that is in it.

    Raises:
        Failure: it names none; or a folder, and `is_recursive` is not set.
    """
    count = 0
    if place.has_pattern:
        found = _matching(client, place, is_recursive=is_recursive, details=details)
    elif is_recursive:
        found = _folder_or_file(client, place.literal, details=details)
    else:
        found = _one(client, place.literal, details=details)
    async for file in found:
        count += 1
        yield file
    if not count and not (is_recursive and not place.key):
        raise not_found(place, "A list of what is there: trivet ls " + place.bucket)


async def has_any(client: AsyncClient, place: Remote) -> bool:
    """Whether any key begins with that of `place`."""
    async for page in client.list_pages(place.bucket, place.key, limit=1):
        if page.files:
            return True
    return False


async def _one(client: AsyncClient, place: Remote, *, details: bool) -> AsyncIterator[ListedFile]:
    file = None if place.is_folder else await find_one(client, place, details=details)
    if file:
        yield file
        return
    folder = place if place.is_folder else place.child("/")
    if await has_any(client, folder):
        raise Failure(f"{folder} is a folder; -r takes all that is in it.", ExitCode.USAGE)


async def _folder_or_file(client: AsyncClient, place: Remote, *, details: bool) -> AsyncIterator[ListedFile]:
    is_empty = True
    async for file in files_below(client, place if place.is_folder else place.child("/"), details=details):
        is_empty = False
        yield file
    if is_empty and not place.is_folder and (file_itself := await find_one(client, place, details=details)):
        yield file_itself


async def _matching(
    client: AsyncClient, place: Remote, *, is_recursive: bool, details: bool
) -> AsyncIterator[ListedFile]:
    pattern = globs.compile_pattern(place.key)
    if is_recursive:
        pattern = re.compile(f"(?:{pattern.pattern})(?:(?<=/)|/|$).*", re.DOTALL)
    start = Remote(place.bucket, globs.literal_prefix(place.key))
    async for file in files_below(client, start, details=details):
        if pattern.fullmatch(file.key):
            yield file


async def every_version(
    client: AsyncClient, place: Remote, *, is_one_file: bool = False
) -> AsyncIterator[ListedVersion]:
    """Versions and delete markers of the keys that begin with that of `place`, or of that key alone; the newest of each first."""
    prefix, key = ("", place.key) if is_one_file else (place.key, None)
    async with read_ahead(client.version_pages(place.bucket, prefix, key=key)) as pages:
        async for page in pages:
            for row in page.versions:
                yield row


async def versions_of(client: AsyncClient, place: Remote, *, is_recursive: bool) -> AsyncIterator[tuple[str, int]]:
    """Every version and delete marker of the files that an address names, deleted ones too; as `expand` otherwise."""
    whole = place.literal
    pattern = globs.compile_pattern(place.key) if place.has_pattern else None
    start = Remote(place.bucket, globs.literal_prefix(place.key)) if pattern else whole
    folder = whole.key if whole.is_folder else whole.key + "/"
    is_empty = True
    async for row in every_version(client, start):
        if pattern:
            is_named = pattern.fullmatch(row.key) is not None
        else:
            is_named = row.key == whole.key or (is_recursive and row.key.startswith(folder if whole.key else ""))
        if is_named:
            is_empty = False
            yield row.key, row.version
    if is_empty and place.key:
        raise not_found(place)
