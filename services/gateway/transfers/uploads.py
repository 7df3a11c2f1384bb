"""One upload: learn where the log stands, send the chunks in parallel windows, publish one log entry.

Nothing is visible before the entry is applied, so an upload that breaks off at any step leaves the old version as it was;
its chunks are garbage that the cluster collects. What becomes of a publish that is refused is `publishing`.

A body that is announced to be one chunk at most, without conditions and Idempotency-Key, begins with what an earlier read of
this gateway said (`recent_log`). What is stale then shows when the publish is refused: the next attempt reads first.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from blake3 import blake3

from services.gateway.ports import Clock, Metadata
from services.gateway.replicas.node_directory import NodeDirectory
from services.gateway.replicas.quorum import Quorums, durability, fences, require_enough_nodes
from services.gateway.semantics.body_digests import Digests
from services.gateway.semantics.conditions import UNCONDITIONAL, ConditionTarget
from services.gateway.semantics.raw_names import FileName
from services.gateway.settings import MAX_CHUNKS_PER_LOG_ENTRY
from services.gateway.transfers.admission import SMALL_BYTES, Admission, Client, Transfer
from services.gateway.transfers.chunk_sender import ChunkSender, Start, usable_nodes
from services.gateway.transfers.chunking import PacedBody
from services.gateway.transfers.idempotency import IdempotencyKey, IdempotencyStore, StoredResult
from services.gateway.transfers.large_uploads import SEAL_CHUNKS, LargeUpload, LargeUploads
from services.gateway.transfers.publishing import Publication, Publisher, ReceivedBody
from services.gateway.transfers.quota_checks import QuotaChecks
from services.gateway.transfers.recent_log import RecentLog
from shared.consensus_calls.client import ReadContext
from shared.contracts.calls import Proposed
from shared.contracts.conditions import check_preconditions
from shared.contracts.etags import etag_of
from shared.contracts.files import FileVersion, Preconditions, Published
from shared.contracts.metadata import GetBucket, GetFile, PublishFile
from shared.contracts.s3 import S3Attributes
from shared.errors import (
    BucketNotFoundError,
    DigestMismatchError,
    DiskFullError,
    InvalidRequestError,
    PayloadTooLargeError,
    QuorumNotReachedError,
    UpgradeUnfinishedError,
)


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """See `GatewaySettings`. `seal_age_s`: what is sent is logged at that age at the latest; half of the grace."""

    chunk_size_bytes: int
    max_file_bytes: int
    seal_age_s: float


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """What the client `client` asks for, checked.

    Attributes:
        announced_bytes: its Content-Length, if it sent one.
        s3: what only S3 shows of the version; asked when the body was whole and `digests` were compared.
    """

    name: FileName
    content_type: str
    user_metadata: dict[str, str]
    quorums: Quorums
    preconditions: Preconditions
    digests: Digests
    announced_bytes: int | None
    client: Client
    idempotency_key: IdempotencyKey | None = None
    tags: dict[str, str] | None = None
    s3: Callable[[], S3Attributes] | None = None

    def s3_attributes(self) -> S3Attributes | None:
        """See `s3`."""
        return None if self.s3 is None else self.s3()


@dataclass(frozen=True, slots=True)
class UploadResult:
    """A published upload, or the stored result of a duplicate."""

    version: FileVersion
    is_created: bool
    log_index: int
    term: int


class Uploads:
    """All uploads of a gateway."""

    def __init__(
        self,
        *,
        metadata: Metadata,
        recent: RecentLog,
        idempotency: IdempotencyStore,
        directory: NodeDirectory,
        publisher: Publisher,
        large_uploads: LargeUploads,
        quotas: QuotaChecks,
        admission: Admission,
        clock: Clock,
        limits: UploadLimits,
    ) -> None:
        self._metadata = metadata
        self._recent = recent
        self._idempotency = idempotency
        self._directory = directory
        self._publisher = publisher
        self._large_uploads = large_uploads
        self._quotas = quotas
        self._admission = admission
        self._clock = clock
        self._limits = limits

    async def put(self, request: UploadRequest, body: AsyncIterable[bytes]) -> UploadResult:
        """Store `body` under its name. What a read can refuse is refused before `body` is touched, if there is a read.

        Returns when every chunk is fsynced on W nodes and the version on a majority of the consensus members. Under an
        Idempotency-Key that is known the first receipt is given again, where the body is the same.

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
        key, start = request.idempotency_key, self._remembered_start(request)
        # Before the preconditions: the first time may be the very reason why they no longer hold. What needs no read to begin
        # with needs none for this either: the log knows its key, and gives the first result.
        if start is None and key is not None and (stored := await self._idempotency.stored_result(key)) is not None:
            return await self._answer_duplicate(request, key, stored, body)
        file = _FilePublication(
            request,
            metadata=self._metadata,
            directory=self._directory,
            publisher=self._publisher,
            idempotency=self._idempotency,
            clock=self._clock,
        )
        start = start or await file.read_start()
        if (size_bytes := request.announced_bytes or 0) > self._limits.chunk_size_bytes:
            await self._quotas.check_file(request.name, size_bytes, request.client.owner)
        sending = _Sending(file, self._publisher.sender(start, request.quorums))
        try:
            await self._send(sending, body, transfer)
            if sending.large is not None:
                return await self._complete(sending, sending.large, transfer)
        except DigestMismatchError:
            # A bucket that does not exist is told first, as to all other uploads.
            if start.is_remembered:
                await file.open_bucket()
            raise
        except (QuorumNotReachedError, DiskFullError):
            if not start.is_remembered:
                raise
            # Only a read may refuse: it may have been done before, the bucket may be gone, or other nodes be there by now.
            if key is not None and (stored := await self._idempotency.stored_result(key)) is not None:
                # All of it has come: a body of one chunk is sent when it is whole.
                key.check(stored.fingerprint, file.received.digest)
                return result_of(stored.replay(PublishFile))
            self._recent.forget(request.name.bucket)
            now = await file.read_start()
            if sending.sender.kept is None or now.node_map.epoch == start.node_map.epoch:
                raise
            sending.sender = await self._publisher.send_again(file, sending.sender, transfer)
        finally:
            if sending.large is not None:
                sending.large.close()
        return await self._publisher.until_decided(file, sending.sender, transfer)

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
            if request.digests.is_behind:
                await request.digests.catch_up()
        request.digests.check()
        key.check(stored.fingerprint, hasher.hexdigest())
        return result_of(stored.replay(PublishFile))

    def _remembered_start(self, request: UploadRequest) -> Start | None:
        """A start without a read, for what is wholly in memory and needs nothing decided early. It never refuses."""
        size_bytes = request.announced_bytes
        if (
            size_bytes is None
            or size_bytes > self._limits.chunk_size_bytes
            or request.preconditions != UNCONDITIONAL
            or (position := self._recent.position(request.name.bucket)) is None
            or (node_map := self._directory.known(position.epoch)) is None
        ):
            return None
        return Start(position.incarnation, position.log_index, node_map, is_remembered=True)

    async def _send(self, sending: _Sending, body: AsyncIterable[bytes], transfer: Transfer) -> None:
        received = sending.file.received
        chunks = self._publisher.cut(body, transfer)
        try:
            async with aclosing(chunks):
                async for held in chunks:
                    with held as chunk:
                        if self._is_due(sending):
                            await self._seal(sending, transfer)
                        await received.catch_up()
                        is_whole_file = received.add(chunk)
                        await sending.sender.add(held, is_whole_file=is_whole_file)
                    self._check_size(received.size_bytes)
                    _check_list(sending)
            await received.catch_up()
            received.check()
            await sending.sender.finish()
        except BaseException:
            sending.sender.abandon()
            raise

    def _is_due(self, sending: _Sending) -> bool:
        """Whether what was sent is to be logged as a part before more is."""
        sender = sending.sender
        is_full = sender.chunk_count >= SEAL_CHUNKS
        is_old = sender.chunk_count > 0 and time.monotonic() - sender.began_s >= self._limits.seal_age_s
        return (is_full or is_old) and not sending.is_one_list

    async def _seal(self, sending: _Sending, transfer: Transfer) -> None:
        """Go on with a part of its own."""
        if sending.large is None:
            sending.large = await self._begin_large(sending)
        if sending.large is None:
            sending.is_one_list = True
            return
        await sending.large.seal(sending.sender, transfer)
        sending.sender = await sending.large.next_sender(sending.sender)

    async def _begin_large(self, sending: _Sending) -> LargeUpload | None:
        """None while some consensus member is of an older version, which knows no parts."""
        request = sending.file.request
        try:
            return await self._large_uploads.begin(
                request.name,
                sending.sender.start.incarnation,
                request.quorums,
                content_type=request.content_type,
                user_metadata=request.user_metadata,
                tags=request.tags or {},
            )
        except (UpgradeUnfinishedError, InvalidRequestError):
            return None

    async def _complete(self, sending: _Sending, large: LargeUpload, transfer: Transfer) -> UploadResult:
        request, digest = sending.file.request, sending.file.received.digest
        if sending.sender.chunk_count:
            await large.seal(sending.sender, transfer)
        outcome = await self._idempotency.propose(
            large.completion(digest, request.preconditions, request.s3_attributes()),
            request.idempotency_key,
            body_digest=digest,
        )
        uploaded = result_of(outcome)
        # Under its Idempotency-Key another attempt may have been first, with an upload of its own.
        if uploaded.version.content.composition == large.upload.upload:
            large.completed()
        self._clock.receive(uploaded.version.stamp.hlc)
        return uploaded

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._limits.max_file_bytes:
            raise PayloadTooLargeError(
                "The file is larger than this cluster takes.", limit_bytes=self._limits.max_file_bytes
            )


@dataclass(slots=True)
class _Sending:
    """A body on its way.

    Attributes:
        sender: of the chunks that are not logged yet.
        large: where the others are; None while there are none.
        is_one_list: all chunks have to go into one entry, however many there are.
    """

    file: _FilePublication
    sender: ChunkSender
    large: LargeUpload | None = None
    is_one_list: bool = False


def _check_list(sending: _Sending) -> None:
    if sending.is_one_list and sending.sender.chunk_count > MAX_CHUNKS_PER_LOG_ENTRY:
        raise PayloadTooLargeError("The file is larger than this cluster takes before all of it is upgraded.")


class _FilePublication(Publication[UploadResult]):
    """A body as the current version of its file."""

    def __init__(
        self,
        request: UploadRequest,
        *,
        metadata: Metadata,
        directory: NodeDirectory,
        publisher: Publisher,
        idempotency: IdempotencyStore,
        clock: Clock,
    ) -> None:
        self.request = request
        self.received = ReceivedBody(request.digests, request.announced_bytes)
        self._metadata = metadata
        self._directory = directory
        self._publisher = publisher
        self._idempotency = idempotency
        self._clock = clock

    @property
    def bucket(self) -> str:
        """See `Publication`."""
        return self.request.name.bucket

    async def read_start(self) -> Start:
        """A start as of now; early refusals are decided here."""
        incarnation, context = await self.open_bucket()
        node_map = await self._directory.at(context.epoch)
        require_enough_nodes(usable_nodes(node_map), self.request.quorums)
        return Start(incarnation, context.log_index, node_map)

    async def open_bucket(self) -> tuple[int, ReadContext]:
        """The bucket's incarnation, and where in the log it was read."""
        name, preconditions = self.request.name, self.request.preconditions
        if preconditions == UNCONDITIONAL:
            # The file itself is not asked for: its list of chunks may be megabytes.
            bucket_answer, context = await self._metadata.read(GetBucket(bucket=name.bucket))
            if bucket_answer.bucket is not None:
                return bucket_answer.bucket.incarnation, context
        answer, context = await self._metadata.read(GetFile(bucket=name.bucket, key=name.key))
        if not answer.has_bucket:
            raise BucketNotFoundError("There is no such bucket.", bucket=name.bucket, version=answer.version)
        check_preconditions(preconditions, ConditionTarget.of(answer.file), answer.version)
        return answer.incarnation, context

    async def propose(self, sender: ChunkSender) -> UploadResult:
        """See `Publication`."""
        request, digest = self.request, self.received.digest
        outcome = await self._idempotency.propose(
            PublishFile(
                bucket=request.name.bucket,
                incarnation=sender.start.incarnation,
                key=request.name.key,
                content=self._publisher.content_of(sender, digest),
                content_type=request.content_type,
                user_metadata=request.user_metadata,
                etag=etag_of(digest, request.content_type, request.user_metadata),
                start_index=sender.start.log_index,
                epoch=sender.start.node_map.epoch,
                durability=durability(sender.tallies, request.quorums.replica_count),
                fences=fences(sender.tallies),
                tags=request.tags,
                s3=request.s3_attributes(),
                preconditions=request.preconditions,
                stamp=self._clock.stamp(),
            ),
            request.idempotency_key,
            body_digest=digest,
        )
        uploaded = result_of(outcome)
        self._clock.receive(uploaded.version.stamp.hlc)
        return uploaded


def result_of(outcome: Proposed[Published]) -> UploadResult:
    """What was published."""
    return UploadResult(
        version=outcome.result.version,
        is_created=outcome.result.created,
        log_index=outcome.log_index,
        term=outcome.term,
    )
