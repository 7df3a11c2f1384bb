"""Has a list of chunks logged, and puts all of them again while what their nodes acknowledged counts no more.

A publication is refused when it counts a node that was removed, drains or has lost its disk since it acknowledged a chunk, and
when a chunk was condemned since the attempt began. Then it begins anew without its client: every chunk is fetched from a
replica, verified, and put again with a new start index. No acknowledgement of the earlier attempt counts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

import structlog
from blake3 import blake3

from services.gateway.ports import FileChunk, LeasedChunk
from services.gateway.replicas.quorum import Quorums
from services.gateway.replicas.reader import ReplicaReader
from services.gateway.replicas.writer import ReplicaWriter
from services.gateway.semantics.body_digests import Digests
from services.gateway.transfers.admission import Transfer
from services.gateway.transfers.chunk_sender import ChunkSender, Start
from services.gateway.transfers.chunking import ReservationWaits, cut
from services.gateway.transfers.recent_log import RecentLog
from shared.contracts.cluster import NodeMap
from shared.contracts.files import FileContent
from shared.errors import (
    BucketNotFoundError,
    BucketRecreatedError,
    ChunkCondemnedError,
    InternalError,
    InvalidRequestError,
    NodeDrainingError,
    NodeRemovedError,
    NodeReplacedError,
    UnavailableError,
)
from shared.placement import read_order
from shared.reused_buffers import ReusedBuffers

logger = structlog.get_logger(__name__)

MAX_BUFFERS: Final = 20
"""For as many chunks as are on their way to replicas at one time by default, and those at the ends of that way."""

MAX_ATTEMPTS: Final = 3
"""Attempts that read first; each but the first puts all of the chunks again."""

_UNPROVED: Final = (NodeRemovedError, NodeReplacedError, NodeDrainingError, ChunkCondemnedError)
"""Refusals that say that what was acknowledged proves no durable chunk any more."""

_STALE: Final = (*_UNPROVED, BucketNotFoundError, BucketRecreatedError, InvalidRequestError)
"""Refusals that an attempt without a read of its own may owe to what was remembered: the start index of another cluster, which
its log has not reached, is an invalid request."""


class ReceivedBody:
    """What of a body has come, and what it must be. A single chunk of a body of known length is hashed once."""

    def __init__(self, digests: Digests, announced_bytes: int | None) -> None:
        self._digests = digests
        self._announced_bytes = announced_bytes
        self._hasher = blake3()
        self._only_digest: str | None = None
        self.size_bytes = 0

    async def catch_up(self) -> None:
        """Wait until a thread that hashes is done, before the next chunk or `check`."""
        if self._digests.is_behind:
            await self._digests.catch_up()

    def add(self, chunk: FileChunk) -> bool:
        """The next chunk; says whether it is all of the body."""
        self._digests.update(chunk.data)
        self.size_bytes += len(chunk.data)
        # One chunk as long as was announced is the body, and its digest is the body's.
        if len(chunk.data) == self._announced_bytes:
            self._only_digest = chunk.digest
            return True
        self._hasher.update(chunk.data)
        return False

    @property
    def digest(self) -> str:
        """BLAKE3 of what has come, hex."""
        return self._hasher.hexdigest() if self._only_digest is None else self._only_digest

    def check(self) -> None:
        """The body is whole. Raises DigestMismatchError, or InternalError where it is not as long as announced; definite."""
        if self._announced_bytes is not None and self._announced_bytes != self.size_bytes:
            raise InternalError("The body was not as long as announced, and the server let it pass.", definite=True)
        self._digests.check()


PublishedT_co = TypeVar("PublishedT_co", covariant=True)


class Publication(Protocol[PublishedT_co]):
    """What a list of chunks is logged as: a file, or a part of one."""

    @property
    def bucket(self) -> str:
        """Into which it goes."""

    async def read_start(self) -> Start:
        """Where the log stands now. Raises what forbids the publication for good."""

    async def propose(self, sender: ChunkSender) -> PublishedT_co:
        """Have it logged, as an attempt of its own. Raises the refusal."""


@dataclass(frozen=True, slots=True)
class PublisherLimits:
    """See `GatewaySettings`."""

    chunk_size_bytes: int
    window_chunks: int
    waits: ReservationWaits


class Publisher:
    """Of all uploads of a gateway."""

    def __init__(
        self, recent: RecentLog, writer: ReplicaWriter, reader: ReplicaReader, limits: PublisherLimits
    ) -> None:
        self._recent = recent
        self._writer = writer
        self._reader = reader
        self._limits = limits
        self._buffers = ReusedBuffers(bytearray, limits.chunk_size_bytes, max_buffers=MAX_BUFFERS)

    @property
    def chunk_size_bytes(self) -> int:
        """Of every chunk but a last one."""
        return self._limits.chunk_size_bytes

    def cut(self, body: AsyncIterable[bytes], transfer: Transfer) -> AsyncGenerator[LeasedChunk, None]:
        """The chunks of `body`; see `chunking.cut`."""
        return cut(body, buffers=self._buffers, transfer=transfer, waits=self._limits.waits)

    def sender(self, start: Start, quorums: Quorums) -> ChunkSender:
        """Of the first attempt."""
        return ChunkSender(self._writer, start, quorums, self._limits.window_chunks)

    def content_of(self, sender: ChunkSender, digest: str | None) -> FileContent:
        """What was sent, as the log has it; `digest` of all of it."""
        return FileContent(
            size_bytes=sender.size_bytes,
            chunk_size_bytes=self._limits.chunk_size_bytes,
            chunk_digests=bytes(sender.chunk_digests),
            digest=digest,
        )

    async def until_decided(
        self, publication: Publication[PublishedT_co], sender: ChunkSender, transfer: Transfer
    ) -> PublishedT_co:
        """Publish; put everything again and publish anew while what was acknowledged counts no more.

        Every attempt is a proposal of its own, and begins after the refusal of the one before was read from the log.
        """
        attempts_left = MAX_ATTEMPTS + sender.start.is_remembered
        while True:
            attempts_left -= 1
            try:
                return await publication.propose(sender)
            except _STALE as refusal:
                if not (sender.start.is_remembered or isinstance(refusal, _UNPROVED)):
                    raise
                logger.warning("publish refused", code=refusal.code, attempts_left=attempts_left, **refusal.facts)
                if attempts_left == 0:
                    raise UnavailableError(
                        "Storage nodes or chunks were lost during every attempt; nothing was published.",
                        definite=True,
                        **refusal.facts,
                    ) from refusal
            if sender.start.is_remembered:
                self._recent.forget(publication.bucket)
            sender = await self.send_again(publication, sender, transfer)

    async def send_again(
        self, publication: Publication[object], sender: ChunkSender, transfer: Transfer
    ) -> ChunkSender:
        """Put the chunks of `sender` again with a start that is read now: from memory, or from replicas that verify.

        Raises:
            DataUnavailableError, QuorumNotReachedError, OverloadedError: a chunk could not be proved; definite.
            TrivetError: as `Publication.read_start`.
        """
        start = await publication.read_start()
        if not sender.start.is_remembered:
            # The client was promised the bucket that was there when its upload began.
            start = replace(start, incarnation=sender.start.incarnation)
        again = sender.begin_anew(start)
        try:
            for digest, size_bytes in sender.distinct_chunks(self._limits.chunk_size_bytes):
                held = await self._hold(digest, size_bytes, sender.kept, start.node_map, transfer)
                with held:
                    await again.send(held)
            await again.finish()
        except BaseException:
            again.abandon()
            raise
        return again

    async def _hold(
        self, digest: str, size_bytes: int, kept: FileChunk | None, node_map: NodeMap, transfer: Transfer
    ) -> LeasedChunk:
        """The chunk that was `kept`, or from a replica."""
        lease = transfer.lease()
        try:
            await transfer.grow(lease, size_bytes, wait_s=self._limits.waits.next_s)
            if kept is None:
                found = await self._reader.fetch(digest, size_bytes, read_order(digest, node_map))
                kept = FileChunk(digest, found.data)
        except BaseException:
            lease.release()
            raise
        return LeasedChunk(kept, lease)
