"""Remembers what linearizable reads said of the log: where it stood, in which placement epoch, and which buckets there were.

A small upload begins with that instead of with a read of its own. What is remembered may be stale, and then `apply` refuses
the publish: so nothing wrong is published, and the upload reads and begins anew. Nothing is refused for what is remembered.

Every metadata call of the gateway is passed on here as it is, and `caches` hear for which cluster it was answered (G-129).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from services.gateway.cluster_caches import ClusterCaches
from services.gateway.ports import Metadata
from shared.consensus_calls.client import DEFAULT_RETAIN_S, ReadContext
from shared.contracts.access import Requester
from shared.contracts.calls import AnswerT, Command, Proposed, Query, ResultT
from shared.contracts.metadata import (
    BucketAnswer,
    CreateBucket,
    CreatedBucket,
    DeleteBucket,
    FileAnswer,
    GetBucket,
    GetFile,
)

MAX_BUCKETS: Final = 4096


@dataclass(frozen=True, slots=True)
class RememberedPosition:
    """The bucket's incarnation, and the log index and the epoch of the same read or of a later one."""

    incarnation: int
    log_index: int
    epoch: int


class RecentLog:
    """`ports.Metadata` in front of another one.

    It is one of `caches`: an index, an epoch and an incarnation of another cluster, made by a restore say, mean something
    else.
    """

    def __init__(
        self,
        metadata: Metadata,
        caches: ClusterCaches,
        *,
        max_age_s: float,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metadata = metadata
        self._max_age_s = max_age_s
        self._monotonic_s = monotonic_s
        self._newest: ReadContext | None = None
        self._asked_at_s = 0.0
        self._incarnations: OrderedDict[str, int] = OrderedDict()
        """By bucket, the most recently used last."""
        self._caches = caches
        caches.add(self._forget_all)

    async def propose(
        self,
        command: Command[ResultT],
        *,
        request_id: str | None = None,
        retain_s: int = DEFAULT_RETAIN_S,
        fingerprint: str | None = None,
        requester: Requester | None = None,
        deadline_s: float | None = None,
    ) -> Proposed[ResultT]:
        """As `Metadata.propose`."""
        outcome = await self._metadata.propose(
            command,
            request_id=request_id,
            retain_s=retain_s,
            fingerprint=fingerprint,
            requester=requester,
            deadline_s=deadline_s,
        )
        if isinstance(command, CreateBucket) and isinstance(outcome.result, CreatedBucket):
            self._remember(command.bucket, outcome.result.incarnation)
        elif isinstance(command, DeleteBucket):
            self._incarnations.pop(command.bucket, None)
        return outcome

    async def read(self, query: Query[AnswerT], *, deadline_s: float | None = None) -> tuple[AnswerT, ReadContext]:
        """As `Metadata.read`."""
        asked_at_s = self._monotonic_s()
        answer, context = await self._metadata.read(query, deadline_s=deadline_s)
        self._caches.answered(context.cluster_id)
        self._learn_position(context, asked_at_s)
        if isinstance(query, GetBucket) and isinstance(answer, BucketAnswer):
            self._remember(query.bucket, 0 if answer.bucket is None else answer.bucket.incarnation)
        elif isinstance(query, GetFile) and isinstance(answer, FileAnswer):
            self._remember(query.bucket, answer.incarnation)
        return answer, context

    def position(self, bucket: str) -> RememberedPosition | None:
        """Where an upload into `bucket` may begin without a read; None when that is not known, or for too long."""
        newest = self._newest
        if newest is None or self._monotonic_s() - self._asked_at_s >= self._max_age_s:
            return None
        incarnation = self._incarnations.get(bucket)
        if incarnation is None:
            return None
        self._incarnations.move_to_end(bucket)
        return RememberedPosition(incarnation, newest.log_index, newest.epoch)

    def forget(self, bucket: str) -> None:
        """What is remembered was stale: the next upload reads."""
        self._newest = None
        self._incarnations.pop(bucket, None)

    def _forget_all(self) -> None:
        self._newest = None
        self._incarnations.clear()

    def _learn_position(self, context: ReadContext, asked_at_s: float) -> None:
        if context.cluster_id is None:
            return  # of a member of an older version: another cluster would not be noticed
        # Answers may overtake each other; what was applied at the higher index contains the other.
        if self._newest is None or context.log_index >= self._newest.log_index:
            self._newest, self._asked_at_s = context, asked_at_s

    def _remember(self, bucket: str, incarnation: int) -> None:
        """`incarnation` is 0 where there is no such bucket."""
        if incarnation == 0:
            self._incarnations.pop(bucket, None)
            return
        self._incarnations[bucket] = incarnation
        self._incarnations.move_to_end(bucket)
        if len(self._incarnations) > MAX_BUCKETS:
            self._incarnations.popitem(last=False)
