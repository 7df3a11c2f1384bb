"""Deletes many files of one bucket, by entries of a bounded number each (G-150)."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.gateway.transfers.idempotency import IdempotencyKey, IdempotencyStore
from shared.contracts.objects import DELETE_FILES_MAX, DeleteFiles, DeleteOutcome, FileToDelete
from shared.contracts.time import TimeSource
from shared.errors import PromotionDeferredError, TrivetError

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
        log_index, incarnation = 0, None
        with self._idempotency.running(key):
            for number in itertools.count():
                entry = left.popleft()
                command = DeleteFiles(
                    bucket=bucket,
                    incarnation=incarnation,
                    files=[file for _, file in entry],
                    stamp=self._clock.stamp(),
                )
                try:
                    outcome = await self._idempotency.propose(command, None if key is None else key.of_entry(number))
                except TrivetError as error:
                    error.definite = error.definite and number == 0
                    raise
                log_index, incarnation = outcome.log_index, outcome.result.incarnation
                decided = list(zip(entry, outcome.result.results, strict=True))
                outcomes |= {position: result for (position, _), result in decided if not _is_deferred(result)}
                # Each key in an entry of its own, which decides it: sent together again, all but one would wait again.
                left.extendleft(reversed(_by_key(asked for asked, result in decided if _is_deferred(result))))
                if not left:
                    break
        return DeletedBatch([(file.key, outcomes[position]) for position, file in enumerate(files)], log_index)


def _by_key(deferred: Iterable[_Asked]) -> list[list[_Asked]]:
    keys: dict[str, list[_Asked]] = {}
    for position, file in deferred:
        keys.setdefault(file.key, []).append((position, file))
    return list(keys.values())


def _is_deferred(result: DeleteOutcome) -> bool:
    """The entry had done its one promotion: in another one the file has its turn."""
    return result.problem is not None and result.problem.get("code") == PromotionDeferredError.code
