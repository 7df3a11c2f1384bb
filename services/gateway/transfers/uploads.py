"""One upload: learn where the log stands, send the chunks in parallel windows, publish one log entry.

Nothing is visible before the entry is applied, so an upload that breaks off at any step leaves the old version as it was;
its chunks are garbage that the cluster collects.

A publish is refused when it counts a node that was removed, drains or has lost its disk since it acknowledged a chunk, and when
a chunk was condemned since the upload began. Then the upload begins anew without its client: every chunk is fetched from a
replica, verified, and put again with a new start index. No acknowledgement of the earlier attempt counts.

A body that is announced to be one chunk at most, without conditions and Idempotency-Key, begins with what an earlier read of
this gateway said (`recent_log`). What is stale then shows when the publish is refused: the next attempt reads first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final, Self

import structlog
from blake3 import blake3

from services.gateway.ports import Clock, FileChunk, Metadata
from services.gateway.replicas.node_directory import NodeDirectory
from services.gateway.replicas.quorum import Quorums, durability, fences, require_enough_nodes
from services.gateway.replicas.reader import ReplicaReader
from services.gateway.replicas.writer import ChunkWrite, ReplicaWriter
from services.gateway.semantics.body_digests import BodyDigests
from services.gateway.semantics.conditions import UNCONDITIONAL, Present, check_write
from services.gateway.semantics.file_headers import etag_of
from services.gateway.semantics.raw_names import FileName
from services.gateway.settings import FIRST_RESERVATION_BYTES
from services.gateway.transfers.admission import SMALL_BYTES, Admission, Transfer
from services.gateway.transfers.chunking import PacedBody, ReservationWaits, cut
from services.gateway.transfers.idempotency import IdempotencyKey, IdempotencyStore, StoredResult
from services.gateway.transfers.recent_log import RecentLog
from shared.byte_budget import ByteLease
from shared.consensus_calls.client import ReadContext
from shared.contracts.calls import Proposed
from shared.contracts.cluster import NodeMap
from shared.contracts.files import FileContent, FileVersion, Preconditions
from shared.contracts.metadata import GetBucket, GetFile, Published, PublishFile
from shared.contracts.names import DIGEST_BYTES
from shared.errors import (
    BucketNotFoundError,
    BucketRecreatedError,
    ChunkCondemnedError,
    DigestMismatchError,
    DiskFullError,
    InternalError,
    InvalidRequestError,
    NodeDrainingError,
    NodeRemovedError,
    NodeReplacedError,
    PayloadTooLargeError,
    QuorumNotReachedError,
    UnavailableError,
)
from shared.placement import can_take_chunks, read_order, write_order
from shared.reused_buffers import ReusedBuffers

logger = structlog.get_logger(__name__)

MAX_BUFFERS: Final = 20
"""For as many chunks as are on their way to replicas at one time by default, and those at the ends of that way."""

MAX_ATTEMPTS: Final = 3
"""Publishes of one upload that read first; each but the first publish puts all of its chunks again."""

_UNPROVED: Final = (NodeRemovedError, NodeReplacedError, NodeDrainingError, ChunkCondemnedError)
"""Refusals that say that what was acknowledged proves no durable chunk any more."""

_STALE: Final = (*_UNPROVED, BucketNotFoundError, BucketRecreatedError, InvalidRequestError)
"""Refusals that an attempt without a read of its own may owe to what was remembered: the start index of another cluster, which
its log has not reached, is an invalid request."""


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """See `GatewaySettings`."""

    chunk_size_bytes: int
    max_file_bytes: int
    window_chunks: int
    waits: ReservationWaits


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """What the client at address `client` asks for, checked; `announced_bytes` is its Content-Length, if it sent one."""

    name: FileName
    content_type: str
    user_metadata: dict[str, str]
    quorums: Quorums
    preconditions: Preconditions
    digests: BodyDigests
    announced_bytes: int | None
    client: str
    idempotency_key: IdempotencyKey | None = None


@dataclass(frozen=True, slots=True)
class UploadResult:
    """A published upload, or the stored result of a duplicate."""

    version: FileVersion
    is_created: bool
    log_index: int
    term: int


@dataclass(frozen=True, slots=True)
class _Start:
    """Where in the log an attempt begins: the incarnation of its bucket, an index that was applied, the node map then.

    `is_remembered`: from a read before this attempt. Otherwise the attempt read it itself.
    """

    incarnation: int
    log_index: int
    node_map: NodeMap
    is_remembered: bool = False


class Uploads:
    """All uploads of a gateway."""

    def __init__(
        self,
        *,
        metadata: Metadata,
        recent: RecentLog,
        idempotency: IdempotencyStore,
        directory: NodeDirectory,
        writer: ReplicaWriter,
        reader: ReplicaReader,
        admission: Admission,
        clock: Clock,
        limits: UploadLimits,
    ) -> None:
        self._metadata = metadata
        self._recent = recent
        self._idempotency = idempotency
        self._directory = directory
        self._writer = writer
        self._reader = reader
        self._admission = admission
        self._clock = clock
        self._limits = limits
        self._buffers = ReusedBuffers(bytearray, limits.chunk_size_bytes, max_buffers=MAX_BUFFERS)

    async def put(self, request: UploadRequest, body: AsyncIterable[bytes]) -> UploadResult:
        """Store `body` under its name. What a read can refuse is refused before `body` is touched, if there is a read.

        Returns when every chunk is fsynced on W nodes and the version on a majority of the consensus members. Under an
        Idempotency-Key that is known the body is only compared, and the first receipt is given again.

        Raises:
            TrivetError: typed; `definite` says whether the file certainly did not change.
        """
        self._check_size(request.announced_bytes or 0)
        size_bytes = request.announced_bytes
        is_large = size_bytes is None or size_bytes > SMALL_BYTES
        async with self._admission.transfer(request.client, is_large_upload=is_large) as transfer:
            if size_bytes is not None:
                transfer.size_known(size_bytes)
            with self._idempotency.running(request.idempotency_key):
                return await self._put(request, PacedBody(body, transfer), transfer)

    async def _put(self, request: UploadRequest, body: AsyncIterable[bytes], transfer: Transfer) -> UploadResult:
        # Before the preconditions: the first time may be the very reason why they no longer hold.
        key = request.idempotency_key
        if key is not None and (stored := await self._idempotency.stored_result(key)) is not None:
            return await self._answer_duplicate(request, key, stored, body)
        start = self._remembered_start(request) or await self._read_start(request)
        sender = _ChunkSender(self._writer, start, request.quorums, self._limits.window_chunks)
        try:
            await self._send(request, body, sender, transfer)
        except DigestMismatchError:
            # A bucket that does not exist is told first, as to all other uploads.
            if start.is_remembered:
                await self._open_bucket(request)
            raise
        except (QuorumNotReachedError, DiskFullError):
            if not start.is_remembered:
                raise
            # Only a read may refuse: the bucket may be gone, or other nodes be there by now.
            self._recent.forget(request.name.bucket)
            now = await self._read_start(request)
            if sender.kept is None or now.node_map.epoch == start.node_map.epoch:
                raise
            sender = await self._send_again(request, sender, transfer)
        return await self._publish_until_decided(request, sender, transfer)

    async def _answer_duplicate(
        self, request: UploadRequest, key: IdempotencyKey, stored: StoredResult, body: AsyncIterable[bytes]
    ) -> UploadResult:
        """Hash `body` to compare it, store nothing of it, and give the stored result."""
        hasher = blake3()
        size_bytes = 0
        async for piece in body:
            size_bytes += len(piece)
            self._check_size(size_bytes)
            hasher.update(piece)
            request.digests.update(piece)
        request.digests.check()
        key.check(stored.fingerprint, hasher.hexdigest())
        return _result_of(stored.replay(PublishFile))

    def _remembered_start(self, request: UploadRequest) -> _Start | None:
        """A start without a read, for what is wholly in memory and needs nothing decided early. It never refuses."""
        size_bytes = request.announced_bytes
        if (
            size_bytes is None
            or size_bytes > self._limits.chunk_size_bytes
            or request.preconditions != UNCONDITIONAL
            or request.idempotency_key is not None
            or (position := self._recent.position(request.name.bucket)) is None
            or (node_map := self._directory.known(position.epoch)) is None
            or _usable_nodes(node_map) < request.quorums.write_quorum
        ):
            return None
        return _Start(position.incarnation, position.log_index, node_map, is_remembered=True)

    async def _read_start(self, request: UploadRequest) -> _Start:
        """A start as of now; early refusals are decided here."""
        incarnation, context = await self._open_bucket(request)
        node_map = await self._directory.at(context.epoch)
        require_enough_nodes(_usable_nodes(node_map), request.quorums)
        return _Start(incarnation, context.log_index, node_map)

    async def _open_bucket(self, request: UploadRequest) -> tuple[int, ReadContext]:
        """The bucket's incarnation, and where in the log it was read."""
        name = request.name
        if request.preconditions == UNCONDITIONAL:
            # The file itself is not asked for: its list of chunks may be megabytes.
            bucket_answer, context = await self._metadata.read(GetBucket(bucket=name.bucket))
            if bucket_answer.bucket is not None:
                return bucket_answer.bucket.incarnation, context
        answer, context = await self._metadata.read(GetFile(bucket=name.bucket, key=name.key))
        if not answer.has_bucket:
            raise BucketNotFoundError("There is no such bucket.", bucket=name.bucket, version=answer.version)
        check_write(request.preconditions, Present.of(answer))
        return answer.incarnation, context

    async def _send(
        self, request: UploadRequest, body: AsyncIterable[bytes], sender: _ChunkSender, transfer: Transfer
    ) -> None:
        chunks = cut(body, buffers=self._buffers, transfer=transfer, waits=self._limits.waits)
        try:
            async with aclosing(chunks):
                async for chunk, lease in chunks:
                    request.digests.update(chunk.data)
                    # One chunk as long as was announced is the file, and its digest is the file's.
                    await sender.add(chunk, lease, is_whole_file=len(chunk.data) == request.announced_bytes)
                    self._check_size(sender.size_bytes)
            _check_length(request, sender)
            request.digests.check()
            await sender.finish()
        except BaseException:
            sender.abandon()
            raise

    async def _publish_until_decided(
        self, request: UploadRequest, sender: _ChunkSender, transfer: Transfer
    ) -> UploadResult:
        """Publish; put everything again and publish anew while what was acknowledged counts no more.

        Every attempt is a proposal of its own, and begins after the refusal of the one before was read from the log.
        """
        attempts_left = MAX_ATTEMPTS + sender.start.is_remembered
        while True:
            attempts_left -= 1
            try:
                return await self._publish(request, sender)
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
                self._recent.forget(request.name.bucket)
            sender = await self._send_again(request, sender, transfer)

    async def _send_again(self, request: UploadRequest, sender: _ChunkSender, transfer: Transfer) -> _ChunkSender:
        """Put the chunks of `sender` again with a start that is read now: from memory, or from replicas that verify.

        Raises:
            DataUnavailableError, QuorumNotReachedError, OverloadedError: a chunk could not be proved; definite.
            TrivetError: as the read at the beginning of an upload.
        """
        start = await self._read_start(request)
        if not sender.start.is_remembered:
            # The client was promised the bucket that was there when its upload began.
            start = replace(start, incarnation=sender.start.incarnation)
        again = sender.begin_anew(start)
        try:
            for digest, size_bytes in sender.distinct_chunks(self._limits.chunk_size_bytes):
                lease = transfer.lease()
                try:
                    await transfer.grow(lease, size_bytes, wait_s=self._limits.waits.next_s)
                    chunk = sender.kept or await self._fetch(digest, size_bytes, start.node_map)
                except BaseException:
                    lease.release()
                    raise
                await again.send(chunk, lease)
            await again.finish()
        except BaseException:
            again.abandon()
            raise
        return again

    async def _fetch(self, digest: str, size_bytes: int, node_map: NodeMap) -> FileChunk:
        found = await self._reader.fetch(digest, size_bytes, read_order(digest, node_map))
        return FileChunk(digest, found.data)

    async def _publish(self, request: UploadRequest, sender: _ChunkSender) -> UploadResult:
        digest = sender.digest
        tallies = [write.tally for write in sender.writes.values()]
        content = FileContent(
            size_bytes=sender.size_bytes,
            chunk_size_bytes=self._limits.chunk_size_bytes,
            chunk_digests=bytes(sender.chunk_digests),
            digest=digest,
        )
        outcome = await self._idempotency.propose(
            PublishFile(
                bucket=request.name.bucket,
                incarnation=sender.start.incarnation,
                key=request.name.key,
                content=content,
                content_type=request.content_type,
                user_metadata=request.user_metadata,
                etag=etag_of(digest, request.content_type, request.user_metadata),
                start_index=sender.start.log_index,
                epoch=sender.start.node_map.epoch,
                durability=durability(tallies, request.quorums.replica_count),
                fences=fences(tallies),
                preconditions=request.preconditions,
                stamp=self._clock.stamp(),
            ),
            request.idempotency_key,
            body_digest=digest,
        )
        uploaded = _result_of(outcome)
        self._clock.receive(uploaded.version.stamp.hlc)
        return uploaded

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._limits.max_file_bytes:
            raise PayloadTooLargeError(
                "The file is larger than this cluster takes.", limit_bytes=self._limits.max_file_bytes
            )


def _check_length(request: UploadRequest, sender: _ChunkSender) -> None:
    if request.announced_bytes is not None and request.announced_bytes != sender.size_bytes:
        raise InternalError("The body was not as long as announced, and the server let it pass.", definite=True)


def _usable_nodes(node_map: NodeMap) -> int:
    return sum(can_take_chunks(node) for node in node_map.nodes)


class _ChunkSender:
    """The chunks of one attempt of an upload. Equal chunks of a file are sent once.

    Invariant: at most `window` chunks are being sent without having met their quorum.
    Invariant: `writes` are those of this attempt.
    """

    def __init__(self, writer: ReplicaWriter, start: _Start, quorums: Quorums, window: int) -> None:
        self._writer = writer
        self._quorums = quorums
        self._window = window
        self._pending: deque[ChunkWrite] = deque()
        self.start = start
        self.writes: dict[str, ChunkWrite] = {}
        self.chunk_digests = bytearray()
        self.size_bytes = 0
        self.hasher = blake3()
        self.only_digest: str | None = None
        self.kept: FileChunk | None = None
        """The whole file, if the attempt may be stale and it is so small that its request has room for it."""

    @property
    def digest(self) -> str:
        """BLAKE3 of the file as far as it has been added."""
        return self.hasher.hexdigest() if self.only_digest is None else self.only_digest

    async def add(self, chunk: FileChunk, lease: ByteLease, *, is_whole_file: bool = False) -> None:
        """Send `chunk`, after waiting for room in the window. Raises when an earlier chunk missed its quorum."""
        self.chunk_digests += bytes.fromhex(chunk.digest)
        self.size_bytes += len(chunk.data)
        if is_whole_file:
            self.only_digest = chunk.digest
            if self.start.is_remembered and len(chunk.data) <= FIRST_RESERVATION_BYTES:
                self.kept = chunk
        else:
            self.hasher.update(chunk.data)
        if chunk.digest in self.writes:
            lease.release()
            return
        await self.send(chunk, lease)

    async def send(self, chunk: FileChunk, lease: ByteLease) -> None:
        """Send `chunk`, which is part of the file already; takes over `lease`. Raises as `add`."""
        try:
            while len(self._pending) >= self._window:
                await self._pending[0].wait_until_quorum()
                self._pending.popleft()
        except BaseException:
            lease.release()
            raise
        order = write_order(chunk.digest, self.start.node_map)
        write = await self._writer.start(chunk, lease, order, self._quorums, self.start.log_index)
        self.writes[chunk.digest] = write
        self._pending.append(write)

    def begin_anew(self, start: _Start) -> Self:
        """A sender of the same file that has sent nothing yet."""
        again = type(self)(self._writer, start, self._quorums, self._window)
        again.chunk_digests, again.size_bytes = self.chunk_digests, self.size_bytes
        again.hasher, again.only_digest = self.hasher, self.only_digest
        return again

    def distinct_chunks(self, chunk_size_bytes: int) -> Iterator[tuple[str, int]]:
        """Digest and size in bytes of every chunk of the file, each once."""
        seen: set[str] = set()
        for start in range(0, len(self.chunk_digests), DIGEST_BYTES):
            digest = self.chunk_digests[start : start + DIGEST_BYTES].hex()
            if digest not in seen:
                seen.add(digest)
                at_bytes = start // DIGEST_BYTES * chunk_size_bytes
                yield digest, min(chunk_size_bytes, self.size_bytes - at_bytes)

    async def finish(self) -> None:
        """Wait until every chunk has met its write quorum."""
        while self._pending:
            await self._pending[0].wait_until_quorum()
            self._pending.popleft()

    def abandon(self) -> None:
        """Stop sending the chunks that have not met their quorum."""
        for write in self._pending:
            write.abandon()


def _result_of(outcome: Proposed[Published]) -> UploadResult:
    return UploadResult(
        version=outcome.result.version,
        is_created=outcome.result.created,
        log_index=outcome.log_index,
        term=outcome.term,
    )
