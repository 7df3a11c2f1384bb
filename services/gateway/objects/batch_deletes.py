"""Deletes many files of one bucket, by entries of a bounded number each (G-150)."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from services.gateway.transfers.idempotency import IdempotencyKey, IdempotencyStore
from shared.contracts.calls import Proposed
from shared.contracts.objects import DELETE_FILES_MAX, DeletedFiles, DeleteFiles, DeleteOutcome, FileToDelete
from shared.contracts.time import TimeSource
from shared.errors import PromotionDeferredError, TrivetError

_AT_ONCE: Final = 8
"""Entries of one request under way."""

_Asked = tuple[int, FileToDelete]
"""A file and its place in the request."""


@dataclass(frozen=True, slots=True)
class DeletedBatch:
    """The keys of a request in its order, and what became of each; `log_index` is that of the last entry."""

    files: list[tuple[str, DeleteOutcome]]
    log_index: int


class BatchDeletes:
    """A request is cut into entries, each of which happens as a whole."""

    def __init__(self, idempotency: IdempotencyStore, clock: TimeSource) -> None:
        self._idempotency = idempotency
        self._clock = clock

    async def delete(self, bucket: str, files: Sequence[FileToDelete], key: IdempotencyKey | None) -> DeletedBatch:
        """Delete `files` in their order. One that is absent is deleted.

        Raises:
            BucketNotFoundError: there is no such bucket.
            BucketRecreatedError: it was deleted and made again between two entries; what is in the new one stays.
            TrivetError: as `Metadata.propose`. None is definite once an entry has happened.
        """
        outcomes: dict[int, DeleteOutcome] = {}
        asked = list(enumerate(files))
        left = deque(asked[first : first + DELETE_FILES_MAX] for first in range(0, len(asked), DELETE_FILES_MAX))
        log_index, numbers = 0, itertools.count()
        incarnation: int | None = None
        with self._idempotency.running(key):
            while left:
                # The first one says which bucket is meant.
                entries = [left.popleft() for _ in range(1 if incarnation is None else _apart(left))]
                proposals = []
                for entry in entries:
                    command, number = self._command(bucket, incarnation, entry), next(numbers)
                    key_of_entry = None if key is None else key.of_entry(number)
                    proposals.append(self._propose(command, key_of_entry, is_first=number == 0))
                found = await asyncio.gather(*proposals, return_exceptions=True)
                for entry, outcome in zip(entries, found, strict=True):
                    if isinstance(outcome, BaseException):
                        raise outcome
                    log_index, incarnation = max(log_index, outcome.log_index), outcome.result.incarnation
                    decided = list(zip(entry, outcome.result.results, strict=True))
                    outcomes |= {position: result for (position, _), result in decided if not _is_deferred(result)}
                    # Each key in an entry of its own, which decides it: sent together again, all but one would wait again.
                    left.extendleft(reversed(_by_key(asked for asked, result in decided if _is_deferred(result))))
        return DeletedBatch([(file.key, outcomes[position]) for position, file in enumerate(files)], log_index)

    def _command(self, bucket: str, incarnation: int | None, entry: Iterable[_Asked]) -> DeleteFiles:
        files = [file for _, file in entry]
        return DeleteFiles(bucket=bucket, incarnation=incarnation, files=files, stamp=self._clock.stamp())

    async def _propose(
        self, command: DeleteFiles, key: IdempotencyKey | None, *, is_first: bool
    ) -> Proposed[DeletedFiles]:
        try:
            return await self._idempotency.propose(command, key)
        except TrivetError as error:
            error.definite = error.definite and is_first
            raise


def _apart(left: Iterable[list[_Asked]]) -> int:
    """How many of the next entries may be under way at once: none of their keys is in two of them."""
    keys: set[str] = set()
    for count, entry in enumerate(left):
        named = {file.key for _, file in entry}
        if count == _AT_ONCE or not keys.isdisjoint(named):
            return count
        keys |= named
    return count + 1


def _by_key(deferred: Iterable[_Asked]) -> list[list[_Asked]]:
    keys: dict[str, list[_Asked]] = {}
    for position, file in deferred:
        keys.setdefault(file.key, []).append((position, file))
    return list(keys.values())


def _is_deferred(result: DeleteOutcome) -> bool:
    """The entry had done its one promotion: in another one the file has its turn."""
    return result.problem is not None and result.problem.get("code") == PromotionDeferredError.code
