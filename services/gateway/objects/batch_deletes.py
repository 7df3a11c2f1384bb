"""Deletes many files of one bucket, by entries of a bounded number each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.gateway.transfers.idempotency import IdempotencyKey, IdempotencyStore
from shared.contracts.objects import DELETE_FILES_MAX, DeleteFiles, DeleteOutcome, FileToDelete
from shared.contracts.time import TimeSource
from shared.errors import TrivetError

KeyOfEntry = Callable[[int], IdempotencyKey | None]
"""The Idempotency-Key of the nth entry of a request: each happens once."""


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

    async def delete(self, bucket: str, files: Sequence[FileToDelete], key_of_entry: KeyOfEntry) -> DeletedBatch:
        """Delete `files` in their order. One that is absent is deleted.

        Raises:
            BucketNotFoundError: there is no such bucket.
            TrivetError: as `Metadata.propose`. None is definite once an entry has happened.
        """
        deleted: list[DeleteOutcome] = []
        log_index = 0
        with self._idempotency.running(key_of_entry(0)):
            for number, first in enumerate(range(0, len(files), DELETE_FILES_MAX)):
                entry = list(files[first : first + DELETE_FILES_MAX])
                command = DeleteFiles(bucket=bucket, files=entry, stamp=self._clock.stamp())
                try:
                    outcome = await self._idempotency.propose(command, key_of_entry(number))
                except TrivetError as error:
                    error.definite = error.definite and number == 0
                    raise
                deleted += outcome.result.results
                log_index = outcome.log_index
        return DeletedBatch(list(zip((file.key for file in files), deleted, strict=True)), log_index)
