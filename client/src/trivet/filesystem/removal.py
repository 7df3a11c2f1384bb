"""Removes many files by few calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from trivet import AsyncClient, errors
from trivet.filesystem.paths import prefix_of, split
from trivet.models import ListedFile

Name = tuple[str, str]
"""Bucket and key."""


async def names_below(client: AsyncClient, path: str) -> list[Name]:
    """Every file below a directory, those included that stand for directories and are not shown."""
    bucket, key = split(path)
    return [(bucket, row.key) async for row in client.list(bucket, prefix_of(key)) if isinstance(row, ListedFile)]


async def remove(client: AsyncClient, names: Iterable[Name]) -> None:
    """Delete files. One that is absent counts as deleted.

    Raises:
        ProblemError: one could not be deleted. Others may have been.
    """
    keys: defaultdict[str, list[str]] = defaultdict(list)
    for bucket, key in names:
        keys[bucket].append(key)
    for bucket, wanted in keys.items():
        for row in (await client.delete_many(bucket, wanted)).results:
            if row.problem is not None:
                raise errors.error_of_problem(row.problem)
